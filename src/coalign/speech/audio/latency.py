"""How late and how rightly a recogniser writes: drift latency against a forced alignment, word and character errors."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.progress import progress
from coalign.measures.statistics import Interval, bootstrap_mean, paired_bootstrap
from coalign.report.model import Comparison, ComparisonRow, Estimate
from coalign.speech.audio.error_rates import ErrorRate, character_error_rate, word_error_rate
from coalign.speech.ctc.align import TextTooLongError, forced_align
from coalign.speech.ctc.decoding import emission_frames, greedy
from coalign.speech.ctc.recogniser import Recogniser
from coalign.speech.ctc.training import Clip


def token_starts(recogniser: Recogniser, clips: Sequence[Clip]) -> dict[str, list[float]]:
    """Clip id to the second in which each token of its text starts, by forced alignment under `recogniser`.

    Clips whose text is longer than their audio are absent.
    """
    found = {}
    with progress(len(clips), "Aligning the reference", "clip") as bar:
        for clip in clips:
            ids = recogniser.vocabulary.encode(clip.text)
            try:
                spans, _ = forced_align(
                    recogniser.logps(clip.read(recogniser.sample_rate)), ids, recogniser.vocabulary.blank
                )
                found[clip.id] = [span.start * recogniser.frame_seconds for span in spans]
            except TextTooLongError:
                pass
            bar.advance()
    return found


def measure_clips(
    recogniser: Recogniser, clips: Sequence[Clip], starts: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """A row a clip: what was written, and the drift of its tokens.

    The drift of a token is the second in which greedy decoding first writes it, minus its start in `starts`. It is
    measured on clips that are written without an error, None on the others.
    """
    rows = []
    vocabulary = recogniser.vocabulary
    with progress(len(clips), "Transcribing", "clip") as bar:
        for clip in clips:
            logps = recogniser.logps(clip.read(recogniser.sample_rate))
            ids = greedy(logps, vocabulary.blank)
            drift = None
            if ids and ids == vocabulary.encode(clip.text) and clip.id in starts:
                frames = emission_frames(logps.argmax(-1).tolist(), vocabulary.blank)
                seconds = [frame * recogniser.frame_seconds for frame in frames]
                drift = statistics.fmean(
                    now - begin for now, begin in zip(seconds, starts[clip.id], strict=True)
                )
            rows.append({"id": clip.id, "text": clip.text, "written": vocabulary.decode(ids), "drift": drift})
            bar.advance()
    return rows


def rates(rows: Sequence[Mapping[str, Any]]) -> tuple[ErrorRate, ErrorRate]:
    """Word and character error rate of measured rows."""
    references, written = [row["text"] for row in rows], [row["written"] for row in rows]
    return word_error_rate(references, written), character_error_rate(references, written)


def compare_rows(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Comparison:
    """Error rates and drift side by side; drift over the clips that both write without an error."""
    both = [
        (1000 * old["drift"], 1000 * new["drift"])
        for old, new in zip(before, after, strict=True)
        if old["drift"] is not None and new["drift"] is not None
    ]
    words, characters = zip(rates(before), rates(after), strict=True)
    rows = [
        _rate_row("Word error rate", words, [_clip_rate(row, True) for row in before], [_clip_rate(row, True) for row in after]),
        _rate_row("Character error rate", characters, [_clip_rate(row, False) for row in before], [_clip_rate(row, False) for row in after]),
    ]  # fmt: skip
    if both:
        old, new = [one for one, _ in both], [one for _, one in both]
        rows.append(
            ComparisonRow(
                name="Drift latency (ms)",
                before=_estimate(bootstrap_mean(old)),
                after=_estimate(bootstrap_mean(new)),
                difference=_estimate(paired_bootstrap(old, new)),
                n=len(both),
                unit="number",
                better="lower",
                emphasis=True,
            )
        )
    return Comparison(
        title="Errors and latency",
        note="Held-out clips, greedy decoding. Drift: when a token is first written, minus its start in the forced "
        "alignment; over clips that are written without an error before and after. A model's look-ahead comes on top. "
        "Intervals of error rates are over the mean of clips.",
        rows=rows,
        scale="row",
    )


def _rate_row(
    name: str, pooled: tuple[ErrorRate, ...], before: list[float], after: list[float]
) -> ComparisonRow:
    change = paired_bootstrap(before, after)
    return ComparisonRow(
        name=name,
        before=Estimate(pooled[0].rate),
        after=Estimate(pooled[1].rate),
        difference=_estimate(change),
        n=len(before),
        better="lower",
    )


def _clip_rate(row: Mapping[str, Any], words: bool) -> float:
    rate = word_error_rate if words else character_error_rate
    return rate([row["text"]], [row["written"]]).rate


def _estimate(interval: Interval) -> Estimate:
    return Estimate(interval.mean, interval.low, interval.high)
