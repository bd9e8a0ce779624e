"""Records: the six shapes of alignment data, in memory.

Files use the column names of TRL and the hub (`coalign.data.columns` maps them). In memory a prompt is always a
list of chat messages; a response is the text of the assistant's last turn, a `Reply` where its message says more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypedDict, cast

from coalign.core.errors import RecordProblem

if TYPE_CHECKING:
    from PIL import Image

Kind = Literal["prompt", "demonstration", "preference", "ranking", "feedback", "judgment"]
KINDS: tuple[Kind, ...] = ("prompt", "demonstration", "preference", "ranking", "feedback", "judgment")


class Message(TypedDict):
    """One turn of a chat, as Hugging Face templates take it.

    A message keeps every other key that its file gives it (`tool_calls`, `name`, `reasoning_content`, `thinking`, ...):
    templates read them.
    """

    role: str
    content: str


Messages = list[Message]


class Shown(Protocol):
    """A picture of a record, not decoded yet: `coalign.data.media.pictures.Picture`."""

    @property
    def key(self) -> str:
        """What tells it from others."""
        ...

    @property
    def source_key(self) -> str:
        """The same wherever the data lie."""
        ...

    @property
    def called(self) -> str:
        """How messages call it."""
        ...

    def open(self) -> Image.Image:
        """The picture in RGB."""
        ...

    def written(self) -> str:
        """As a file of records holds it."""
        ...


class Reply(str):
    """The text of a reply that is more than text. Equal to another only with the same fields and steps.

    Attributes:
        fields: the other keys of the message (`tool_calls`, `reasoning_content`, `thinking`, ...).
        steps: what the reply did before its last message: the assistant's calls of tools, and what these returned, which
            nothing is learned from.
    """

    fields: dict[str, Any]
    steps: Messages

    def __new__(cls, text: str, fields: Mapping[str, Any], steps: Sequence[Message] = ()) -> Reply:
        made = super().__new__(cls, text)
        made.fields, made.steps = dict(fields), list(steps)
        return made

    def __getnewargs__(self) -> Any:
        return str(self), self.fields, self.steps

    def __eq__(self, other: object) -> bool:
        return (
            str.__eq__(self, other) is True
            and self.fields == fields_of(other)
            and self.steps == steps_of(other)
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def fields_of(reply: object) -> dict[str, Any]:
    """What a reply says beside its text; empty for plain text."""
    return reply.fields if isinstance(reply, Reply) else {}


def steps_of(reply: object) -> Messages:
    """The messages of a reply before its last one; none for plain text."""
    return reply.steps if isinstance(reply, Reply) else []


def message_of(reply: str) -> Message:
    """The assistant's last message of a reply, with all its fields."""
    return cast(Message, {"role": "assistant", "content": str(reply), **fields_of(reply)})


@dataclass(frozen=True, slots=True)
class Source:
    """Where a record came from: for messages and for stable ids.

    Attributes:
        file: or folder, or hub id; of shards the one that holds the record.
        line: 1-based; None where there are no lines.
        index: 0-based position in the whole source.
        before: records of the shards before this one.
        tag: the source's name in a mix of several; empty where there is one.
        whole: the folder or glob of shards.
    """

    file: str
    line: int | None = None
    index: int = 0
    before: int = 0
    tag: str = ""
    whole: str = ""

    @property
    def of(self) -> str:
        """The source that a record belongs to, whichever shard holds it."""
        return self.tag or self.whole or self.file

    @property
    def folder(self) -> Path | None:
        """Where relative paths in its records start: the folder of the file."""
        path = Path(self.file).expanduser()
        return path.parent if path.is_file() else None

    def problem(self, field: str, problem: str, expected: str) -> RecordProblem:
        """Something wrong with a field at this place."""
        return RecordProblem(self.file, self.line, field, problem, expected, self.index - self.before)

    def __str__(self) -> str:
        return (
            f"{self.file}:{self.line}"
            if self.line is not None
            else f"{self.file}[{self.index - self.before}]"
        )


@dataclass(frozen=True, kw_only=True)
class Record:
    """What every record has.

    Attributes:
        prompt: the conversation up to the response; the last message is the user's (a `system` message may lead).
            Empty for unconditional text.
        source: file, line and position.
        extra: columns that no field claims, kept for systems that need them (`constraints`, `group_id`, ...).
        plain: the file held plain text, not messages: without a chat template, and on request with one, prompt
            and response are joined as they are.
        tools: what the chat template is given as `tools`: JSON schemas of functions.
        template_kwargs: further arguments of the chat template (`enable_thinking`, ...).
        pictures: shown in the prompt, in order; a mark in its text (`coalign.data.media.conversations`) says where.
    """

    prompt: Messages
    source: Source = field(default=Source("<memory>"), compare=False)
    extra: dict[str, Any] = field(default_factory=dict, compare=False)
    plain: bool = False
    tools: list[Any] | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[Shown, ...] = ()

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What the chat template is given beside the messages."""
        return {**self.template_kwargs, **({"tools": self.tools} if self.tools else {})}

    @property
    def id(self) -> str:
        """Stable within a data set: the `id` column when there is one, else the position; in a mix after the tag."""
        own = str(self.extra.get("id", self.source.index))
        return f"{self.source.tag}:{own}" if self.source.tag else own

    @classmethod
    def of(cls, other: Record, **own: Any) -> Self:
        """A record of this kind with the prompt, source and columns of another; `own` are the fields of this kind."""
        shared = {one.name: getattr(other, one.name) for one in fields(Record)}
        return cls(**{**shared, **own})

    def problem(self, field: str, problem: str, expected: str) -> RecordProblem:
        """Something wrong with a field of this record, at its place in the file."""
        return self.source.problem(field, problem, expected)


@dataclass(frozen=True, kw_only=True)
class PromptRecord(Record):
    """A prompt without a response."""


@dataclass(frozen=True, kw_only=True)
class Demonstration(Record):
    """A prompt and the response to imitate."""

    completion: str


@dataclass(frozen=True, kw_only=True)
class Preference(Record):
    """A prompt, the preferred response and the other one; scores when the file has them."""

    chosen: str
    rejected: str
    chosen_score: float | None = None
    rejected_score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ranking(Record):
    """A prompt and n >= 2 responses with scores; higher is better, equal scores are ties.

    A file that gives ranks (1 is best) is read as `score = -rank`.

    Attributes:
        absolute: whether the scores are values that compare between prompts, and not an order alone (ranks, pairs).
    """

    responses: tuple[str, ...]
    scores: tuple[float, ...]
    absolute: bool = True


@dataclass(frozen=True, kw_only=True)
class Feedback(Record):
    """A prompt, a response and thumbs up (True) or down."""

    completion: str
    label: bool


@dataclass(frozen=True, kw_only=True)
class Judgment(Record):
    """A prompt, a response and what a judge said of it in words; the verdict when the file has one."""

    completion: str
    judgment: str
    label: bool | None = None


def responses_of(record: Record) -> tuple[str, ...]:
    """The responses of any record, best first where the kind has an order: the unit the scoring engine works on."""
    match record:
        case Preference():
            return (record.chosen, record.rejected)
        case Ranking():
            return record.responses
        case Demonstration() | Feedback() | Judgment():
            return (record.completion,)
        case _:
            return ()


def response_names(record: Record) -> tuple[str, ...]:
    """What the responses of a record are called, one name each."""
    if isinstance(record, Preference):
        return ("chosen", "rejected")
    return ("response" if isinstance(record, Ranking) else "completion",) * len(responses_of(record))
