"""Steps of pipelines in which a model writes tasks from seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coalign.judging.protocol import JudgeItem
from coalign.loops.pipeline import Kept, Made, Rejected, Step
from coalign.loops.rows import Row
from coalign.loops.steps.models import Ask
from coalign.loops.steps.usual import Novel, Take
from coalign.models.backends.open import open_policy
from coalign.selfalign.synthesis.tasks import SEPARATOR, SeedTask, joined, parse_tasks

if TYPE_CHECKING:
    from coalign.data.records import Messages
    from coalign.models.options import ModelOptions
    from coalign.models.types import Generation, Sampling
    from coalign.selfalign.synthesis.rounds import SynthesisOptions


def as_asked(text: str, *, chat: bool) -> Messages | str:
    """A text as it is put before a model: as it is, or as a user's message."""
    return [{"role": "user", "content": text}] if chat else text


def task_steps(
    config: SynthesisOptions,
    seeds: Sequence[SeedTask],
    model: ModelOptions,
    sampling: Sampling,
    *,
    chat: bool,
    batch: int,
    unfit_words: Sequence[str] = (),
    fewest_words: int = 4,
) -> list[Step]:
    """From requests (`request`, `seeds`) to tasks (`instruction`, `input`, `seeds`): asked, parsed, novel, enough."""

    def tasks_of(row: Row, said: Sequence[Generation]) -> list[Made]:
        ended = said[0].finish_reason == "stop"  # then the last block is whole
        text = said[0].text + (SEPARATOR if ended else "")
        found: list[Made] = [
            Rejected(task, why) if why else Kept({**task, "seeds": row["seeds"]})
            for task, why in parse_tasks(
                text, len(row["seeds"]), unfit_words=unfit_words, fewest_words=fewest_words
            )
        ]
        return found or [Rejected(row, "no whole task")]

    known = [one.instruction for one in seeds]
    return [
        Ask(
            "tasks",
            lambda: open_policy(model, config),
            lambda row: as_asked(row["request"], chat=chat),
            tasks_of,
            sampling,
            batch=batch,
            model=model.model,
        ),
        Novel("novelty", lambda row: row["instruction"], config.novelty, known),
        Take("enough tasks", config.tasks),
    ]


def judge_item(row: Row) -> JudgeItem:
    """A task and its answer, to be rated."""
    text = joined(row["instruction"], row["input"])
    return JudgeItem(id=row["id"], prompt=[{"role": "user", "content": text}], responses=(row["output"],))


def demonstration(row: Row, **beside: Any) -> dict[str, Any]:
    """A task and its answer as a record to learn from. Its parts and whatever else is said of it stand in one column,
    `made_of`: columns of their own (an input, a score) would mean something to readers of records.
    """
    parts = {"instruction": row["instruction"], "input": row["input"], **beside}
    return {"prompt": joined(row["instruction"], row["input"]), "completion": row["output"], "made_of": parts}
