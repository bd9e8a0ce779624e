"""Many records as token ids: one call of the chat template and one of the tokenizer for all of them.

The ids, masks and errors are those of every record by itself (`encode_one`), to which whatever a batch does not show as
plain is left: pictures, tools, replies of several turns, a template that fails.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from coalign.data.frame import EncodingError, Frame
from coalign.data.media.conversations import MARK
from coalign.data.prepared.keeping import is_plain
from coalign.data.records import Messages, Record, message_of, responses_of

if TYPE_CHECKING:
    from coalign.data.media.prompts import PicturePrompt

BATCH = 1000
"""Records of a call: enough for the tokenizer's threads, a few MB of text."""
_ROLES = frozenset(("system", "user", "assistant"))

Ids = tuple[list[int], list[list[int]], list[list[bool]] | None, "PicturePrompt | None"]
"""Of a record: its prompt, its responses, a mask over each (None where all counts), its pictures."""
Texts = tuple[str, list[str]]


def encoded_batches(
    records: Iterable[Record], frame: Frame, *, plain: bool = False, pictures: bool = True
) -> Iterator[tuple[list[Record], list[Ids | EncodingError]]]:
    """Token ids of each record, or what is wrong with it, a batch at a time; while the tokenizer, which lets other threads
    go on, has one batch, the next is read and written by the chat template.

    Args:
        plain, pictures: as of `coalign.data.encoding.encode_records`.
    """
    source = iter(records)
    waiting: deque[tuple[list[Record], list[Texts | None], Future[dict[str, list[int]]]]] = deque()
    beside = is_plain(frame.tokenizer) and frame.processor is None
    if beside:
        _make_ready(frame.tokenizer)
    with ThreadPoolExecutor(1, "tokenizer") as pool:
        while batch := list(itertools.islice(source, BATCH)):
            texts = _texts(batch, frame, plain)
            flat = [text for one in texts if one for text in (one[0], *one[1])]
            waiting.append((batch, texts, pool.submit(_tokenised, flat, frame)))
            if not beside or len(waiting) > 1:
                yield _finished(*waiting.popleft(), frame, plain, pictures)
        while waiting:
            yield _finished(*waiting.popleft(), frame, plain, pictures)


def _finished(
    records: list[Record],
    texts: Sequence[Texts | None],
    tokenised: Future[dict[str, list[int]]],
    frame: Frame,
    plain: bool,
    pictures: bool,
) -> tuple[list[Record], list[Ids | EncodingError]]:
    ids = tokenised.result()
    pairs = [(one[0], text) for one in texts if one for text in one[1]]
    apart = iter(_apart(pairs, ids, frame))
    found: list[Ids | EncodingError] = []
    for record, one in zip(records, texts, strict=True):
        try:
            if one is None:
                if record.pictures and not pictures:
                    raise EncodingError("images", "pictures cannot be used here", "text and messages alone")
                found.append(encode_one(record, frame, plain))
                continue
            prompt, responses = one
            kept = [next(apart) for _ in responses]
            parts = [
                list(ids[text]) if same else frame.response_ids(prompt, ids[prompt], text)
                for text, same in zip(responses, kept, strict=True)
            ]
            found.append((list(ids[prompt]), parts, None, None))
        except EncodingError as error:
            found.append(error)
    return records, found


def encode_one(record: Record, frame: Frame, plain: bool) -> Ids:
    """Token ids of one record.

    Raises:
        EncodingError: this tokenizer or its chat template cannot write it.
    """
    prompt, responses = frame.segments(record, plain)
    bare = frame.ids(prompt)
    response_ids, masks = [], []
    for segments in responses:
        text, ids, mask = prompt, list(bare), []
        for piece, counts in segments:
            added = frame.response_ids(text, ids, piece)
            text, ids, mask = text + piece, ids + added, mask + [counts] * len(added)
        response_ids.append(ids[len(bare) :])
        masks.append(mask)
    trained = None if all(map(all, masks)) else masks
    if not record.pictures:
        return bare, response_ids, trained, None
    prompt_ids, pictures = frame.ids_of(prompt, record)
    return prompt_ids, response_ids, trained, pictures


def _texts(records: Sequence[Record], frame: Frame, plain: bool) -> list[Texts | None]:
    """Prompt and responses of each record as they are tokenised; None for one that is to be encoded by itself."""
    found: list[Texts | None] = [None] * len(records)
    rendered: list[int] = []
    for place, record in enumerate(records):
        if not _is_simple(record, frame):
            continue
        joined = not record.prompt or (record.plain and plain)
        if joined or not frame.tokenizer.chat_template or frame.heads_answers_only:
            found[place] = _by_itself(record, frame, plain)
        else:
            rendered.append(place)
    chosen = [records[place] for place in rendered]
    for place, texts in zip(rendered, _rendered(chosen, frame), strict=True):
        found[place] = texts if texts is not None else _by_itself(records[place], frame, plain)
    return found


def _is_simple(record: Record, frame: Frame) -> bool:
    """Whether a record is a prompt and responses of text alone, so that nothing of it could be left out unseen."""
    return (
        frame.processor is None
        and not record.pictures
        and not record.template_arguments
        and all(type(one) is str for one in responses_of(record))
        and all(
            one["role"] in _ROLES and "tool_calls" not in one and MARK not in one["content"]
            for one in record.prompt
        )
    )


def _by_itself(record: Record, frame: Frame, plain: bool) -> Texts | None:
    try:
        return frame.texts(record, plain)
    except EncodingError:
        return None  # raised again, and told, by `encode_one`


def _rendered(records: Sequence[Record], frame: Frame) -> list[Texts | None]:
    """What the chat template makes of records, asked once for all of them; None for a record of which it makes anything
    but the prompt and behind it the response.
    """
    wholes = [
        cast(Messages, [*one.prompt, message_of(reply)]) for one in records for reply in responses_of(one)
    ]
    try:
        prompts = _render([one.prompt for one in records], frame, generation_prompt=True)
        answered = iter(_render(wholes, frame, generation_prompt=False))
        after, kept = frame.turn_end
    except Exception:  # a template is a program; `Frame.render` says of which record
        return [None] * len(records)
    found: list[Texts | None] = []
    for record, prompt in zip(records, prompts, strict=True):
        replies = responses_of(record)
        texts = [next(answered) for _ in replies]
        if all(text.startswith(prompt) for text in texts):
            added = [text[len(prompt) :] for text in texts]
            if all(reply.strip() in text for reply, text in zip(replies, added, strict=True)):
                found.append((prompt, [text.removesuffix(after) + kept for text in added]))
                continue
        found.append(None)
    return found


def _render(conversations: Sequence[Messages], frame: Frame, *, generation_prompt: bool) -> list[str]:
    if not conversations:
        return []
    made: Any = frame.tokenizer.apply_chat_template(
        cast(Any, conversations), tokenize=False, add_generation_prompt=generation_prompt
    )
    return made


def _tokenised(texts: Iterable[str], frame: Frame) -> dict[str, list[int]]:
    """Each text and its tokens, without special tokens that it does not hold."""
    different = list(dict.fromkeys(texts))
    tokenizer: Any = frame.tokenizer
    if not different:
        return {}
    if not is_plain(tokenizer):
        return {one: frame.ids(one) for one in different}
    # As the tokenizer's own call does, which spends a third of its time on masks and offsets.
    _make_ready(tokenizer)
    made = tokenizer.backend_tokenizer.encode_batch_fast(different, add_special_tokens=False)
    return {text: one.ids for text, one in zip(different, made, strict=True)}


def _apart(pairs: Sequence[tuple[str, str]], ids: dict[str, list[int]], frame: Frame) -> list[bool]:
    """For each prompt and response whether their tokens, one after the other, decode to both texts."""
    lost, tokenizer = frame.lost_characters, cast(Any, frame.tokenizer)
    same = [lost is not None and not lost.search(prompt) and not lost.search(text) for prompt, text in pairs]
    asked = [place for place, kept in enumerate(same) if not kept]
    joined = [ids[pairs[place][0]] + ids[pairs[place][1]] for place in asked]
    if is_plain(tokenizer):  # as the tokenizer's own call, which looks at every id
        decoded = tokenizer.backend_tokenizer.decode_batch(joined, skip_special_tokens=False)
    else:
        keep: Any = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        decoded = [tokenizer.decode(one, **keep) for one in joined]
    for place, text in zip(asked, decoded, strict=True):
        same[place] = text == "".join(pairs[place])
    return same


def _make_ready(tokenizer: Any) -> None:
    """Neither truncation nor padding, as the tokenizer's own call has it without arguments; nothing is set that is so
    already, since another thread may be at work.
    """
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    if backend.encode_special_tokens != tokenizer.split_special_tokens:
        backend.encode_special_tokens = tokenizer.split_special_tokens
