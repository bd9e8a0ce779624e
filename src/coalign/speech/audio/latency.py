"""How late and how rightly a recogniser writes: drift latency against a forced alignment, word and character errors."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coalign.core.progress import progress
from coalign.measures.statistics import paired_bootstrap
from coalign.report.model import Comparison, ComparisonRow
from coalign.report.parts import compared, paired
from coalign.speech.audio.error_rates import ErrorRate, character_error_rate, word_error_rate
from coalign.speech.ctc.align import TextTooLongError, emission_frames, forced_align, greedy
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
    rows = error_rows(before, after)
    if both:
        old, new = map(list, zip(*both, strict=True))
        rows.append(paired("Drift latency (ms)", old, new, unit="number", better="lower", emphasis=True))
    return Comparison(
        "Errors and latency",
        note="Held-out clips, greedy decoding. Drift: when a token is first written, minus its start in the forced "
        "alignment; over clips that are written without an error before and after. A model's look-ahead comes on top. "
        "Intervals of error rates are over the mean of clips.",
        rows=rows,
        scale="row",
    )


def error_rows(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> list[ComparisonRow]:
    """Word and character error rates, pooled over the clips; the intervals of their changes are over the mean of clips."""
    return [
        _error_row("Word error rate", word_error_rate, before, after),
        _error_row("Character error rate", character_error_rate, before, after),
    ]


def _error_row(
    name: str,
    errors: Callable[[Sequence[str], Sequence[str]], ErrorRate],
    *sides: Sequence[Mapping[str, Any]],
) -> ComparisonRow:
    before, after = (
        errors([row["text"] for row in rows], [row["written"] for row in rows]).rate for rows in sides
    )
    clips = ([errors([row["text"]], [row["written"]]).rate for row in rows] for rows in sides)
    return compared(name, before, after, paired_bootstrap(*clips), n=len(sides[0]), better="lower")
