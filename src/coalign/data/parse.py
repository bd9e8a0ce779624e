"""One row of a file as a record, or as everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from coalign.core.errors import RecordProblem
from coalign.data import messages as chat
from coalign.data import records as schema
from coalign.data import values as reading
from coalign.data.columns import PARTS, Layout, renamed
from coalign.data.media.conversations import take_pictures, with_pictures

T = TypeVar("T")


def parse_row(
    row: Mapping[str, Any], layout: Layout, source: schema.Source
) -> schema.Record | list[RecordProblem]:
    """The record in `row`, or its problems (at least one)."""
    displaced = {name: row[name] for name in layout.displaced if row.get(name) is not None}
    row = renamed(row, layout.mapping)
    parser, record = _Parser(row, layout), None
    try:
        if layout.rewrite is not None:
            rest = {name: value for name, value in row.items() if name not in layout.claimed}
            parser.row = {**rest, **layout.rewrite(row)}
        # also where most rows have none, so that the column is not among the layout's
        shown = layout.columns.get("images") or next((one for one in PARTS["images"] if row.get(one)), None)
        parser.row, taken = take_pictures(parser.row, shown)
        record = parser.record(source)
        if record is not None and taken:
            record = with_pictures(record, taken, source.folder)
    except chat.FieldError as error:
        parser.errors.append(error)
    if record is not None and not parser.errors:
        record.extra.update(displaced)
        return record
    return [
        source.problem(layout.in_file(error.field or "row"), error.problem, error.expected)
        for error in parser.errors
    ]


class _Parser:
    """Reads the parts of one row; what goes wrong with a part is noted, so that all of it is reported together."""

    def __init__(self, row: Mapping[str, Any], layout: Layout) -> None:
        self.row = row
        self.layout = layout
        self.errors: list[chat.FieldError] = []

    def record(self, source: schema.Source) -> schema.Record | None:
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
            found["tools"] = self._read("tools", reading.parse_tools)
        if self._value("template_kwargs"):
            found["template_kwargs"] = self._read("template_kwargs", reading.parse_mapping) or {}
        return found

    def _preference(self, common: dict[str, Any]) -> schema.Record | None:
        pair = self._pair()
        scores = {
            part: self._read(part, reading.parse_score)
            for part in ("chosen_score", "rejected_score")
            if self._value(part) is not None
        }
        if pair is None:
            return None
        prompt, chosen, rejected, plain = pair
        return schema.Preference(
            prompt=prompt, chosen=chosen, rejected=rejected, plain=plain, **scores, **common
        )

    def _pair(self) -> tuple[schema.Messages, str, str, bool] | None:
        chosen, rejected = self._read("chosen", chat.from_text), self._read("rejected", chat.from_text)
        if isinstance(chosen, list | dict) and isinstance(rejected, list | dict):
            return self._message_pair(
                self._attempt("chosen", lambda: chat.parse_messages(chosen)),
                self._attempt("rejected", lambda: chat.parse_messages(rejected)),
            )
        has_prompt = self._has("prompt") or self._has("messages")
        if not has_prompt and chat.is_dialogue(chosen) and chat.is_dialogue(rejected):
            prompt, *replies = chat.split_pair(chat.parse_transcript(chosen), chat.parse_transcript(rejected))
            return self._led(prompt), replies[0], replies[1], False
        texts = self._read("chosen", chat.parse_text), self._read("rejected", reading.matching_text(chosen))
        given = self._prompt() if has_prompt else None
        if texts[0] is None or texts[1] is None or (has_prompt and given is None):
            return None
        if given is not None:
            return (
                given[0],
                reading.reply_to(given[0], texts[0]),
                reading.reply_to(given[0], texts[1]),
                given[1],
            )
        shared, *rests = chat.split_shared_text(texts[0], texts[1])
        prompt = self._led(reading.user(shared))
        return prompt, rests[0], rests[1], len(prompt) == 1

    def _message_pair(
        self, chosen: schema.Messages | None, rejected: schema.Messages | None
    ) -> tuple[schema.Messages, str, str, bool] | None:
        has_prompt = self._has("prompt") or self._has("messages")
        given = self._prompt() if has_prompt else None
        if chosen is None or rejected is None or (has_prompt and given is None):
            return None
        if given is not None and given[0]:
            chosen, rejected = (
                self._continued(given[0], one, part)
                for one, part in ((chosen, "chosen"), (rejected, "rejected"))
            )
        prompt, *replies = chat.split_pair(chosen, rejected)
        return self._led(prompt) if given is None else prompt, replies[0], replies[1], False

    def _continued(
        self, prompt: schema.Messages, conversation: schema.Messages, part: str
    ) -> schema.Messages:
        """The whole conversation: the prompt, and what `conversation` adds where the two overlap.

        Raises:
            FieldError: it neither goes on from the prompt nor is a reply to it.
        """
        if reading.is_reply(conversation):
            return [*prompt, *conversation]
        before = conversation[:-1]
        if any(before[at : at + len(prompt)] == prompt for at in range(len(before) - len(prompt) + 1)):
            return conversation
        overlap = next((n for n in range(len(before), 0, -1) if prompt[-n:] == before[:n]), 0)
        if not overlap:
            raise chat.FieldError(
                "the conversation does not hold the prompt's last message",
                "a conversation that goes on from the prompt, or the reply alone",
                self.layout.columns[part],
            )
        return [*prompt, *conversation[overlap:]]

    def _ranking(self, common: dict[str, Any]) -> schema.Record | None:
        given = self._prompt()
        responses = self._read("responses", self._parse_responses)
        scores = self._read(*self._score_part())
        if given is None or responses is None or scores is None:
            return None
        if len(scores) != len(responses):
            name = self.layout.columns.get("scores") or self.layout.columns.get("ranks")
            raise chat.FieldError(
                f"{len(scores)} values for {len(responses)} responses", "one a response", name
            )
        if self.layout.scored_dicts and (rest := reading.other_fields(self._value("responses"))):
            common["extra"]["response_fields"] = rest
        return schema.Ranking(
            prompt=given[0],
            responses=tuple(responses),
            scores=tuple(scores),
            absolute=bool(common["extra"].pop("absolute", self._score_part()[0] != "ranks")),
            plain=given[1],
            **common,
        )

    def _score_part(self) -> tuple[str, Callable[[Any], list[float]]]:
        if self.layout.scored_dicts:
            return "responses", lambda value: [
                reading.dict_score(one, position) for position, one in enumerate(value)
            ]
        if self._has("scores"):
            return "scores", reading.parse_scores
        return "ranks", reading.parse_ranks

    def _parse_responses(self, value: Any) -> list[str]:
        if not isinstance(value, list | tuple):
            raise chat.FieldError(chat.describe(value), "a list of responses")
        if len(value) < 2:
            raise chat.FieldError(f"{len(value)} response{'s' * (len(value) != 1)}", "at least 2")
        return [reading.each(position, reading.reply_text, one) for position, one in enumerate(value)]

    def _prompt_record(self, common: dict[str, Any]) -> schema.Record | None:
        if self._has("chosen"):
            pair = self._pair()
            prompt, plain = (pair[0], pair[3]) if pair else (None, False)
        elif self._has("messages"):
            messages = self._read("messages", chat.parse_messages)
            prompt, plain = (self._led(messages) if messages else None), False
            if prompt and prompt[-1]["role"] == "assistant":
                prompt = prompt[:-1]
            prompt = self._checked("messages", prompt)
        else:
            prompt, plain = self._prompt() or (None, False)
        if prompt is None:
            return None
        if not prompt:
            raise chat.FieldError("empty", "text", self.layout.columns.get("prompt"))
        return schema.PromptRecord(prompt=prompt, plain=plain, **common)

    def _completed(self, kind: str, common: dict[str, Any]) -> schema.Record | None:
        """Demonstration, feedback or judgment: a prompt and one response."""
        split = self._prompt_and_completion()
        label = self._read("label", reading.parse_label) if self._value("label") is not None else None
        if kind == "feedback" and self._value("label") is None:
            self.errors.append(chat.FieldError("missing", "true or false", self.layout.columns["label"]))
        judgment = self._judgment() if kind == "judgment" else None
        if split is None or self.errors:
            return None
        prompt, completion, plain = split
        common.update(prompt=prompt, completion=completion, plain=plain)
        if kind == "judgment" and judgment is not None:
            return schema.Judgment(judgment=judgment, label=label, **common)
        if kind == "feedback" and label is not None:
            return schema.Feedback(label=label, **common)
        return schema.Demonstration(**common)

    def _judgment(self) -> str | None:
        """The judge's words; empty when the file has null there: the judge found nothing to say."""
        name = self.layout.columns["judgment"]
        return "" if name in self.row and self.row[name] is None else self._read("judgment", chat.parse_text)

    def _prompt_and_completion(self) -> tuple[schema.Messages, str, bool] | None:
        if self._has("text"):
            text = self._read("text", chat.parse_text)
            return ([], text, True) if text is not None else None
        if self._has("messages"):
            split = self._read("messages", lambda value: chat.split_reply(chat.parse_messages(value)))
            return (self._led(split[0]), split[1], False) if split else None
        given = self._prompt()
        completion = self._read("completion", reading.reply_text)
        return (given[0], completion, given[1]) if given is not None and completion is not None else None

    def _prompt(self) -> tuple[schema.Messages, bool] | None:
        """(messages, whether the file held plain text), from the prompt column and those that belong to it."""
        part = "prompt" if self._has("prompt") else "messages"
        value: Any = self._read(part, chat.from_text) if self._value(part) is not None else None
        if isinstance(value, list | dict) or part == "messages":
            messages, plain = self._attempt(part, lambda: chat.parse_messages(value)), False
        elif chat.is_transcript(value):
            messages, plain = reading.without_cue(chat.parse_transcript(value)), False
        else:
            text = self._read("prompt", lambda one: chat.parse_text(one, allow_empty=one == ""))
            more = (
                self._read("input", lambda one: chat.parse_text(one, allow_empty=True))
                if self._value("input")
                else None
            )
            if text is not None and more and more.strip():
                text = f"{text}\n\n{more}"
            # Instructions and questions are turns of a dialogue; `prompt` text is what the response goes on from.
            messages, plain = (
                (None if text is None else reading.user(text)),
                self.layout.columns["prompt"] in ("prompt", "query"),
            )
        if messages is None:
            return None
        messages = self._checked(part, self._led(messages))
        return (
            None if messages is None else (messages, plain and all(one["role"] == "user" for one in messages))
        )

    def _led(self, messages: schema.Messages) -> schema.Messages:
        """With what other columns say before them: the system message, then the earlier turns of a `history` column."""
        if self._value("history"):
            at = 1 if messages and messages[0]["role"] == "system" else 0
            earlier = self._read("history", reading.parse_history) or []
            messages = [*messages[:at], *earlier, *messages[at:]]
        if not self._value("system") or any(one["role"] == "system" for one in messages):
            return messages
        system = self._read("system", lambda value: chat.parse_text(value, allow_empty=True))
        return [{"role": "system", "content": system}, *messages] if system and system.strip() else messages

    def _checked(self, part: str, messages: schema.Messages | None) -> schema.Messages | None:
        return None if messages is None else self._attempt(part, lambda: chat.check_prompt(messages))

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
        except chat.FieldError as error:
            name = error.field or self.layout.columns[part] + (
                "" if error.position is None else f"[{error.position}]"
            )
            self.errors.append(chat.FieldError(error.problem, error.expected, name))
            return None
