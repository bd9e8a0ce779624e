"""Training towards a property, as a run: measure, train with a further term, measure again, report."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from coalign.core import options
from coalign.core.errors import CoalignError
from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.loops.rounds import STAGES, Round, run_rounds, timings
from coalign.models.files.places import full_name
from coalign.report.model import Command, Comparison, Headline, Output, Sample, Samples
from coalign.report.page import publish
from coalign.report.parts import counted, curves, effect, figure_of, judged
from coalign.speech.audio.audio import is_silent
from coalign.speech.audio.latency import compare_rows, measure_clips, rates, token_starts
from coalign.speech.audio.recordings import read_recordings, reasons_text
from coalign.speech.ctc.recogniser import Recogniser, load_recogniser
from coalign.speech.ctc.recogniser_options import open_recogniser
from coalign.speech.ctc.training import Clip, ExtraTerm, fit_round
from coalign.speech.ctc.vocabulary import Vocabulary, outside_message

if TYPE_CHECKING:
    from torch import Tensor

CHARTS = (("loss", "Loss"), ("ctc", "CTC loss"), ("purpose", "Weighted term"))


def run_purpose(config: Any, run: Run, make_term: Callable[[Vocabulary], Any]) -> None:
    """The stages `baseline`, `fit` and `evaluate` of one round, and the report.

    Args:
        config: options of the system, its recogniser and its training.
        make_term: the weighted term for a vocabulary; called with (logits, lengths, texts), and `at_step`.
    """
    recordings = read_recordings(config.data, split=config.split)
    texts = [recording.text for recording in recordings]
    counts: dict[str, Counter[str]] = {
        "conversions": Counter(),
        "left out": Counter(),
        "characters": Counter(),
    }

    def fresh() -> Recogniser:
        return open_recogniser(config, texts, config.seed)

    start = fresh()
    make_term(start.vocabulary)  # an unknown property fails before any work
    clips = _clips(recordings, start, counts)
    held_out, training = _split(clips, config.eval_fraction, config.seed)
    run.log("data", recordings=len(recordings), training=len(training), held_out=len(held_out), **counts)

    def baseline(round: Round) -> None:
        reference = (
            load_recogniser(config.reference_model, device=config.device) if config.reference_model else start
        )
        starts = token_starts(reference, held_out)
        write_json(round.path("starts", ".json"), starts)
        round.write("baseline", measure_clips(start, held_out, starts))
        words, _ = rates(round.read("baseline"))
        if config.start_step == 0 and held_out and 1 - words.rate < config.start_accuracy:
            raise CoalignError(
                f"The recogniser's word accuracy is {max(1 - words.rate, 0):.0%} on {len(held_out)} held-out clips, "
                f"{config.start_accuracy:.0%} are needed: alignments of a poor model are noise to learn from.",
                hint="Train it with CTC first: --start-step N joins the term after N steps. "
                "--start-accuracy 0 takes it as it is.",
            )

    def fit(round: Round) -> None:
        recogniser = fresh()
        term = _joined(make_term(recogniser.vocabulary), config.start_step)
        fit_round(round, recogniser, training, config, extra=term)

    def evaluate(round: Round) -> None:
        starts = options.load_file(round.path("starts", ".json"))
        trained = load_recogniser(str(round.folder / "model"), device=config.device)
        round.write("evaluate", measure_clips(trained, held_out, starts))

    (round,) = run_rounds(run, {"baseline": baseline, "fit": fit, "evaluate": evaluate})
    run.publish_model(round.folder / "model")
    _report(config, run, round, counts)


def _joined(term: Any, start_step: int) -> ExtraTerm:
    """The term as the trainer calls it: silent before `start_step`."""

    def extra(
        logits: Tensor, lengths: Tensor, texts: Sequence[str], step: int
    ) -> tuple[Tensor, dict[str, float]]:
        if step < start_step:
            return logits.new_zeros(len(logits)), {"purpose": 0.0}
        term.at_step(step)
        losses = term(logits, lengths, texts)
        return losses, {"purpose": float(losses.detach().mean())}

    return extra


def _clips(recordings: Sequence[Any], recogniser: Recogniser, counts: dict[str, Counter[str]]) -> list[Clip]:
    """A clip for every recording that has text and sound; the others are counted."""
    clips = []
    for one in recordings:
        text = recogniser.vocabulary.normalise(one.text, counts["characters"])
        clip = Clip.of(one, text)
        if not text:
            counts["left out"]["no text in the vocabulary"] += 1
        elif is_silent(clip.read(recogniser.sample_rate, counts["conversions"])):
            counts["left out"]["silent"] += 1
        else:
            clips.append(clip)
    if len(clips) < 2:
        raise CoalignError(
            f"{len(clips)} of {len(recordings)} clips can be used, 2 are needed: one to train, one to measure.",
            hint=reasons_text(counts["left out"]) or None,
        )
    return clips


def _split(clips: list[Clip], fraction: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """(held out, training): one clip at least in each."""
    mixed = random.Random(seed).sample(clips, len(clips))
    count = min(max(round(fraction * len(clips)), 1), len(clips) - 1)
    return mixed[:count], mixed[count:]


def _report(config: Any, run: Run, round: Round, counts: dict[str, Counter[str]]) -> None:
    before, after = round.read("baseline"), round.read("evaluate")
    comparison = compare_rows(before, after)
    training = options.load_file(round.path("training", ".json"))
    clips = {
        **{f"left out: {reason}": count for reason, count in counts["left out"].items()},
        **{f"left out of training: {reason}": count for reason, count in training["left out"].items()},
        **counts["conversions"],
        "held-out clips": len(before),
        "training clips": training["clips"],
    }
    publish(
        run,
        config,
        title=f"A recogniser aligned for {config.property}",
        facts={"Model": full_name(config.model), "Data": str(config.data), "Seed": str(config.seed)},
        verdict=_headline(config, comparison),
        sections=[
            comparison,
            _samples(before, after),
            *curves(CHARTS, {"training": round.read("history")}),
            counted("Clips", ("what", "count"), clips, note=outside_message(counts["characters"])),
        ],
        rounds=timings([round], STAGES),
        then=[
            Command(
                f"coalign run pseudo-forced-alignment --data recordings/ --model {run.path}",
                "align recordings with the trained recogniser",
            )
        ],
    )


def _headline(config: Any, comparison: Comparison) -> Headline:
    rows = {row.name: row for row in comparison.rows}
    drift, words = rows.get("Drift latency (ms)"), rows["Word error rate"]
    wanted = words if config.property == "minimum-wer" else drift
    if wanted is None:
        text = "No held-out clip is written without an error both before and after, so latency cannot be compared."
        return Headline("neutral", text, [figure_of(words, f"{words.n} clips")])
    change = effect(wanted.difference, "lower")
    worse = effect(words.difference, "lower") == "worse"
    parts = [
        {
            "better": f"{wanted.name} fell.",
            "worse": f"{wanted.name} rose.",
            "unclear": f"The interval of the change in {wanted.name.lower()} holds zero.",
            "unknown": f"The change in {wanted.name.lower()} has no interval.",
        }[change],
        "Word errors rose clearly: lower the weight." if worse else "",
    ]
    return judged(
        wanted.difference,
        " ".join(filter(None, parts)),
        [figure_of(row, f"{row.n} clips") for row in comparison.rows],
        n=wanted.n,
        better="lower",
        guard=not worse,
    )


def _samples(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> Samples:
    def output(row: dict[str, Any]) -> Output:
        drift = row["drift"]
        words, _ = rates([row])
        return Output(
            row["written"],
            words.rate,
            checks={"drift (ms)": None if drift is None else round(1000 * drift, 1)},
        )

    return Samples(
        "Held-out clips",
        columns=["before", "after"],
        rows=[
            Sample(old["text"], [output(old), output(new)]) for old, new in zip(before, after, strict=True)
        ],
        score_name="word error rate",
        better="lower",
    )
