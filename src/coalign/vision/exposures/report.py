"""The report of reconstructed radiance: metrics beside the reference frame alone, tone-mapped previews, gates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from coalign.core.runs import Run
from coalign.data.media.pictures import open_picture
from coalign.measures.statistics import paired_bootstrap
from coalign.report.model import AnySection, Command, Comparison, Figure, Headline, TableSection
from coalign.report.page import publish
from coalign.report.parts import curves, figure_of, held_out, outcome_of, paired, too_few
from coalign.report.pictures import Shown, gallery, thumbnail
from coalign.vision.exposures.measuring import ALONE, METRICS, Row

if TYPE_CHECKING:
    from coalign.training.job import FitResult
    from coalign.vision.exposures.options import RadianceOptions

MOST_FRAMES = 60
"""Frames whose previews are shown."""
CHARTS = (
    ("loss", "Loss"), ("l1", "Tone-mapped distance"), ("frequency", "Distance of spectra"), ("temporal", "Change between windows"),
    ("perceptual", "Distance of features"), ("psnr_mu", "PSNR-μ (dB)"),
)  # fmt: skip


def write_report(
    run: Run,
    config: RadianceOptions,
    fitted: FitResult | None,
    learnt: Sequence[Row],
    frames: Sequence[Row],
    suspicious: Sequence[str],
) -> None:
    """Publish the report of a run.

    Args:
        learnt: a row a held-out shot, on windows made of it.
        frames: a row a reconstructed frame.
        suspicious: shots whose longer exposures look darker.
    """
    known = by_shot([row for row in frames if row.get("psnr_mu") is not None])
    measured = known or list(learnt)
    plural = "" if len(measured) == 1 else "s"
    what = f"reconstructed shot{plural} with targets" if known else f"held-out window{plural}"
    rows = _rows(measured)
    parts = []
    if fitted is not None:
        parts.append(f"Trained for {fitted.steps} steps")
    if frames:
        parts.append(f"{len(frames)} frames reconstructed")
    outcome, figures = "neutral", []
    if rows:
        first = rows[0]
        ours, alone = (_values(measured, name) for name in ("psnr_mu", f"{ALONE}psnr_mu"))
        outcome = outcome_of(paired_bootstrap(alone, ours), n=len(measured))
        figures = [figure_of(one, note=f"{len(measured)} {what}") for one in rows]
        parts.append(
            f"PSNR-μ {first.after.value:.2f} dB over {len(measured)} {what}, of the reference frame alone "
            f"{first.before.value:.2f} dB"
        )
    gates = [row["gate"] for row in [*frames, *learnt]]
    if gates:
        figures.append(
            Figure("Mean gate", sum(gates) / len(gates), better="neither", note="of aligned neighbours")
        )
    publish(
        run,
        config,
        title="Radiance from alternating exposures",
        verdict=Headline(outcome, f"{'; '.join(parts)}.{too_few(len(measured)) if rows else ''}", figures),
        facts={"Data": config.data or "none", "Reconstructed": config.reconstruct or "nothing"},
        sections=[*_tables(learnt, known), *_previews(run, frames), *_frames(frames), *_training(fitted)],
        limitations=_limitations(config, fitted, known, learnt, suspicious),
        then=_commands(config, run),
        figures={one.name: one.after.value for one in rows} | {"frames": len(frames)},
    )


def by_shot(rows: Sequence[Row]) -> list[Row]:
    """A row a shot with the means of its frames' metrics: frames of a shot are alike, so that intervals are over shots."""
    shots: dict[str, list[Row]] = {}
    for row in rows:
        shots.setdefault(row["id"], []).append(row)
    names = [f"{prefix}{name}" for prefix in ("", ALONE) for name in METRICS]
    return [{"id": name, **{one: _mean_of(found, one) for one in names}} for name, found in shots.items()]


def _mean_of(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else None


def _tables(learnt: Sequence[Row], known: Sequence[Row]) -> Iterator[AnySection]:
    notes = {
        "Held-out shots": ("Windows made of shots that nothing was learnt from.", learnt),
        "Reconstructed shots": (
            "Means over the frames of shots whose radiance is known; targets are cut off at 1.",
            known,
        ),
    }
    for title, (note, measured) in notes.items():
        rows = _rows(measured)
        if rows:
            more = " PSNR in dB with the range 1; SSIM's range is the largest less the smallest value of the target."
            yield Comparison(
                title=title,
                note=note + more,
                rows=rows,
                names=("Reference frame alone", "Network"),
                scale="row",
            )


def _rows(measured: Sequence[Row]) -> list[Any]:
    found = []
    for name, label in METRICS.items():
        both = [
            row for row in measured if row.get(name) is not None and row.get(f"{ALONE}{name}") is not None
        ]
        if both:
            found.append(paired(label, _values(both, f"{ALONE}{name}"), _values(both, name), unit="number"))
    return found


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows]


def _previews(run: Run, frames: Sequence[Row]) -> list[Any]:
    def shown() -> Iterator[Shown]:
        for row in frames[:MOST_FRAMES]:
            both = open_picture(run.path / row["preview"])
            half = both.width // 2
            parts = [both.crop((0, 0, half, both.height)), both.crop((half, 0, both.width, both.height))]
            pictures = [
                thumbnail(one, name) for one, name in zip(parts, ("as taken", "tone-mapped"), strict=True)
            ]
            values = {"exposure": row["exposure"], "gate": round(row["gate"], 3)}
            if row.get("psnr_mu") is not None:
                values["PSNR-μ"] = round(row["psnr_mu"], 2)
            yield Shown(pictures, f"{row['id']}, frame {row['frame']}", values)

    note = "Tone-mapped by ln(1 + 5000 h) / ln 5001."
    return list(gallery("Frames", shown(), note=note, total=len(frames)))


def _frames(frames: Sequence[Row]) -> Iterator[TableSection]:
    if frames:
        columns = ["Shot", "Frame", "Exposure", "Gate", *METRICS.values(), "File"]
        rows = [
            [
                row["id"],
                row["frame"],
                row["exposure"],
                row["gate"],
                *(row.get(name) for name in METRICS),
                row["file"],
            ]
            for row in frames[:1000]
        ]
        yield TableSection(title="Files", columns=columns, rows=rows, units={"Frame": "integer"})


def _training(fitted: FitResult | None) -> list[Any]:
    if fitted is None:
        return []
    return list(curves(CHARTS, {"training": fitted.history, "held out": held_out(fitted.history)}))


def _limitations(
    config: RadianceOptions,
    fitted: FitResult | None,
    known: Sequence[Row],
    learnt: Sequence[Row],
    suspicious: Sequence[str],
) -> list[str]:
    found = []
    if fitted is not None and config.perceptual is None:
        found.append(
            "The perceptual term is off: no features were given (--perceptual). The paper's are those of VGG-19 up to relu5_1, "
            "with the weight 0.1."
        )
    if fitted is not None:
        places = (config.crop // (8 * config.align_downscale)) ** 2
        found.append(
            f"Crops of {config.crop} pixels have {places} places for the attention: motion beyond the crop is never learnt. "
            "Larger crops, or a smaller --align-downscale, have more."
        )
    if learnt and not known:
        found.append(
            "The metrics are of windows that were made of video by a drawn camera; what a real camera's frames come to is "
            "only known with --reconstruct and targets."
        )
    if suspicious:
        found.append(
            f"In {len(suspicious)} shots frames of a longer exposure are darker than their neighbours: are the exposures in "
            f"order? {', '.join(suspicious[:5])}."
        )
    return found


def _commands(config: RadianceOptions, run: Run) -> list[Command]:
    if config.data is None:
        return []
    line = f"coalign run lan-hdr --network {run.path} --reconstruct SHOTS"
    return [Command(command=line, purpose="reconstruct more video with this network")]
