"""Logs of conversations, turn by turn: OpenAI's `messages`, ShareGPT's `conversations`, WildChat's `conversation`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.messages import FieldError, parse_messages
from coalign.data.records import Message, Messages
from coalign.data.rows import Row, iter_rows

COLUMNS = ("messages", "conversations", "conversation", "chat")
"""Columns that may hold the turns; the first that is there counts."""
IDS = ("id", "conversation_id", "conversation_hash")
"""Columns that may name a conversation."""


@dataclass(frozen=True)
class Conversation:
    """A conversation as it was logged.

    Attributes:
        line: where it stands; None where the source has no lines.
        language: as the log says; empty where it does not.
    """

    id: str
    messages: Messages
    line: int | None = None
    language: str = ""

    @property
    def preamble(self) -> Messages:
        """What stands before the first turn of the user: system turns and a greeting."""
        first = next((n for n, one in enumerate(self.messages) if one["role"] == "user"), len(self.messages))
        return self.messages[:first]

    @property
    def turns(self) -> Messages:
        """The turns from the first one of the user on."""
        return self.messages[len(self.preamble) :]


def read_conversations(
    source: str, *, split: str = "train", limit: int | None = None
) -> Iterator[Conversation]:
    """Conversations in the order of the source, one at a time.

    Raises:
        DataError: while it is read: a row without turns that can be read, or an id that appears twice.
    """
    seen: set[int] = set()
    for row in iter_rows(source, split):
        if limit is not None and row.index >= limit:
            return
        try:
            found = _conversation(row)
        except FieldError as error:
            problem = row.source(source).problem(error.field or "row", error.problem, error.expected)
            raise DataError(f"{source}: a conversation cannot be read.", [problem]) from error
        except _UnreadableError as error:
            raise DataError(f"{source}: a row cannot be read.", error.problems) from error
        if hash(found.id) in seen:
            raise DataError(
                f"{source}: the id {found.id!r} appears twice.", hint="Give every row its own id, or none."
            )
        seen.add(hash(found.id))
        yield found


class _UnreadableError(Exception):
    def __init__(self, problems: Sequence[RecordProblem]) -> None:
        super().__init__()
        self.problems = problems


def _conversation(row: Row) -> Conversation:
    if row.value is None:
        raise _UnreadableError([row.problem] if row.problem else [])
    value: dict[str, Any] = row.value
    column = next((one for one in COLUMNS if value.get(one) is not None), None)
    if column is None:
        raise FieldError("no turns", f"one of the columns {', '.join(COLUMNS)}", COLUMNS[0])
    try:
        messages = parse_messages(_plain(value[column]))
    except FieldError as error:
        raise FieldError(error.problem, error.expected, column) from error
    name = next((str(value[one]) for one in IDS if value.get(one) not in (None, "")), str(row.index))
    return Conversation(name, messages, row.line, str(value.get("language") or ""))


def _plain(turns: Any) -> Any:
    """The turns with role and content alone: logs say more of each (time, address, language, what moderation said)."""
    if not isinstance(turns, list):
        return turns
    kept = ({"role", "content"}, {"from", "value"})
    return [
        {key: one[key] for keys in kept if keys <= one.keys() for key in sorted(keys)}
        if isinstance(one, dict) and any(keys <= one.keys() for keys in kept)
        else one
        for one in turns
    ]


def fault_of(conversation: Conversation) -> str | None:
    """Why nothing can be learned from a conversation, in a few words; None where its turns alternate and one of the user's
    follows a reply.
    """
    for one in conversation.messages:
        if one["role"] not in ("system", "developer", "user", "assistant"):
            return f"a turn of a {one['role']}"
        if not one["content"].strip():
            return f"an empty turn of the {one['role']}"
    if not conversation.turns:
        return "no turn of the user"
    for before, after in zip(conversation.turns, conversation.turns[1:], strict=False):
        if before["role"] == after["role"]:
            return f"two turns of the {after['role']} in a row"
        if after["role"] not in ("user", "assistant"):
            return f"a turn of the {after['role']} in the middle"
    if len(conversation.turns) < 3:
        return "no turn of the user after a reply"
    return None


def merged(conversation: Conversation) -> Conversation:
    """The conversation with turns of one speaker that follow each other joined by an empty line."""
    messages: list[Message] = []
    for one in conversation.messages:
        if messages and messages[-1]["role"] == one["role"]:
            messages[-1] = {
                "role": one["role"],
                "content": f"{messages[-1]['content']}\n\n{one['content']}".strip(),
            }
        else:
            messages.append({"role": one["role"], "content": one["content"]})
    return replace(conversation, messages=messages)
