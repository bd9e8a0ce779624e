"""The report of a consistency training: samples, their distance from real pictures, the course of the training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coalign.core.runs import Run
from coalign.loops.rounds import STAGES, Round, timings
from coalign.models.diffusion.pixels import to_pictures, to_tensor
from coalign.report.model import Command, Curves, Figure, Headline, TableSection
from coalign.report.page import publish
from coalign.report.parts import counted, curves, held_out
from coalign.report.pictures import Gallery, Shown, gallery, thumbnail
from coalign.vision.consistency.network import nearest_timestep
from coalign.vision.consistency.stages import ONE, SEVERAL, facts_of, pictures_of, samples_of

if TYPE_CHECKING:
    from coalign.vision.consistency.options import ConsistencyOptions

REAL = "real pictures"
SHOWN = 35
"""Samples of each kind, and real pictures, in the report."""
CHARTS = (("loss", "Loss"), ("noise levels", "Noise levels"), ("grad_norm", "Gradient norm"))


def write_consistency_report(config: ConsistencyOptions, run: Run, round: Round) -> None:
    """Report and model card; every figure is read from the artefacts."""
    facts, rows = facts_of(round), round.read("evaluate")
    by_name = {row["samples"]: row for row in rows}
    publish(
        run,
        config,
        title="A consistency model of pictures",
        facts={"Data": config.data, "Network": config.model, "Seed": str(config.seed)},
        verdict=_headline(by_name),
        sections=[
            *_pictures(config, round),
            _distances(config, rows, facts),
            *_curves(round),
            counted("Pictures", ("what", "count"), _counts(facts)),
        ],
        rounds=timings([round], STAGES),
        limitations=_limitations(config, rows),
        then=[
            Command(
                f"coalign run ict --data {config.data} --model {run.path}", "train the averaged weights on"
            ),
        ],
        trained_on=f"{facts['count'] - facts['held_out']} pictures of {config.data}, {facts['size']} pixels square.",
        summary=_summary(config),
        task="unconditional-image-generation",
        figures={f"{name}, sliced Wasserstein": row["sliced Wasserstein"] for name, row in by_name.items()},
    )


def _pictures(config: ConsistencyOptions, round: Round) -> list[Gallery]:
    """A grid of samples for each way of sampling, from the same noise in the same order, and one of real pictures."""
    facts = facts_of(round)
    classes, levels = facts["classes"], ", ".join(f"{one:g}" for one in config.steps_at)
    notes = {
        ONE: "",
        SEVERAL: f"From the same first noise; noise of the levels {levels} is added before a further step.",
    }
    found = []
    for name, note in notes.items():
        pictures = to_pictures(to_tensor(samples_of(round, name)[:SHOWN]))
        labels = [classes[place % len(classes)] if classes else "" for place in range(len(pictures))]
        grid = Shown([thumbnail(*one) for one in zip(pictures, labels, strict=True)])
        found += gallery(
            f"Samples, {name}", [grid], note=f"The first {len(pictures)} of {config.samples}. {note}".strip()
        )
    real = to_pictures(to_tensor(pictures_of(round)[:SHOWN]))
    return [
        *found,
        *gallery(
            "Real pictures", [Shown([thumbnail(one) for one in real])], note="As the training sees them."
        ),
    ]


def _headline(rows: dict[str, dict[str, Any]]) -> Headline:
    one, several, real = (rows[name]["sliced Wasserstein"] for name in (ONE, SEVERAL, REAL))
    text = (
        f"Samples of one step lie {one:.3f} from real pictures (sliced Wasserstein distance of pixels), those of several "
        f"steps {several:.3f}; as many real pictures lie {real:.3f} away."
    )
    figures = [
        Figure(name, rows[name]["sliced Wasserstein"], better="lower", note=f"{rows[name]['count']} samples")
        for name in (ONE, SEVERAL)
    ]
    return Headline("neutral", text, figures)


def _distances(config: ConsistencyOptions, rows: list[dict[str, Any]], facts: dict[str, Any]) -> TableSection:
    compared = "held-out" if facts["held_out"] >= 2 else "training"
    names = ["sliced Wasserstein", *(["Fréchet"] if config.encoder else [])]
    return TableSection(
        title="Distance from real pictures",
        note=f"Held against {compared} pictures. Sliced Wasserstein-1 distance of the pixels in [-1, 1] over 64 directions"
        + (f"; Fréchet distance of the features of {config.encoder}" if config.encoder else "")
        + ". Neither is the FID of papers. Real pictures against real ones say what is small.",
        columns=["samples", "count", *names],
        rows=[[row["samples"], row["count"], *(row[name] for name in names)] for row in rows],
        units={"count": "integer"},
    )


def _curves(round: Round) -> list[Curves]:
    history = round.read("history")
    drawn = {"training": [row for row in history if "loss" in row]}
    if any("eval_loss" in row for row in history):
        drawn["held out"] = held_out(history)
    note = "The loss jumps where the number of noise levels is doubled, since its weights double as well."
    return curves(CHARTS, drawn, note=note)


def _counts(facts: dict[str, Any]) -> dict[str, int]:
    return {
        "trained on": facts["count"] - facts["held_out"],
        "held out": facts["held_out"],
        **({"classes": len(facts["classes"])} if facts["classes"] else {}),
        **facts["conversions"],
    }


def _summary(config: ConsistencyOptions) -> str:
    places = [nearest_timestep(config.objective(), one) for one in config.steps_at]
    return (
        f"A consistency model of pictures of {config.image_size} pixels square, with averaged weights. It samples in one "
        f"step (num_inference_steps=1), or in several through timesteps={[*reversed(places), 0]} or others like them."
    )


def _limitations(config: ConsistencyOptions, rows: list[dict[str, Any]]) -> list[str]:
    few = min(row["count"] for row in rows)
    found = [
        "Distances of pixels reward the right colours in the right places, not what a person sees in a picture.",
    ]
    if few < 1000:
        found.append(
            f"{few} samples say little: the distances are biased upwards, more so the fewer there are."
        )
    if config.encoder is not None:
        found.append("Fréchet distances are comparable under one encoder and number of samples alone.")
    return found
