"""Align a recording of any length with its lines of text: posteriors window by window, then words in utterances."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from coalign.speech.audio.audio import read_audio
from coalign.speech.audio.recordings import Recording
from coalign.speech.ctc import align as ctc
from coalign.speech.ctc.recogniser import Logps, Recogniser
from coalign.speech.segmentation import anchored_windows as anchored

LOWEST_SCORE = -1000.0
"""What a confidence without a frame is written as: finite and below every threshold."""
WORD_MARGIN = 0.2
"""Seconds around an utterance that are looked at too where its own frames are too few for its words."""


_ROUNDING = 1e-6
"""Of a frame: what a time may be off by in floating point."""

WordRow = dict[str, Any]
"""A word of an utterance: `word`, `start`, `end` (seconds in the recording), `score` (mean probability of its tokens)."""


class AudioWindow:
    """A stretch of a recording; its posteriors are computed when they are first asked for.

    Times are seconds of the recording, which may itself be a stretch of its file.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        recording: Recording,
        start: float,
        seconds: float,
        conversions: Counter[str],
    ) -> None:
        self.recogniser = recogniser
        self.start = start
        self.samples = read_audio(
            recording.audio,
            start=recording.start + start,
            seconds=min(seconds, recording.seconds - start) if recording.part else seconds,
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
        """The words of an utterance between two seconds of the recording, in order, none beyond them.

        Where the utterance's frames are too few for its words, times in a wider stretch are drawn together into it; none
        where that is too short as well.
        """
        frame = self.recogniser.frame_seconds
        first, last = self._frames_within(start, end)
        words = word_times(self.recogniser, self.logps[first:last], text, self.start + first * frame)
        if words:
            return _drawn_into(words, start, end, rescaled=False)
        first, last = self._frames_within(start - WORD_MARGIN, end + WORD_MARGIN)
        words = word_times(self.recogniser, self.logps[first:last], text, self.start + first * frame)
        return _drawn_into(words, start, end, rescaled=True)

    def _frames_within(self, start: float, end: float) -> tuple[int, int]:
        """The frames that lie between two seconds of the recording."""
        frame = self.recogniser.frame_seconds
        first = math.ceil((start - self.start) / frame - _ROUNDING)
        last = math.floor((end - self.start) / frame + _ROUNDING)
        return max(first, 0), min(last, self.frames)


def _drawn_into(words: list[WordRow], start: float, end: float, *, rescaled: bool) -> list[WordRow]:
    """Words with their times between `start` and `end`: as they are, or stretched so that they fill it."""
    if not words:
        return []
    begin, length = words[0]["start"], words[-1]["end"] - words[0]["start"]

    def moved(time: float) -> float:
        place = start + (time - begin) / length * (end - start) if rescaled and length > 0 else time
        return round(min(max(place, start), end), 3)

    return [{**word, "start": moved(word["start"]), "end": moved(word["end"])} for word in words]


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
        speech: stretches of speech of its file. Times of the result are the file's too.
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
        return AudioWindow(recogniser, recording, start, seconds, conversions)

    def find_words(window: anchored.Window, aligned: Sequence[anchored.Aligned]) -> None:
        assert isinstance(window, AudioWindow)
        for one in aligned:
            if one.end > one.start:
                words[one.start, one.end] = window.words(one.utterance.text, one.start, one.end)

    lines = [text for _, text in written]
    if recording.part:
        speech = _within(speech, recording)
    if whole:
        found = _at_once(lines, recording.seconds, open_window, rules, find_words)
    else:
        found = anchored.align_rows(lines, speech, recording.seconds, open_window, rules, on_row, find_words)
    utterances = [
        {
            "row": written[one.utterance.row][0],
            "text": one.utterance.text,
            "start": round(recording.start + one.start, 3),
            "end": round(recording.start + one.end, 3),
            "score": round(max(one.score, LOWEST_SCORE), 6) if one.score > ctc.NO_SCORE else LOWEST_SCORE,
            "words": _shifted(words.get((one.start, one.end), []), recording.start),
        }
        for one in found.aligned
    ]
    unaligned = [
        {"row": written[one.row][0], "text": one.text, "reason": reason} for one, reason in found.unaligned
    ]
    return RecordingAlignment(
        utterances, sorted(empty + unaligned, key=lambda one: one["row"]), found.windows
    )


def _within(speech: Sequence[tuple[float, float]], recording: Recording) -> list[tuple[float, float]]:
    """The stretches of speech that lie in a part of a file, in seconds of the part; all of it where there are none."""
    moved = [
        (max(start, recording.start) - recording.start, min(end, recording.end) - recording.start)
        for start, end in speech
    ]
    return [one for one in moved if one[0] < one[1]] or [(0.0, recording.seconds)]


def _shifted(words: list[WordRow], seconds: float) -> list[WordRow]:
    if not seconds:
        return words
    return [{**one, **{edge: round(one[edge] + seconds, 3) for edge in ("start", "end")}} for one in words]


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
