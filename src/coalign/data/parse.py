"""One row of a file as a record, or as everything that is wrong with it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

from coalign.core.errors import RecordProblem
from coalign.data.columns import RESPONSE_SCORE, RESPONSE_TEXT, Layout
from coalign.data.messages import (
    FieldError,
    are_messages,
    check_prompt,
    describe,
    from_text,
    is_dialogue,
    is_transcript,
    parse_messages,
    parse_text,
    parse_transcript,
    reply_of,
    split_pair,
    split_reply,
    split_shared_text,
)
from coalign.data.records import (
    Demonstration,
    Feedback,
    Judgment,
    Messages,
    Preference,
    PromptRecord,
    Ranking,
    Record,
    Source,
)

_TRUE = frozenset(("true", "yes", "1"))
_FALSE = frozenset(("false", "no", "0"))

LARGEST = 1e30
"""Largest score. Losses are computed in 32 bits, which end at 3e38."""

T = TypeVar("T")


def parse_row(row: Mapping[str, Any], layout: Layout, source: Source) -> Record | list[RecordProblem]:
    """The record in `row`, or its problems (at least one)."""
    parser, record = _Parser(row, layout), None
    try:
        if layout.rewrite is not None:
            rest = {name: value for name, value in row.items() if name not in layout.claimed}
            parser.row = {**rest, **layout.rewrite(row)}
        record = parser.record(source)
    except FieldError as error:
        parser.errors.append(error)
    if record is not None and not parser.errors:
        return record
    return [
        RecordProblem(
            source.file, source.line, error.field or "row", error.problem, error.expected, source.index
        )
        for error in parser.errors
    ]


class _Parser:
    """Reads the parts of one row; what goes wrong with a part is noted, so that all of it is reported together."""

    def __init__(self, row: Mapping[str, Any], layout: Layout) -> None:
        self.row = row
        self.layout = layout
        self.errors: list[FieldError] = []

    def record(self, source: Source) -> Record | None:
        extra = {
            name: value
            for name, value in self.row.items()
            if name not in self.layout.claimed and value is not None
        }
        common: dict[str, Any] = {"source": source, "extra": extra, **self._template_arguments()}
        match self.layout.kind:
            case "preference":
                return self._preference(common)
            case "ranking":
                return self._ranking(common)
            case "prompt":
                return self._prompt_record(common)
            case kind:
                return self._completed(kind, common)

    def _template_arguments(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._value("tools"):
            found["tools"] = self._read("tools", _parse_tools)
        if self._value("template_kwargs"):
            found["template_kwargs"] = self._read("template_kwargs", _parse_mapping) or {}
        return found

    def _preference(self, common: dict[str, Any]) -> Record | None:
        pair = self._pair()
        scores = {
            part: self._read(part, _parse_score)
            for part in ("chosen_score", "rejected_score")
            if self._value(part) is not None
        }
        if pair is None:
            return None
        prompt, chosen, rejected, plain = pair
        return Preference(prompt=prompt, chosen=chosen, rejected=rejected, plain=plain, **scores, **common)

    def _pair(self) -> tuple[Messages, str, str, bool] | None:
        chosen, rejected = self._read("chosen", from_text), self._read("rejected", from_text)
        if isinstance(chosen, list | dict) and isinstance(rejected, list | dict):
            return self._message_pair(
                self._attempt("chosen", lambda: parse_messages(chosen)),
                self._attempt("rejected", lambda: parse_messages(rejected)),
            )
        has_prompt = self._has("prompt") or self._has("messages")
        if not has_prompt and is_dialogue(chosen) and is_dialogue(rejected):
            prompt, *replies = split_pair(parse_transcript(chosen), parse_transcript(rejected))
            return self._with_system(prompt), replies[0], replies[1], False
        texts = self._read("chosen", parse_text), self._read("rejected", _matching_text(chosen))
        given = self._prompt() if has_prompt else None
        if texts[0] is None or texts[1] is None or (has_prompt and given is None):
            return None
        if given is not None:
            return given[0], _reply_to(given[0], texts[0]), _reply_to(given[0], texts[1]), given[1]
        shared, *rests = split_shared_text(texts[0], texts[1])
        prompt = self._with_system(_user(shared))
        return prompt, rests[0], rests[1], len(prompt) == 1

    def _message_pair(
        self, chosen: Messages | None, rejected: Messages | None
    ) -> tuple[Messages, str, str, bool] | None:
        has_prompt = self._has("prompt") or self._has("messages")
        given = self._prompt() if has_prompt else None
        if chosen is None or rejected is None or (has_prompt and given is None):
            return None
        if given is not None and given[0]:
            chosen, rejected = (
                self._continued(given[0], one, part)
                for one, part in ((chosen, "chosen"), (rejected, "rejected"))
            )
        prompt, *replies = split_pair(chosen, rejected)
        return self._with_system(prompt), replies[0], replies[1], False

    def _continued(self, prompt: Messages, conversation: Messages, part: str) -> Messages:
        """The whole conversation: the prompt, and what `conversation` adds where the two overlap.

        Raises:
            FieldError: it neither goes on from the prompt nor is a reply to it.
        """
        if _is_reply(conversation):
            return [*prompt, *conversation]
        before = conversation[:-1]
        if any(before[at : at + len(prompt)] == prompt for at in range(len(before) - len(prompt) + 1)):
            return conversation
        overlap = next((n for n in range(len(before), 0, -1) if prompt[-n:] == before[:n]), 0)
        if not overlap:
            raise FieldError(
                "the conversation does not hold the prompt's last message",
                "a conversation that goes on from the prompt, or the reply alone",
                self.layout.columns[part],
            )
        return [*prompt, *conversation[overlap:]]

    def _ranking(self, common: dict[str, Any]) -> Record | None:
        given = self._prompt()
        responses = self._read("responses", self._parse_responses)
        scores = self._read(*self._score_part())
        if given is None or responses is None or scores is None:
            return None
        if len(scores) != len(responses):
            name = self.layout.columns.get("scores") or self.layout.columns.get("ranks")
            raise FieldError(f"{len(scores)} values for {len(responses)} responses", "one a response", name)
        if self.layout.scored_dicts and (rest := _other_fields(self._value("responses"))):
            common["extra"]["response_fields"] = rest
        return Ranking(
            prompt=given[0], responses=tuple(responses), scores=tuple(scores), plain=given[1], **common
        )

    def _score_part(self) -> tuple[str, Callable[[Any], list[float]]]:
        if self.layout.scored_dicts:
            return "responses", lambda value: [
                _dict_score(one, position) for position, one in enumerate(value)
            ]
        if self._has("scores"):
            return "scores", _parse_scores
        return "ranks", _parse_ranks

    def _parse_responses(self, value: Any) -> list[str]:
        if not isinstance(value, list | tuple):
            raise FieldError(describe(value), "a list of responses")
        if len(value) < 2:
            raise FieldError(f"{len(value)} response{'s' * (len(value) != 1)}", "at least 2")
        return [_each(position, _reply_text, one) for position, one in enumerate(value)]

    def _prompt_record(self, common: dict[str, Any]) -> Record | None:
        if self._has("chosen"):
            pair = self._pair()
            prompt, plain = (pair[0], pair[3]) if pair else (None, False)
        elif self._has("messages"):
            messages = self._read("messages", parse_messages)
            prompt, plain = (self._with_system(messages) if messages else None), False
            if prompt and prompt[-1]["role"] == "assistant":
                prompt = prompt[:-1]
            prompt = self._checked("messages", prompt)
        else:
            prompt, plain = self._prompt() or (None, False)
        if prompt is None:
            return None
        if not prompt:
            raise FieldError("empty", "text", self.layout.columns.get("prompt"))
        return PromptRecord(prompt=prompt, plain=plain, **common)

    def _completed(self, kind: str, common: dict[str, Any]) -> Record | None:
        """Demonstration, feedback or judgment: a prompt and one response."""
        split = self._prompt_and_completion()
        label = self._read("label", _parse_label) if self._value("label") is not None else None
        if kind == "feedback" and self._value("label") is None:
            self.errors.append(FieldError("missing", "true or false", self.layout.columns["label"]))
        judgment = self._judgment() if kind == "judgment" else None
        if split is None or self.errors:
            return None
        prompt, completion, plain = split
        common.update(prompt=prompt, completion=completion, plain=plain)
        if kind == "judgment" and judgment is not None:
            return Judgment(judgment=judgment, label=label, **common)
        if kind == "feedback" and label is not None:
            return Feedback(label=label, **common)
        return Demonstration(**common)

    def _judgment(self) -> str | None:
        """The judge's words; empty when the file has null there: the judge found nothing to say."""
        name = self.layout.columns["judgment"]
        return "" if name in self.row and self.row[name] is None else self._read("judgment", parse_text)

    def _prompt_and_completion(self) -> tuple[Messages, str, bool] | None:
        if self._has("text"):
            text = self._read("text", parse_text)
            return ([], text, True) if text is not None else None
        if self._has("messages"):
            split = self._read("messages", lambda value: split_reply(parse_messages(value)))
            if split:
                split = self._with_history(split[0]), split[1]
            return (self._with_system(split[0]), split[1], False) if split else None
        given = self._prompt()
        completion = self._read("completion", _reply_text)
        return (given[0], completion, given[1]) if given is not None and completion is not None else None

    def _prompt(self) -> tuple[Messages, bool] | None:
        """(messages, whether the file held plain text), from the prompt column and those that belong to it."""
        part = "prompt" if self._has("prompt") else "messages"
        value: Any = self._read(part, from_text) if self._value(part) is not None else None
        if isinstance(value, list | dict) or part == "messages":
            messages, plain = self._attempt(part, lambda: parse_messages(value)), False
        elif is_transcript(value):
            messages, plain = _without_cue(parse_transcript(value)), False
        else:
            text = self._read("prompt", lambda one: parse_text(one, allow_empty=one == ""))
            more = (
                self._read("input", lambda one: parse_text(one, allow_empty=True))
                if self._value("input")
                else None
            )
            if text is not None and more and more.strip():
                text = f"{text}\n\n{more}"
            # Instructions and questions are turns of a dialogue; `prompt` text is what the response goes on from.
            messages, plain = (
                (None if text is None else _user(text)),
                self.layout.columns["prompt"] in ("prompt", "query"),
            )
        if messages is None:
            return None
        messages = self._with_system(self._with_history(messages))
        messages = self._checked(part, messages)
        return (
            None if messages is None else (messages, plain and all(one["role"] == "user" for one in messages))
        )

    def _with_history(self, messages: Messages) -> Messages:
        """With the earlier turns of a `history` column: messages, or pairs of question and answer."""
        value = self._value("history")
        if not value:
            return messages
        return [*(self._read("history", _parse_history) or []), *messages]

    def _with_system(self, messages: Messages) -> Messages:
        if not self._value("system") or any(one["role"] == "system" for one in messages):
            return messages
        system = self._read("system", lambda value: parse_text(value, allow_empty=True))
        return [{"role": "system", "content": system}, *messages] if system and system.strip() else messages

    def _checked(self, part: str, messages: Messages | None) -> Messages | None:
        return None if messages is None else self._attempt(part, lambda: check_prompt(messages))

    def _has(self, part: str) -> bool:
        return part in self.layout.columns

    def _value(self, part: str) -> Any:
        return self.row.get(self.layout.columns[part]) if self._has(part) else None

    def _read(self, part: str, parse: Callable[[Any], T]) -> T | None:
        """The part, or None when it cannot be used; then its error is noted."""
        return self._attempt(part, lambda: parse(self._value(part)))

    def _attempt(self, part: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except FieldError as error:
            name = error.field or self.layout.columns[part] + (
                "" if error.position is None else f"[{error.position}]"
            )
            self.errors.append(FieldError(error.problem, error.expected, name))
            return None


def _parse_history(value: Any) -> Messages:
    value = from_text(value)
    pairs = isinstance(value, list) and all(isinstance(one, list | tuple) and len(one) == 2 for one in value)
    if not pairs:
        return parse_messages(value)
    roles = ("user", "assistant")
    return [
        {"role": role, "content": parse_text(text)}
        for pair in value
        for role, text in zip(roles, pair, strict=True)
    ]


def _parse_tools(value: Any) -> list[Any]:
    """Tools as templates take them: mappings, also as JSON text, singly or as a whole."""
    found = _from_json(value)
    if not isinstance(found, list) or not all(isinstance(_from_json(one), dict) for one in found):
        raise FieldError(describe(value), "a list of JSON schemas of functions")
    return [_from_json(one) for one in found]


def _parse_mapping(value: Any) -> dict[str, Any]:
    found = _from_json(value)
    if not isinstance(found, dict):
        raise FieldError(describe(value), "a mapping")
    return {name: one for name, one in found.items() if one is not None}


def _from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _reply_to(prompt: Messages, text: str) -> str:
    """A reply given as text beside a prompt column: without the cue of a transcript, or, where it is a transcript
    that holds the prompt, its last turn.
    """
    if not is_transcript(text):
        return text
    turns = parse_transcript(text)
    if len(turns) == 1:
        return turns[0]["content"]
    asked = [one["content"].strip() for one in prompt if one["role"] == "user"][-1:]
    before = [one["content"].strip() for one in turns[:-1] if one["role"] == "user"][-1:]
    return turns[-1]["content"] if asked == before and turns[-1]["role"] == "assistant" else text


def _user(text: str) -> Messages:
    return [{"role": "user", "content": text}] if text else []


def _is_reply(messages: Messages) -> bool:
    return all(one["role"] == "assistant" for one in messages)


def _without_cue(messages: Messages) -> Messages:
    """A transcript without the empty `Assistant:` that asks for the reply."""
    last = messages[-1]
    return messages[:-1] if last["role"] == "assistant" and not last["content"] else messages


def _matching_text(other: Any) -> Callable[[Any], str]:
    """Text, told apart from a rejected response that is merely in another form than the chosen one."""

    def parse(value: Any) -> str:
        if isinstance(value, list) and isinstance(other, str):
            raise FieldError("a list while chosen is text", "both as text or both as messages")
        return parse_text(value)

    return parse


def _reply_text(value: Any) -> str:
    """A response as text: a string, the assistant's message(s), a mapping that holds the text, or a list of one text."""
    value = from_text(value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return parse_text(value[0])
    if isinstance(value, list):
        messages = parse_messages(value)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise FieldError(
                f"{len(messages)} messages, last from the {messages[-1]['role']}",
                "one message of the assistant",
            )
        return reply_of(messages[0])
    if are_messages(value):
        return _reply_text([value])
    if isinstance(value, dict):
        name = next((one for one in RESPONSE_TEXT if one in value), None)
        if name is None:
            raise FieldError(
                f"a mapping with {', '.join(value) or 'nothing'}", f"one of: {', '.join(RESPONSE_TEXT)}"
            )
        return parse_text(value[name])
    return parse_text(value)


def _each(position: int, parse: Callable[[Any], T], value: Any) -> T:
    """`parse(value)`, an error of which names the position in the list."""
    try:
        return parse(value)
    except FieldError as error:
        raise FieldError(error.problem, error.expected, error.field, position) from error


def _dict_score(value: Any, position: int) -> float:
    name = next((one for one in RESPONSE_SCORE if isinstance(value, dict) and one in value), None)
    if name is None:
        return _each(position, lambda _: _parse_score(None), value)
    score = _each(position, _parse_score, value[name])
    return -score if name == "rank" else score


def _other_fields(responses: list[Any]) -> list[dict[str, Any]] | None:
    """What scored responses say besides text and score (`model`, ...), when they do."""
    rest = []
    for one in responses:
        used = {
            next((name for name in RESPONSE_TEXT if name in one), None),
            next((name for name in RESPONSE_SCORE if name in one), None),
        }
        rest.append({name: value for name, value in one.items() if name not in used})
    return rest if any(rest) else None


def _parse_scores(value: Any) -> list[float]:
    if not isinstance(value, list | tuple):
        raise FieldError(describe(value), "a list of numbers, one a response")
    return [_each(position, _parse_score, one) for position, one in enumerate(value)]


def _parse_ranks(value: Any) -> list[float]:
    return [-rank for rank in _parse_scores(value)]


def _parse_score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise FieldError(describe(value), "a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise FieldError(describe(value), "a number") from error
    if not math.isfinite(number):
        raise FieldError(f"not finite ({number})", "a finite number")
    if abs(number) > LARGEST:
        raise FieldError(f"too large ({number:g})", f"a number of at most {LARGEST:g} in size")
    return number


def _parse_label(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value in (0.0, 1.0):  # what pandas makes of a column with a gap
        return value == 1.0
    text = str(value).strip().lower() if isinstance(value, str | int) else ""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise FieldError(describe(value), "true or false (also 1 and 0, yes and no)")
