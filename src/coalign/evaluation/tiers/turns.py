"""Turns of a model that thinks in a scratchpad before it answers: when to go on, and what its answer is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from coalign.evaluation.tiers.prompts import Asked
from coalign.loops.rows import answer_rows
from coalign.models.types import leaves_room

if TYPE_CHECKING:
    from coalign.models.types import Generator, Sampling

_THOUGHT, _THOUGHT_END = "<SCRATCHPAD_REASONING>", "</SCRATCHPAD_REASONING>"
_OUTPUT_END = "</OUTPUT>"
_OUTPUT = re.compile(r"<OUTPUT>(.*?)</OUTPUT>", re.DOTALL)
NEXT = "<NEXT/>"
"""Asks for the next turn of an answer that has no output yet."""


@dataclass(frozen=True)
class Transcript:
    """What a model said to one prompt.

    Attributes:
        text: all turns.
        turns: how many.
    """

    text: str
    turns: int

    @property
    def output(self) -> str | None:
        return output_block(self.text)

    @property
    def scratchpad(self) -> str:
        return scratchpad(self.text)


def output_block(text: str) -> str | None:
    """The first closed output block after the last end of a scratchpad, stripped; None where there is none. A tag that is
    quoted while the model thinks is thus not taken for its answer.
    """
    found = _OUTPUT.search(text.rpartition(_THOUGHT_END)[2])
    return found[1].strip() if found else None


def scratchpad(text: str) -> str:
    """What stands before the last end of a scratchpad, without tags; empty where none ends."""
    thought = text.rpartition(_THOUGHT_END)[0]
    return thought.replace(_THOUGHT, "").replace(_THOUGHT_END, "").strip()


def goes_on(text: str, turn: str) -> bool:
    """Whether another turn is asked for: there is no output yet, and the last turn closed a tag."""
    return output_block(text) is None and (_THOUGHT_END in turn or _OUTPUT_END in turn)


def converse(
    folder: Path,
    name: str,
    prompts: Sequence[Asked],
    model: Callable[[], Generator],
    sampling: Sampling,
    *,
    most: int = 4,
    label: str,
) -> list[list[Transcript]]:
    """`[prompts][n]` what the model says, in at most so many turns, and as far as its context goes; kept turn by turn in `folder`, from where a killed run goes on.

    Sample k of prompt i draws from its own stream, so that prompts in the same order under another tier share theirs.
    """
    rows = answer_rows(folder / f"{name}-1.jsonl", prompts, model, sampling, label=label)
    begun = [_begun(one) for one in prompts]
    said = [
        [Transcript(before + text, 1) for text in row["responses"]]
        for before, row in zip(begun, rows, strict=True)
    ]
    last = {
        (place, number): one.text for place, several in enumerate(said) for number, one in enumerate(several)
    }
    for turn in range(2, most + 1):
        unfinished = [
            (place, number)
            for (place, number), text in last.items()
            if goes_on(said[place][number].text, text)
        ]
        tasks = [
            _next(prompts[place], said[place][number].text, f"{prompts[place].id}#{number}")
            for place, number in unfinished
        ]
        room = sampling.max_new_tokens
        fitting = [place for place, one in enumerate(tasks) if leaves_room(model(), one.prompt, room)]
        if not fitting:
            break
        unfinished, tasks = [unfinished[one] for one in fitting], [tasks[one] for one in fitting]
        more = answer_rows(
            folder / f"{name}-{turn}.jsonl",
            tasks,
            model,
            replace(sampling, n=1),
            label=f"{label}, turn {turn}",
        )
        last = {}
        for (place, number), row in zip(unfinished, more, strict=True):
            text = row["responses"][0]
            said[place][number] = Transcript(f"{said[place][number].text}\n{text}", turn)
            last[place, number] = text
    return said


def _begun(one: Asked) -> str:
    return one.prompt[-1]["content"] if one.prompt[-1]["role"] == "assistant" else ""


def _next(one: Asked, said: str, name: str) -> Asked:
    before = [turn for turn in one.prompt if turn["role"] != "assistant"]
    return Asked(name, [*before, {"role": "assistant", "content": said}, {"role": "user", "content": NEXT}])
