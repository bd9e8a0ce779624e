"""The report of a curated corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coalign.core.errors import DataError
from coalign.core.runs import Run
from coalign.judging.protocol import Cost
from coalign.loops.pipeline import Curated
from coalign.loops.pipeline_report import pipeline_sections
from coalign.report import model as doc
from coalign.report.page import publish

if TYPE_CHECKING:
    from coalign.loops.curation.corpus import Corpus

LIMITATION = (
    "Rules and scores say what they count, not what a model learns from: compare a training on what was kept with one on as "
    "many records drawn at random (the step `sample`)."
)


def write_curation_report(run: Run, config: Any, done: Curated, corpus: Corpus) -> doc.Report:
    """Write `report.html` and the headline of `status.json`."""
    manifest = done.manifest
    first, kept = manifest["steps"][0]["in"], manifest["kept"]
    costly = max(manifest["steps"], key=lambda step: sum(step["rejected"].values()))
    lost = sum(costly["rejected"].values())
    text = f"{kept:,} of {first:,} records were kept."
    if lost:
        text += f" Most fell at {costly['name']}: {lost:,}."
    figures = [
        doc.Figure("Records", first, unit="integer"),
        doc.Figure("Kept", kept, unit="integer"),
        doc.Figure("Time", manifest["seconds"], unit="seconds", better="lower"),
    ]
    return publish(
        run,
        config,
        title=f"What was kept of {', '.join(config.data)}",
        verdict=doc.Headline("neutral", text, figures),
        facts={
            "Text": ", ".join(corpus.columns),
            "Steps": ", ".join(one["name"] for one in manifest["steps"]),
        },
        sections=[*pipeline_sections(done, corpus.text, examples=config.examples), *_cost(config, done)],
        limitations=[LIMITATION],
        then=[
            doc.Command(
                f"coalign data check {run.path}", "see what the records are and whether they are usable"
            ),
            *_training(run, config, corpus),
        ],
        figures={"records": first, "kept": kept, "seconds": manifest["seconds"]},
    )


_LEARNING = {
    "demonstration": ("sft --data", "train a model on them"),
    "preference": ("dpo --data", "align a model on them"),
    "feedback": ("kto --data", "align a model on them"),
    "prompt": ("grpo --prompts", "learn on them by a reward (--reward)"),
}
"""Kind of records to what is done with them."""


def _training(run: Run, config: Any, corpus: Corpus) -> list[doc.Command]:
    """The training that fits the records; none where they are of no kind that one learns from."""
    try:
        kind = "preference" if any(one.kind == "pair" for one in config.recipe) else corpus.layout.kind
    except DataError:
        return []
    command, why = _LEARNING.get(kind, ("", ""))
    return [doc.Command(f"coalign run {command} {run.path}", why)] if command else []


def _cost(config: Any, done: Curated) -> list[doc.AnySection]:
    """What the models of the steps were sent and wrote; nothing where no model was asked."""
    rows = []
    for step, (sent, written) in done.tokens().items():
        price = config.price(Cost(prompt_tokens=sent or None, tokens=written))
        rows.append([step, sent or None, written, price])
    units: dict[str, doc.Unit] = {"tokens sent": "integer", "tokens written": "integer"}
    columns = ("step", "tokens sent", "tokens written", "price")
    return [doc.TableSection("Cost", columns=columns, rows=rows, units=units)] if rows else []
