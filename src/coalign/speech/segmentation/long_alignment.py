"""Align a recording of any length with its lines of text: posteriors window by window, then words in utterances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.speech.audio.audio import read_audio
from coalign.speech.audio.recordings import Recording
from coalign.speech.ctc import align as ctc
from coalign.speech.ctc.recogniser import Logps, Recogniser
from coalign.speech.segmentation import anchored_windows as anchored

LOWEST_SCORE = -1000.0
"""What a confidence without a frame is written as: finite and below every threshold."""
WORD_MARGIN = 0.2
"""Seconds around an utterance in which its words may lie."""


WordRow = dict[str, Any]
"""A word of an utterance: `word`, `start`, `end` (seconds in the recording), `score` (mean probability of its tokens)."""


class AudioWindow:
    """A stretch of a recording; its posteriors are computed when they are first asked for."""

    def __init__(
        self, recogniser: Recogniser, path: Path, start: float, seconds: float, conversions: Counter[str]
    ) -> None:
        self.recogniser = recogniser
        self.start = start
        self.samples = read_audio(
            path,
            start=start,
            seconds=seconds,
            sample_rate=recogniser.sample_rate,
            conversions=conversions,
        )
        self._logps: Logps | None = None

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.recogniser.sample_rate

    @property
    def logps(self) -> Logps:
        if self._logps is None:
            self._logps = self.recogniser.logps(self.samples)
        return self._logps

    @property
    def frames(self) -> int:
        return len(self.logps)

    def align(self, utterances: Sequence[str]) -> list[ctc.Segment]:
        """See `coalign.speech.segmentation.anchored_windows.Window`."""
        vocabulary = self.recogniser.vocabulary
        states, begins = ctc.ground_truth([vocabulary.encode(one) for one in utterances], vocabulary.blank)
        path = ctc.segment(self.logps, states, vocabulary.blank)
        return ctc.utterance_segments(path, begins, self.recogniser.frame_seconds)

    def words(self, text: str, start: float, end: float) -> list[WordRow]:
        """The words of an utterance between two seconds of the recording; none where there are too few frames."""
        frame = self.recogniser.frame_seconds
        first = max(round((start - self.start - WORD_MARGIN) / frame), 0)
        last = min(round((end - self.start + WORD_MARGIN) / frame), self.frames)
        return word_times(self.recogniser, self.logps[first:last], text, self.start + first * frame)


def word_times(recogniser: Recogniser, logps: Logps, text: str, start: float) -> list[WordRow]:
    """The words of `text` by forced alignment with `logps` [T, V], which begin at second `start`."""
    vocabulary, frame = recogniser.vocabulary, recogniser.frame_seconds
    parts = [vocabulary.encode(word) for word in text.split()]
    delimiter = vocabulary.encode(" ") if vocabulary.tokenizer is None else []
    ids = [one for index, part in enumerate(parts) for one in (delimiter if index else []) + part]
    try:
        spans, _ = ctc.forced_align(logps, ids, vocabulary.blank)
    except ctc.TextTooLongError:
        return []
    found, place = [], 0
    for index, (word, part) in enumerate(zip(text.split(), parts, strict=True)):
        place += len(delimiter) if index else 0
        own = spans[place : place + len(part)]
        place += len(part)
        if own:
            score = sum(span.score for span in own) / len(own)
            begin, end = start + own[0].start * frame, start + own[-1].end * frame
            found.append(
                {"word": word, "start": round(begin, 3), "end": round(end, 3), "score": round(score, 4)}
            )
    return found


@dataclass
class RecordingAlignment:
    """A recording with its utterances.

    Attributes:
        utterances: rows `row` (0-based line of text), `text`, `start`, `end`, `score`, `words`.
        unaligned: rows `row`, `text`, `reason`.
    """

    utterances: list[dict[str, Any]]
    unaligned: list[dict[str, Any]]
    windows: int


def align_recording(
    recogniser: Recogniser,
    recording: Recording,
    speech: Sequence[tuple[float, float]],
    rules: anchored.WindowRules,
    *,
    outside: Counter[str],
    conversions: Counter[str],
    on_row: Callable[[], None] = lambda: None,
    whole: bool = False,
) -> RecordingAlignment:
    """Align a recording.

    Args:
        speech: its stretches of speech.
        outside, conversions: count characters outside the vocabulary, and what was done to the audio.
        whole: align all text with all audio at once instead of window by window.
    """
    texts = [recogniser.vocabulary.normalise(row, outside) for row in recording.rows]
    written = [(row, text) for row, text in enumerate(texts) if text]
    empty = [
        {"row": row, "text": recording.rows[row], "reason": "nothing in it can be written by the model"}
        for row, text in enumerate(texts)
        if not text
    ]
    words: dict[tuple[float, float], list[WordRow]] = {}

    def open_window(start: float, seconds: float) -> AudioWindow:
        return AudioWindow(recogniser, recording.audio, start, seconds, conversions)

    def find_words(window: anchored.Window, aligned: Sequence[anchored.Aligned]) -> None:
        assert isinstance(window, AudioWindow)
        for one in aligned:
            if one.end > one.start:
                words[one.start, one.end] = window.words(one.utterance.text, one.start, one.end)

    lines = [text for _, text in written]
    if whole:
        found = _at_once(lines, recording.seconds, open_window, rules, find_words)
    else:
        found = anchored.align_rows(lines, speech, recording.seconds, open_window, rules, on_row, find_words)
    utterances = [
        {
            "row": written[one.utterance.row][0],
            "text": one.utterance.text,
            "start": round(one.start, 3),
            "end": round(one.end, 3),
            "score": round(max(one.score, LOWEST_SCORE), 6) if one.score > ctc.NO_SCORE else LOWEST_SCORE,
            "words": words.get((one.start, one.end), []),
        }
        for one in found.aligned
    ]
    unaligned = [
        {"row": written[one.row][0], "text": one.text, "reason": reason} for one, reason in found.unaligned
    ]
    return RecordingAlignment(
        utterances, sorted(empty + unaligned, key=lambda one: one["row"]), found.windows
    )


def _at_once(
    rows: Sequence[str],
    duration: float,
    open_window: Callable[[float, float], AudioWindow],
    rules: anchored.WindowRules,
    on_accept: Callable[[anchored.Window, Sequence[anchored.Aligned]], None],
) -> anchored.Result:
    """One window over the whole recording, every utterance accepted."""
    texts = [
        anchored.Utterance(row, text)
        for row, line in enumerate(rows)
        for text in anchored.split_words(line, rules.max_words)
    ]
    window = open_window(0.0, duration + 1)
    try:
        places = window.align([one.text for one in texts])
    except ctc.TextTooLongError:
        return anchored.Result(
            unaligned=[(one, "the text is longer than the audio") for one in texts], windows=1
        )
    aligned = [
        anchored.Aligned(one, at.start, at.end, at.score) for one, at in zip(texts, places, strict=True)
    ]
    on_accept(window, aligned)
    return anchored.Result(aligned, windows=1)
