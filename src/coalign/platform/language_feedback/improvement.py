"""Self-improvement: a model answers, a feedback model criticises, the model writes anew; the rewriting is preferred."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.data.media.conversations import showing, without_pictures
from coalign.data.records import Demonstration, Judgment, Messages, Preference, Record
from coalign.loops.pipeline import Curated, Kept, Made, run_pipeline
from coalign.loops.rows import Row
from coalign.loops.steps.usual import Filter
from coalign.platform.language_feedback.pairs import teaches_nothing
from coalign.platform.language_feedback.prompts import RefineOn, neutral, to_criticise, to_refine

if TYPE_CHECKING:
    from coalign.models.types import Generation, Generator, Sampling

COLUMNS = ("response", "critique", "refinement")
"""What the three steps add to a record."""


def critique_demonstrations(records: Iterable[Record]) -> list[Demonstration]:
    """What a feedback model learns: prompt and response under labels, and the critique of them. A record without one (an answer
    that was found fine and nothing said of it) is left out.
    """
    return [
        Demonstration.of(
            one,
            prompt=to_criticise(one.prompt, one.completion),
            completion=neutral(one.judgment.strip()),
            plain=False,
        )
        for one in records
        if isinstance(one, Judgment) and one.judgment.strip() not in ("", "None")
    ]


def improve(
    folder: Path,
    prompts: Sequence[Record],
    open_model: Callable[[], Generator],
    open_critic: Callable[[], Generator],
    *,
    refine_on: RefineOn,
    sampling: Sampling,
    critique_sampling: Sampling,
    batch: int,
) -> Curated:
    """Responses, critiques and refinements of prompts, one sample each; what is there is not asked for again.

    Nothing checks that a refinement is better. Pairs that teach nothing are rejected with the reason.

    Args:
        folder: of the pipeline; `kept.jsonl` has rows of `id`, `prompt`, `images`, `response`, `critique`, `refinement`.
        prompts: with their pictures; ids of their own.
        sampling: of responses and refinements.
        batch: records at a time.
    """
    from coalign.loops.steps.models import Ask

    shown = {one.id: one.pictures for one in prompts}

    def asks(
        name: str,
        column: str,
        model: Callable[[], Generator],
        how: Sampling,
        prompt: Callable[[Row], Messages],
    ) -> Ask:
        def read(row: Row, said: Sequence[Generation]) -> list[Made]:
            ends = {**row.get("finish_reasons", {}), column: said[0].finish_reason}
            return [Kept({**row, column: said[0].text.strip(), "finish_reasons": ends})]

        return Ask(name, model, lambda row: showing(prompt(row), shown[row["id"]]), read, how, batch=batch)

    steps = [
        asks("responses", "response", open_model, sampling, lambda row: row["prompt"]),
        asks(
            "critiques", "critique", open_critic, critique_sampling,
            lambda row: to_criticise(row["prompt"], row["response"]),
        ),
        Filter("criticised", lambda row: None if row["critique"] else "empty critique"),
        asks(
            "refinements", "refinement", open_model, sampling,
            lambda row: to_refine(row["prompt"], row["response"], row["critique"], refine_on),
        ),
        Filter("pairs", lambda row: teaches_nothing(row["response"], row["refinement"])),
    ]  # fmt: skip
    return run_pipeline(folder, [_row(one) for one in prompts], steps)


def _row(record: Record) -> Row:
    return {
        "id": record.id,
        "prompt": without_pictures(record.prompt),
        **({"images": [one.written() for one in record.pictures]} if record.pictures else {}),
    }


def pairs_of(rows: Iterable[Row]) -> list[Preference]:
    """The refinement of each row preferred to its response; the critique is a column beside them."""
    from coalign.data.media.pictures import Picture

    return [
        Preference(
            prompt=row["prompt"],
            chosen=row["refinement"],
            rejected=row["response"],
            pictures=tuple(Picture(one) for one in row.get("images", ())),
            extra={"id": row["id"], "critique": row["critique"]},
        )
        for row in rows
    ]


def finished(rows: Sequence[Row], column: str) -> float:
    """The share of rows whose text was not cut at the most tokens."""
    ends: list[Any] = [row["finish_reasons"][column] for row in rows]
    return sum(one != "length" for one in ends) / len(ends) if ends else 0.0
