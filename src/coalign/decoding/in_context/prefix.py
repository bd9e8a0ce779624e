"""A base model as an assistant by examples in its prompt: blocks of query and answer, and the text that comes back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import parse_json
from coalign.data.records import Messages

FENCE = "```"
ROLES = {"user": "# Query:", "assistant": "# Answer:"}
STOPS = ("# Query", "# User")
"""Where a base model begins to invent the next turn."""
END_OF_TEXT = "<|endoftext|>"
ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Example:
    """A query and how it should be answered."""

    query: str
    answer: str


@dataclass(frozen=True)
class Style:
    """What stands before every conversation.

    Attributes:
        system: text below the heading; empty for none.
        examples: in order, the last one nearest to the conversation.
    """

    system: str
    examples: tuple[Example, ...]


def prefix_of(style: Style) -> str:
    """The constant text: a heading with the system text, and the examples; no line break at its end."""
    parts = [f"# Instruction\n\n{style.system}"] if style.system else []
    for one in style.examples:
        parts.append(
            f"{ROLES['user']}\n{FENCE}\n{one.query}\n{FENCE}\n\n{ROLES['assistant']}\n{FENCE}\n{one.answer}\n{FENCE}"
        )
    return "\n\n".join(parts)


def conversation_prompt(prefix: str, turns: Sequence[str], *, legacy_spacing: bool = False) -> str:
    """The prefix, the turns as closed blocks, and an open block for the answer.

    Args:
        turns: queries and answers in turn, the last one a query.
        legacy_spacing: the query on the line of its fence, as the first version of the published prompt has it.

    Raises:
        ValueError: an even number of turns.
    """
    if len(turns) % 2 == 0:
        raise ValueError(f"{len(turns)} turns, expected an odd number: the last one is a query")
    text = prefix
    for place, turn in enumerate(turns):
        role = ROLES["assistant" if place % 2 else "user"]
        gap = "" if legacy_spacing and place % 2 == 0 else "\n"
        text += f"\n{role}\n{FENCE}{gap}{turn}{gap}{FENCE}\n"
    return f"{text}\n{ROLES['assistant']}\n{FENCE}\n"


def clean_answer(text: str, *, keep_inner_fences: bool = False) -> str:
    """What a base model wrote, as an answer.

    Args:
        keep_inner_fences: keep blocks of code: only a fence without a partner, which ends the answer's own block, and
            what follows it are removed. By default every fence is deleted, as in the published code.
    """
    text = text.replace(END_OF_TEXT, " ")
    if not keep_inner_fences:
        return text.replace(FENCE, "").strip()
    lines = text.split("\n")
    fences = [place for place, line in enumerate(lines) if line.lstrip().startswith(FENCE)]
    # A fence with a language opens a block of code; a bare one outside such a block ends the answer.
    inside = False
    for place in fences:
        bare = lines[place].strip() == FENCE
        if not inside and bare:
            return "\n".join(lines[:place]).strip()
        inside = not inside
    return text.strip()


def turns_of(messages: Messages | str) -> tuple[str, list[str]]:
    """(system text, queries and answers in turn) of a conversation.

    Raises:
        DataError: users' and assistants' messages do not alternate, or the last one is not the user's.
    """
    if isinstance(messages, str):
        return "", [messages]
    system = "\n".join(one["content"] for one in messages if one["role"] == "system")
    turns = [one for one in messages if one["role"] != "system"]
    for place, one in enumerate(turns):
        wanted = "assistant" if place % 2 else "user"
        if one["role"] != wanted:
            raise DataError(f"message {place + 1} is the {one['role']}'s, expected the {wanted}'s")
    if len(turns) % 2 == 0:
        raise DataError(f"the last of {len(turns)} messages is not a user's, expected one to answer")
    return system, [one["content"] for one in turns]


def load_style(name: str, k: int | None = None, seed: int | None = None) -> Style:
    """System text and examples: `default` (a refusal among them), `help` (without), `short`, `brief`
    (answers of some 40 tokens), `plain` (unstyled answers), or a file.

    Args:
        name: a JSON file has `system` (text, may be missing) and `examples`, a list of {"query", "answer"}.
        k: take the first k examples.
        seed: shuffle them.

    Raises:
        ConfigError: no such style or file, a field that is missing or of another kind, or fewer than k examples.
    """
    path = ASSETS / f"{name}.json" if name in STYLES else Path(name)
    if not path.is_file():
        raise ConfigError(f"style: {name!r} is neither {', '.join(STYLES)} nor a file.")
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
        system = value.get("system", "")
        examples = [Example(one["query"], one["answer"]) for one in value["examples"]]
        if not all(
            isinstance(one, str) for one in (system, *(t for e in examples for t in (e.query, e.answer)))
        ):
            raise TypeError("system, query and answer must be text")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: {error}: expected an object with `system` (text) and `examples`, each with `query` and `answer`."
        ) from error
    if k is not None and k > len(examples):
        raise ConfigError(f"examples: {name} has {len(examples)} examples, {k} were asked for.")
    examples = examples[:k]
    if seed is not None:
        random.Random(seed).shuffle(examples)
    return Style(system, tuple(examples))


STYLES = ("default", "help", "short", "brief", "plain")
