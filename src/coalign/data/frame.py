"""The text around prompts and responses: chat template, BOS, end of turn; and its tokens, split where they meet."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from coalign.core.errors import ModelError
from coalign.data.media.conversations import MARK, content_parts
from coalign.data.media.errors import MediaError
from coalign.data.media.prompts import PicturePrompt, image_token, processor_of
from coalign.data.messages import render_transcript
from coalign.data.records import (
    Message,
    Messages,
    Record,
    Reply,
    fields_of,
    message_of,
    responses_of,
    steps_of,
)
from coalign.data.templates import template_failure
from coalign.data.tools.written import missing_call, missing_message, missing_tool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOTHING_MORE: Mapping[str, Any] = {}
Segment = tuple[str, bool]
"""A piece of a response, and whether it is the assistant's: what tools returned is not."""
TOOLS_WANTED = "a template that writes tools, or --chat-template tools, which puts a place for them before it"
CALLS_WANTED = "a template that writes tool calls and what they return, or --chat-template tools"
_OPENED = re.compile(r"<think(?:ing)?>\s*$")
_ANSWER = "coalign"  # stands for an answer, to see what a template puts after one


class EncodingError(ValueError):
    """What is wrong with one record under a tokenizer."""

    def __init__(self, field: str, problem: str, expected: str) -> None:
        super().__init__(f"{field}: {problem}, expected {expected}")
        self.field = field
        self.problem = problem
        self.expected = expected


class TemplateError(EncodingError):
    """What a chat template does with one record; another template may do better."""

    def __init__(self, field: str, problem: str, expected: str) -> None:
        advice = "" if "--chat-template" in expected else " (--chat-template takes one)"
        super().__init__(field, problem, expected + advice)


class Frame:
    """How a tokenizer wants prompts and responses written. Reads the tokenizer once; see `coalign.data.encoding`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def bos(self) -> str:
        """The BOS token when the tokenizer puts one before a text, else nothing."""
        if self.tokenizer.bos_token_id is None:
            return ""
        ids = cast("list[int]", self.tokenizer("a")["input_ids"])
        return str(self.tokenizer.bos_token) if ids and ids[0] == self.tokenizer.bos_token_id else ""

    @cached_property
    def lost_characters(self) -> re.Pattern[str] | None:
        """See `coalign.data.prepared.keeping.lost_characters`."""
        from coalign.data.prepared.keeping import lost_characters

        return lost_characters(self.tokenizer)

    @cached_property
    def eos(self) -> str:
        if not self.tokenizer.eos_token:
            raise ModelError(
                "The tokenizer has no EOS token.",
                hint="Set `eos_token` in the model's tokenizer_config.json.",
            )
        return str(self.tokenizer.eos_token)

    @cached_property
    def turn_end(self) -> tuple[str, str]:
        """(what the template puts after an answer, what of it is the response's).

        The response ends with the first special token: the line break after it (ChatML) or an end-of-text token
        (Phi-3) belongs to no turn. A template that ends a turn without a special token gets EOS.
        """
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
        after = self.render(cast(Messages, chat), generation_prompt=False).rpartition(_ANSWER)[2]
        added = {one.content for one in self.tokenizer.added_tokens_decoder.values() if one.special}
        special = added | {str(one) for one in self.tokenizer.all_special_tokens}
        ends = [(after.index(token), -len(token)) for token in special if token in after]
        if not ends:
            return after, after.rstrip() + self.eos
        start, length = min(ends)
        return after, after[: start - length]

    def texts(self, record: Record, plain: bool = False) -> tuple[str, list[str]]:
        """(prompt, responses) of a record, exactly as they are tokenised.

        Text without messages is joined as it is where there is no template, or when `plain` asks for it.

        Raises:
            EncodingError: the template refuses the messages, changes the prompt when the answer is added, or leaves out
                tools, calls or what they returned.
        """
        prompt, responses = self.segments(record, plain)
        return prompt, ["".join(text for text, _ in one) for one in responses]

    def segments(self, record: Record, plain: bool = False) -> tuple[str, list[list[Segment]]]:
        """`texts`, each response in pieces that alternate: what the assistant says, and what the template and tools put
        between two of its turns.
        """
        given = record.template_arguments
        self.assert_shown(record)
        plain = record.plain and not given and (plain or not self.tokenizer.chat_template)
        prompt = self.prompt(record.prompt, plain, given)
        self._assert_written(record, prompt, plain)
        replies = responses_of(record)
        try:
            return prompt, [self._segments(record.prompt, one, plain, prompt, given) for one in replies]
        except EncodingError:
            # Templates of reasoning models open a block of thought that they do not write back into an answer.
            closed = _OPENED.sub("", prompt)
            if closed == prompt:
                raise
            return closed, [self._segments(record.prompt, one, plain, closed, given) for one in replies]

    def _assert_written(self, record: Record, prompt: str, plain: bool) -> None:
        """Refuse a record whose tools, earlier calls or their results the prompt does not have."""
        given = record.template_arguments
        if record.tools and prompt == self.prompt(record.prompt, plain, record.template_kwargs):
            raise TemplateError("tools", "the chat template leaves them out", TOOLS_WANTED)
        missing = missing_tool(prompt, record.tools or ())
        if missing is not None:
            raise TemplateError("tools", f"the chat template leaves out {missing!r}", TOOLS_WANTED)
        for place, one in enumerate(record.prompt):
            if "tool_calls" in one:
                bare = self.prompt(_without_calls(record.prompt, place), plain, given)
                missing = missing_call(prompt, one["tool_calls"])
                if prompt == bare or missing is not None:
                    what = "the tool_calls" if prompt == bare else f"{missing!r} in the tool_calls"
                    problem = f"the chat template leaves out {what} of message {place + 1}"
                    raise TemplateError("prompt", problem, CALLS_WANTED)
        self._assert_observed(prompt, record.prompt)

    def _assert_observed(self, text: str, messages: Messages) -> None:
        place = missing_message(text, messages)
        if place is not None:
            problem = f"the chat template leaves out what a tool returned (message {place + 1})"
            raise TemplateError("prompt", problem, CALLS_WANTED)

    def _segments(
        self, messages: Messages, reply: str, plain: bool, prompt: str, given: Mapping[str, Any]
    ) -> list[Segment]:
        """A response in pieces; see `segments`."""
        found: list[Segment] = []
        steps, so_far = steps_of(reply), prompt
        for place, step in enumerate(steps):
            if step["role"] != "assistant":
                continue
            before = [*messages, *steps[:place]]
            said = Reply(step["content"], {key: step[key] for key in step if key not in ("role", "content")})
            text = self.response(before, said, plain, so_far, given)
            after = next((n for n in range(place + 1, len(steps)) if steps[n]["role"] == "assistant"), None)
            asked = self.prompt([*messages, *steps[:after]], plain, given)
            written = so_far + text
            if not asked.startswith(
                written
            ):  # a template that ends turns without a special token has no EOS there
                written = written.removesuffix(self.turn_end[1]) + self.turn_end[1].removesuffix(self.eos)
            if not asked.startswith(written):
                raise _rewritten(written, asked)
            between = asked[len(written) :]
            self._assert_observed(between, steps[place + 1 : after])
            found += [(text, True), (between, False)]
            so_far = asked
        last = Reply(reply, fields_of(reply)) if steps else reply
        return [*found, (self.response([*messages, *steps], last, plain, so_far, given), True)]

    def assert_shown(self, record: Record) -> None:
        """Refuse pictures that the model would not see, and places of pictures without one.

        Raises:
            EncodingError: it says which.
        """
        marks = sum(one["content"].count(MARK) for one in record.prompt)
        if record.pictures and self.processor is None:
            raise EncodingError(
                "images", "pictures for a model of text alone", "an image-text-to-text model, such as LLaVA"
            )
        if record.pictures and not self.tokenizer.chat_template:
            raise EncodingError(
                "images", "pictures need a chat template", "a model with one, or --chat-template"
            )
        if marks != len(record.pictures):
            raise EncodingError(
                "prompt", f"{len(record.pictures)} pictures for {marks} places", "as many of both"
            )
        token = image_token(self.processor) if self.processor is not None else None
        said = (*(one["content"] for one in record.prompt), *responses_of(record))
        if token is not None and any(token in one for one in said):
            raise EncodingError(
                "prompt", f"the text has {token} without a picture", "a picture for each place"
            )

    def ids_of(self, prompt: str, record: Record) -> tuple[list[int], PicturePrompt | None]:
        """Tokens of a prompt, its pictures included, and what its pixels are made of.

        Raises:
            EncodingError: a picture cannot be decoded.
        """
        if not record.pictures:
            return self.ids(prompt), None
        assert self.processor is not None
        try:
            made = PicturePrompt.encode(self.processor, prompt, record.pictures)
        except MediaError as error:
            raise EncodingError("images", f"{error.file}: {error.problem}", error.expected) from error
        shown = prompt.count(image_token(self.processor))
        if shown != len(record.pictures):
            problem = f"the chat template shows {shown} of {len(record.pictures)} pictures"
            raise TemplateError("images", problem, "a template that writes a place for each")
        return list(made.ids), made

    @cached_property
    def processor(self) -> Any | None:
        """Of an image-text-to-text model; its template takes messages in parts."""
        return processor_of(self.tokenizer)

    def prompt(self, messages: Messages, plain: bool, given: Mapping[str, Any] = NOTHING_MORE) -> str:
        """The text of a prompt. `given`: further arguments of the chat template (`tools`, ...)."""
        if plain or not messages:
            return self.bos + "".join(one["content"] for one in messages) or str(
                self.tokenizer.bos_token or self.eos
            )
        if not self.tokenizer.chat_template:
            _assert_text_alone(given, *messages)
            return self.bos + render_transcript(messages)
        text = self.render(messages, generation_prompt=True, given=given)
        return text + self._header(messages, text, given) if self.heads_answers_only else text

    @cached_property
    def knows_system(self) -> bool:
        """Whether what a system message says comes into the prompt; where it does not, `folded_system` helps."""
        chat = [{"role": "system", "content": _ANSWER}, {"role": "user", "content": "?"}]
        try:
            return _ANSWER in self.prompt(cast(Messages, chat), plain=False)
        except EncodingError:
            return False

    @cached_property
    def heads_answers_only(self) -> bool:
        """Whether the template has no generation prompt: what leads an answer is written with the answer alone."""
        chat = cast(Messages, [{"role": "user", "content": "?"}])
        try:
            return self.render(chat, generation_prompt=True) == self.render(chat, generation_prompt=False)
        except EncodingError:
            return False

    def _header(self, messages: Messages, prompt: str, given: Mapping[str, Any]) -> str:
        """What the template writes between a prompt and any answer to it, the space before the first word left to the
        answer, whose token has it. Nothing where that is white space alone (`[/INST]`), which is the answer's.
        """
        answers = (_ANSWER, f"<think>\n?\n</think>\n\n{_ANSWER}")
        try:
            added = [self._appended(messages, message_of(one), prompt, given) for one in answers]
        except EncodingError:  # told when a response is encoded
            return ""
        if _ANSWER not in added[0]:
            return ""
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*added, strict=False))
        shared = "".join(one for one, _ in same).partition(_ANSWER)[0]
        header = _OPENED.sub("", shared).rstrip(" ")
        return header if header.strip() else ""

    def continued(self, messages: Messages) -> str:
        """The text of messages whose last one, the assistant's, is to be continued: nothing after its content.

        White space that a template strips from the end of the content is put back.

        Raises:
            EncodingError: the template refuses the messages, or changes the prompt when the answer is added.
        """
        before, content = messages[:-1], messages[-1]["content"]
        if not self.tokenizer.chat_template:
            begun = f" {content}" if content else ""
            return self.bos + render_transcript(before) + begun
        if not content:
            return self.prompt(before, plain=False)
        prompt = self.prompt(before, plain=False) if before else ""
        full = self.render(messages, generation_prompt=False)
        if not full.startswith(prompt):
            raise _rewritten(prompt, full)
        text = full.removesuffix(self.turn_end[0])
        if text.endswith(content.rstrip()) and not text.endswith(content):
            text += content[len(content.rstrip()) :]
        return text

    def response(
        self,
        messages: Messages,
        response: str,
        plain: bool,
        prompt: str,
        given: Mapping[str, Any] = NOTHING_MORE,
    ) -> str:
        """The text of a response to `messages`, whose text is `prompt`.

        Raises:
            EncodingError: the template changes the prompt when the answer is added, or leaves out a part of the
                answer (its reasoning, its tool calls): what is missing would not be trained on.
        """
        bare = plain or not messages
        if bare or not self.tokenizer.chat_template:
            _assert_text_alone(given, message_of(response))
            return f"{'' if bare else ' '}{response}{self.eos}"
        text = self._appended(messages, message_of(response), prompt, given)
        opened = _OPENED.search(prompt)
        written = (opened.group() if opened else "") + text
        if _squeezed(response) not in _squeezed(written):
            left_out = _left_out(response, written)
            problem = f"the chat template leaves out a part of the answer ({left_out!r})"
            raise TemplateError("response", problem, "a template that writes the whole answer")
        for name in fields_of(response):
            rest = {key: value for key, value in fields_of(response).items() if key != name}
            if text == self._appended(messages, message_of(Reply(response, rest)), prompt, given):
                problem = "the chat template leaves it out of the answer"
                raise TemplateError(name, problem, "records without it, or a template that writes it")
        missing = missing_call(text, fields_of(response).get("tool_calls") or ())
        if missing is not None:
            problem = f"the chat template leaves out {missing!r} of the answer"
            raise TemplateError("tool_calls", problem, CALLS_WANTED)
        after, kept = self.turn_end
        return text.removesuffix(after) + kept

    def _appended(self, messages: Messages, reply: Message, prompt: str, given: Mapping[str, Any]) -> str:
        """What the template writes after the prompt when the reply is added."""
        full = self.render([*messages, reply], generation_prompt=False, given=given)
        if not full.startswith(prompt):
            raise _rewritten(prompt, full)
        return full[len(prompt) :]

    def render(
        self, messages: Messages, *, generation_prompt: bool, given: Mapping[str, Any] = NOTHING_MORE
    ) -> str:
        if self.processor is not None:
            messages = [cast(Message, {**one, "content": content_parts(one["content"])}) for one in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                cast(Any, messages), tokenize=False, add_generation_prompt=generation_prompt, **given
            )
        except Exception as error:  # a template is a program: it may fail in any way
            named = self.tokenizer.chat_template
            if isinstance(named, dict):
                raise ModelError(
                    f"The tokenizer has several chat templates ({', '.join(named)}) and no default.",
                    hint="Choose one: --chat-template NAME.",
                ) from error
            roles = ", ".join(one["role"] for one in messages)
            reason = template_failure(error, getattr(named, "origin", None))
            problem = f"the chat template refuses these messages ({reason})"
            raise TemplateError("prompt", problem, f"a template that takes the roles {roles}") from error
        return cast(str, text)

    def ids(self, text: str) -> list[int]:
        """Tokens of a text that holds its own special tokens: adding them again would double the BOS token."""
        return cast("list[int]", self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def response_ids(self, prompt: str, prompt_ids: list[int], text: str) -> list[int]:
        """Tokens of a response, such that prompt and response tokens together decode to the whole text.

        Raises:
            EncodingError: the tokenizer merges the end of the prompt with the start of the response.
        """
        ids = self.ids(text)
        joined = self._decode(prompt_ids + ids)
        full = prompt + text
        if joined == full:
            return ids
        # Some tokenizers put a space before every text they are given, others change characters: ask the whole text.
        fast = bool(self.tokenizer.is_fast)
        whole = self.tokenizer(full, add_special_tokens=False, verbose=False, return_offsets_mapping=fast)
        whole_ids = cast("list[int]", whole["input_ids"])
        if joined == self._decode(whole_ids):
            return ids
        offsets = cast("list[tuple[int, int]]", whole["offset_mapping"]) if fast else []
        first = next((row for row, (start, _) in enumerate(offsets) if start >= len(prompt)), None)
        if first is None or whole_ids[:first] != prompt_ids:
            problem = "the tokenizer merges its start with the end of the prompt"
            raise EncodingError("response", problem, "a token boundary between prompt and response")
        return whole_ids[first:]

    def _decode(self, ids: list[int]) -> str:
        return cast(
            str, self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )


def _without_calls(messages: Messages, place: int) -> Messages:
    bare = {key: value for key, value in messages[place].items() if key != "tool_calls"}
    return [*messages[:place], cast(Message, bare), *messages[place + 1 :]]


def _assert_text_alone(given: Mapping[str, Any], *messages: Message) -> None:
    """Refuse what only a chat template could write."""
    more = [*given, *(key for one in messages for key in one if key not in ("role", "content", "name"))]
    if more:
        raise EncodingError(
            more[0], "cannot be written without a chat template", "a model with one, or --chat-template"
        )


def _squeezed(text: str) -> str:
    """Without white space, which templates trim and add."""
    return "".join(text.split())


def _left_out(response: str, text: str) -> str:
    """The first piece of a response that is not in a text, for messages."""
    written = _squeezed(text)
    lines = [line.strip() for line in response.splitlines() if line.strip()]
    return next((line for line in lines if _squeezed(line) not in written), response.strip())[:40]


def _rewritten(prompt: str, full: str) -> EncodingError:
    pairs = enumerate(zip(full, prompt, strict=False))
    at = next((place for place, (one, other) in pairs if one != other), min(len(full), len(prompt)))
    return TemplateError(
        "prompt",
        "the chat template changes it when the answer is added "
        f"({prompt[at : at + 30]!r} becomes {full[at : at + 30]!r})",
        "a template that only appends, so that prompt and response can be told apart",
    )


def assert_without_pictures(messages: Messages) -> None:
    """Refuse messages of a record with pictures that come without them."""
    if any(MARK in one["content"] for one in messages):
        raise EncodingError("images", "pictures cannot be used here", "text and messages alone")
