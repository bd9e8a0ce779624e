"""From records to token ids: prompt and response tokenised apart and joined, so that a response's tokens are known.

A templated response is what the chat template adds after the generation prompt: role headers belong to the prompt,
the end-of-turn token to the response, the line break that some templates (ChatML) put after it to neither.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from coalign.core.errors import DataError, RecordProblem
from coalign.core.progress import progress
from coalign.data.frame import EncodingError, Frame, assert_without_pictures
from coalign.data.media.conversations import pictures_of, without_pictures
from coalign.data.prepared.batched import encoded_batches
from coalign.data.records import (
    Feedback,
    Judgment,
    Messages,
    Preference,
    PromptRecord,
    Ranking,
    Record,
    responses_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from coalign.data.media.prompts import PicturePrompt


@dataclass(frozen=True)
class EncodedRecord:
    """A record as token ids.

    Attributes:
        record_index: its position in the records that were given.
        prompt_ids: the prompt, generation prompt included.
        response_ids: each response, end-of-turn token included unless it was cut off.
        trained: for each response a mask over its tokens, false for what tools returned; None when every token counts.
        values: what the record says of each response (`ScoredBatch.values`): a ranking's scores, a preference's
            scores or 1 and 0, feedback's or a judgment's 1 or 0, NaN where nothing is said.
        truncated: the prompt or a response was cut.
        pictures: of the prompt, whose tokens stand for them; None where there is none.
    """

    record_index: int
    prompt_ids: list[int]
    response_ids: list[list[int]]
    trained: list[list[bool]] | None
    values: list[float]
    truncated: bool
    pictures: PicturePrompt | None = None

    @property
    def prompt_key(self) -> tuple[int | str, ...]:
        """What tells its prompt from others: tokens and pictures."""
        shown = self.pictures.pictures if self.pictures is not None else ()
        return (*self.prompt_ids, *(one.key for one in shown))


@dataclass(frozen=True)
class Encoded:
    """Records as token ids, and what had to be cut or left out for length.

    `dropped` names every record that is not in `records`: its prompt leaves no room for a response.
    """

    records: list[EncodedRecord]
    n_truncated_prompts: int = 0
    n_truncated_responses: int = 0
    dropped: list[RecordProblem] = field(default_factory=list)


@contextlib.contextmanager
def _as_data_error() -> Iterator[None]:
    try:
        yield
    except EncodingError as error:
        raise DataError(str(error)) from error


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, *, plain: bool = False
) -> list[int]:
    """Token ids of a prompt, ready for the response.

    With a chat template: the rendered messages and the generation prompt. `plain`: the contents joined as they are.
    Messages for a tokenizer without a template: the Anthropic HH form (`\\n\\nHuman: ...\\n\\nAssistant:`). The last
    two start with the BOS token if the tokenizer adds one. An empty prompt is BOS, or EOS where there is none.

    Raises:
        DataError: the template refuses the messages (no system role, roles that must alternate, ...), or they show
            pictures, which messages alone do not hold.
    """
    frame = Frame(tokenizer)
    with _as_data_error():
        assert_without_pictures(messages)
        return frame.ids(frame.prompt(messages, plain))


def encode_continued(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Token ids of messages whose last one is the assistant's and goes on: no end of turn, no generation prompt.

    Without a chat template the Anthropic HH form is used, as in `encode_prompt`.

    Raises:
        DataError: the template refuses the messages, or writes the start of an answer in another way than one that
            it asks for.
    """
    frame = Frame(tokenizer)
    with _as_data_error():
        assert_without_pictures(messages)
        return frame.ids(frame.continued(messages))


def encode_shown(
    tokenizer: PreTrainedTokenizerBase, messages: Messages
) -> tuple[list[int], PicturePrompt | None]:
    """Token ids of messages that hold pictures (`coalign.data.media.conversations.showing`), those of the pictures among
    them, and what the pixels are made of. A last message of the assistant goes on, as in `encode_continued`.

    Raises:
        DataError: as `encode_prompt`; a picture that cannot be decoded; a model or a template that takes none.
    """
    frame = Frame(tokenizer)
    record = PromptRecord(prompt=without_pictures(messages), pictures=pictures_of(messages))
    with _as_data_error():
        frame.assert_shown(record)
        goes_on = record.prompt[-1]["role"] == "assistant"
        text = frame.continued(record.prompt) if goes_on else frame.prompt(record.prompt, plain=False)
        return frame.ids_of(text, record)


def encode_response(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, response: str, *, plain: bool = False
) -> list[int]:
    """Token ids of a response to `messages`, to be put after `encode_prompt` of the same messages.

    Raises:
        DataError: the template refuses the messages, changes the prompt when the answer is added, or the tokenizer
            cannot keep prompt and response apart.
        ModelError: the tokenizer has no EOS token and needs one.
    """
    frame = Frame(tokenizer)
    with _as_data_error():
        assert_without_pictures(messages)
        prompt = frame.prompt(messages, plain)
        text = frame.response(messages, response, plain, prompt)
        return frame.response_ids(prompt, frame.ids(prompt), text)


def encode_records(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_prompt_length: int | None = None,
    max_length: int | None = None,
    plain: bool = False,
    label: str | None = None,
    pictures: bool = False,
) -> Encoded:
    """Encode records.

    Args:
        max_prompt_length: prompts are cut from the left to this many tokens (a leading BOS is kept). One with pictures is
            not cut, and its record dropped: the tokens of a picture cannot be a part of it.
        max_length: prompt and response together; responses are cut from the right. A response that is cut has no
            end-of-turn token. A record whose prompt leaves no room is dropped, and named.
        plain: records read from plain text are joined as they are although there is a chat template.
        label: show a progress bar under this name.
        pictures: the caller passes on the pictures of encoded records; otherwise records with pictures are refused, which
            would be read without them.

    Raises:
        DataError: records that this tokenizer or its chat template cannot encode, every one named.
        ModelError: the tokenizer has no end-of-turn or EOS token.
    """
    whole, problems, prompts, responses = Encoded([]), list[RecordProblem](), 0, 0
    batches = encode_batches(
        records,
        tokenizer,
        problems,
        max_prompt_length=max_prompt_length,
        max_length=max_length,
        plain=plain,
        pictures=pictures,
    )
    with progress(len(records), label, unit="record") if label else contextlib.nullcontext() as bar:
        for batch, part in batches:
            whole.records.extend(part.records)
            whole.dropped.extend(part.dropped)
            prompts += part.n_truncated_prompts
            responses += part.n_truncated_responses
            if bar is not None:
                bar.advance(len(batch))
    assert_encoded(problems, len(records))
    return replace(whole, n_truncated_prompts=prompts, n_truncated_responses=responses)


def encode_batches(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    problems: list[RecordProblem],
    *,
    max_prompt_length: int | None = None,
    max_length: int | None = None,
    plain: bool = False,
    pictures: bool = False,
    start: int = 0,
) -> Iterator[tuple[Sequence[Record], Encoded]]:
    """`encode_records`, which has the arguments, some records at a time.

    Args:
        problems: what is wrong with records that cannot be encoded is added to it; from then on nothing is encoded.
        start: the position of the first record among all, by which encoded records are numbered.

    Yields:
        records, and what they became: nothing once there are problems.

    Raises:
        ModelError: as `encode_records`.
    """
    for batch, made in encoded_batches(records, Frame(tokenizer), plain=plain, pictures=pictures):
        encoded: list[EncodedRecord] = []
        for place, (record, found) in enumerate(zip(batch, made, strict=True), start=start):
            if isinstance(found, EncodingError):
                problems.append(record.problem(found.field, found.problem, found.expected))
            else:
                prompt_ids, response_ids, trained, shown = found
                encoded.append(
                    EncodedRecord(place, prompt_ids, response_ids, trained, values_of(record), False, shown)
                )
        whole = Encoded([])
        if not problems:
            whole = shorten(encoded, batch, tokenizer.bos_token_id, max_prompt_length, max_length, start)
        yield batch, whole
        start += len(batch)


def assert_encoded(problems: Sequence[RecordProblem], count: int) -> None:
    """Refuse records that `encode_batches` could not encode, of so many.

    Raises:
        DataError: there are any.
    """
    if problems:
        raise DataError(
            f"{len(problems)} of {count} records cannot be encoded with this tokenizer.", problems
        )


def shorten(
    encoded: Sequence[EncodedRecord],
    records: Sequence[Record],
    bos_token_id: Any,
    max_prompt_length: int | None,
    max_length: int | None,
    start: int = 0,
) -> Encoded:
    """Cut encoded records to the given lengths (see `encode_records`), and count what that took.

    Args:
        records: of which `start` is the position of the first.
    """
    kept: list[EncodedRecord] = []
    dropped: list[RecordProblem] = []
    n_prompts = n_responses = 0
    for one in encoded:
        prompt_ids = _cut_left(one.prompt_ids, max_prompt_length, bos_token_id)
        if one.pictures is not None and len(prompt_ids) < len(one.prompt_ids):
            problem = f"{len(one.prompt_ids)} tokens, those of its pictures among them, which cannot be cut"
            expected = f"at most {max_prompt_length} (max_prompt_length)"
            dropped.append(records[one.record_index - start].problem("prompt", problem, expected))
            continue
        room = None if max_length is None else max_length - len(prompt_ids)
        if room is not None and (room < 0 or (room == 0 and one.response_ids)):
            problem = f"{len(prompt_ids)} tokens leave no room in max_length {max_length}"
            expected = "a shorter prompt, or max_prompt_length to cut it"
            dropped.append(records[one.record_index - start].problem("prompt", problem, expected))
            continue
        longest = max(map(len, one.response_ids), default=0)
        if len(prompt_ids) == len(one.prompt_ids) and (room is None or longest <= room):
            kept.append(one)
            continue
        response_ids = [ids[:room] for ids in one.response_ids]
        n_cut = sum(len(short) < len(ids) for short, ids in zip(response_ids, one.response_ids, strict=True))
        cut_prompt = len(prompt_ids) < len(one.prompt_ids)
        n_prompts += cut_prompt
        n_responses += n_cut
        kept.append(
            replace(
                one,
                prompt_ids=prompt_ids,
                response_ids=response_ids,
                trained=one.trained and [mask[:room] for mask in one.trained],
                truncated=cut_prompt or n_cut > 0,
            )
        )
    return Encoded(kept, n_prompts, n_responses, dropped)


def values_of(record: Record) -> list[float]:
    """What a record says of each of its responses (see `EncodedRecord.values`)."""
    match record:
        case Ranking():
            return list(record.scores)
        case Preference():
            if record.chosen_score is None or record.rejected_score is None:
                return [1.0, 0.0]
            return [record.chosen_score, record.rejected_score]
        case Feedback() | Judgment(label=bool()):
            return [float(bool(record.label))]
        case _:
            return [math.nan] * len(responses_of(record))


def _cut_left(ids: list[int], length: int | None, bos: Any) -> list[int]:
    if length is None or len(ids) <= length:
        return ids
    if bos is not None and ids[0] == bos and length > 1:
        return [bos, *ids[len(ids) - length + 1 :]]
    return ids[len(ids) - length :]
