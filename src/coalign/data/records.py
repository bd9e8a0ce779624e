"""Records: the six shapes of alignment data, in memory.

Files use the column names of TRL and the hub (`coalign.data.columns` maps them). In memory a prompt is always a
list of chat messages; a response is the text of the assistant's last turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypedDict

from coalign.core.errors import RecordProblem

Kind = Literal["prompt", "demonstration", "preference", "ranking", "feedback", "judgment"]
KINDS: tuple[Kind, ...] = ("prompt", "demonstration", "preference", "ranking", "feedback", "judgment")


class Message(TypedDict):
    """One turn of a chat, as Hugging Face templates take it."""

    role: str
    content: str


Messages = list[Message]


@dataclass(frozen=True)
class Source:
    """Where a record came from: for messages and for stable ids."""

    file: str
    line: int | None = None
    index: int = 0


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
    """

    prompt: Messages
    source: Source = field(default=Source("<memory>"), compare=False)
    extra: dict[str, Any] = field(default_factory=dict, compare=False)
    plain: bool = False

    @property
    def id(self) -> str:
        """Stable within a data set: the `id` column when there is one, else the position."""
        return str(self.extra.get("id", self.source.index))

    @classmethod
    def of(cls, other: Record, **own: Any) -> Self:
        """A record of this kind with the prompt, source and columns of another; `own` are the fields of this kind."""
        return cls(prompt=other.prompt, source=other.source, extra=other.extra, plain=other.plain, **own)

    def problem(self, field: str, problem: str, expected: str) -> RecordProblem:
        """Something wrong with a field of this record, at its place in the file."""
        return RecordProblem(self.source.file, self.source.line, field, problem, expected, self.source.index)


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
    """

    responses: tuple[str, ...]
    scores: tuple[float, ...]


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


RECORD_TYPES: dict[Kind, type[Record]] = {
    "prompt": PromptRecord,
    "demonstration": Demonstration,
    "preference": Preference,
    "ranking": Ranking,
    "feedback": Feedback,
    "judgment": Judgment,
}


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
