"""Tasks, seeds and requests: numbered blocks of instruction and input that a model goes on with."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coalign.core.errors import DataError, RecordProblem, rows_with
from coalign.data.messages import FieldError, are_messages, describe, parse_messages, parse_text
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each

NO_INPUT = "<noinput>"
"""What stands in a block whose task has no input."""
SEPARATOR = "###"
UNFIT_WORDS = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot"),
    *("go to", "video", "audio", "music", "flowchart", "diagram"),
)  # fmt: skip
"""Words of tasks that a language model cannot do (Self-Instruct)."""
_FIELD = re.compile(r".\s+(?:Instruction|Input):")
_FIELD_OF_INPUT = re.compile(r".\s+(?:Instruction|Input|Output):")


@dataclass(frozen=True)
class SeedTask:
    """A task written by people. `output` is None where the seeds have no answers."""

    id: str
    instruction: str
    input: str = ""
    output: str | None = None


def joined(instruction: str, input: str) -> str:
    """A task as one text."""
    return f"{instruction}\n{input}" if input.strip() else instruction


def read_seeds(source: str) -> list[SeedTask]:
    """Seed tasks: rows with `instruction`, and `input` and `output` where there are some (Alpaca), with `instruction` and
    `instances` (Self-Instruct, of which the first is taken), or with a `prompt` and a `completion` or `response`.

    Raises:
        DataError: a row that cannot be used, two with one id, or no row.
    """
    problems: list[RecordProblem] = []
    seeds = list(parse_each(iter_rows(source), source, _seed, problems))
    if problems:
        bad = rows_with(problems)
        raise DataError(f"{source}: {bad} of {len(seeds) + bad} seed tasks cannot be used.", problems)
    if not seeds:
        raise DataError(f"{source}: no seed task.")
    assert_unique((one.id for one in seeds), source)
    return seeds


def _seed(row: Row) -> SeedTask:
    value = dict(row.value or {})
    name = str(value.get("id", row.index))
    if isinstance(value.get("instances"), list) and value["instances"]:
        value |= value["instances"][0]
    if "instruction" not in value and "prompt" not in value:
        raise FieldError(
            f"no task among {', '.join(value) or 'nothing'}", "a column instruction or prompt", "instruction"
        )
    if "instruction" in value:
        instruction, given = _text(value, "instruction"), str(value.get("input") or "")
    elif are_messages(value["prompt"]):
        instruction, given = parse_messages(value["prompt"])[-1]["content"], ""
    else:
        instruction, given = _text(value, "prompt"), ""
    answer = next((value[one] for one in ("output", "completion", "response") if value.get(one)), None)
    if answer is not None and not isinstance(answer, str):
        raise FieldError(describe(answer), "text", "output")
    return SeedTask(name, instruction.strip(), given.strip(), answer)


def _text(value: dict[str, Any], field: str) -> str:
    try:
        return parse_text(value[field])
    except FieldError as error:
        raise FieldError(error.problem, error.expected, field) from error


def numbered_blocks(tasks: Sequence[SeedTask]) -> str:
    """The tasks as blocks 1, 2, ..., and the beginning of the next one."""
    blocks = []
    for number, one in enumerate(tasks, start=1):
        instruction = " ".join(one.instruction.split()).rstrip(":")
        blocks.append(
            f"{SEPARATOR}\n{number}. Instruction: {instruction}\n{number}. Input:\n{one.input or NO_INPUT}\n"
        )
    return f"{''.join(blocks)}{SEPARATOR}\n{len(tasks) + 1}. Instruction:"


def draw_tasks(
    seeds: Sequence[SeedTask], k: int, draw: random.Random, weights: Sequence[float] | None = None
) -> list[SeedTask]:
    """`k` different seeds (all, where there are fewer), uniformly or one after the other by `weights`."""
    if weights is None:
        return draw.sample(list(seeds), min(k, len(seeds)))
    left, chosen = {place: one for place, one in enumerate(weights) if one > 0}, []
    while left and len(chosen) < k:
        (place,) = draw.choices(list(left), list(left.values()))
        chosen.append(seeds[place])
        del left[place]
    return chosen


def parse_tasks(
    completion: str, shown: int, *, unfit_words: Sequence[str] = UNFIT_WORDS, fewest_words: int = 4
) -> list[tuple[dict[str, str], str]]:
    """The tasks that a model wrote after `numbered_blocks`, each with a reason against it, empty where there is none.

    The last block may be cut, so it is left out: append a separator to a text that ended by itself. A block must have
    its own number, one instruction and one input. A task falls with fewer words than `fewest_words` or more than 150, a word that
    names what a language model cannot do, a first character that is punctuation or not ASCII, an input that says that
    it is none, a field's name inside a field, or an address of the web (Self-Instruct, and the official code of I-SHEEP).

    Args:
        shown: how many blocks the request had.
    """
    first = f"{shown + 1}. Instruction:"
    text = completion if completion.lstrip().startswith(first) else first + completion
    found = []
    for number, block in enumerate(text.split(SEPARATOR)[:-1], start=shown + 1):
        if not block.strip():
            continue
        parts = re.split(rf"{number}\.\s+(?:Instruction|Input):", block)
        if len(parts) != 3:
            found.append(
                (
                    {"instruction": block.strip(), "input": ""},
                    "not a block of its number, instruction and input",
                )
            )
            continue
        given = parts[2].strip()
        task = {"instruction": parts[1].strip(), "input": "" if given.lower() == NO_INPUT else given}
        found.append((task, _against(task, unfit_words, fewest_words)))
    return found


def _against(task: dict[str, str], unfit_words: Sequence[str], fewest_words: int) -> str:
    instruction, given = task["instruction"], task["input"]
    unfit = "|".join(map(re.escape, unfit_words))
    if len(instruction.split()) < fewest_words:
        return f"fewer than {fewest_words} words"
    if len(instruction.split()) > 150:
        return "more than 150 words"
    if unfit_words and re.search(rf"\b(?:{unfit})\b", f"{instruction}\n{given}", re.IGNORECASE):
        return "names what a language model cannot do"
    if instruction[0] in string.punctuation or not instruction[0].isascii():
        return "begins with punctuation or another script"
    marks = f"{instruction}\n{given.lower()}"
    if "noinput" in marks or "no input" in given.lower():
        return "an input that says that it is none"
    if _FIELD.search(instruction) or _FIELD_OF_INPUT.search(given):
        return "a field inside a field"
    return "an address of the web" if re.search(r"https?:", f"{instruction}\n{given}") else ""
