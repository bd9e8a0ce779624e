"""Long recordings and loose text: windows that move from anchor to anchor.

Rows of text get times by an even rate of speech. Window after window, the text of a row (and what was carried over) is
aligned to the audio since the last anchor, the end of the last utterance that was trusted. Where the last utterance of
a window scores badly, text is dropped from the end, or the next row is taken with more audio; dropped utterances are
carried to the next window. So an error stays within a window, and memory within a window too.

The control flow is that of the official code of arXiv 2210.15226, in typed records. It differs in three places: a
window whose text is longer than its audio keeps its start (the code forgets the audio before it, when it is the
first); scores are kept as they are, and the test for anchors has its own (the code adds a penalty to the score of a
short utterance and takes a fixed 4.0 off later); the last row never takes over what the row before said about a pause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from coalign.core.options import Count, CountOrZero, NonNegative, Positive, option
from coalign.speech.ctc.align import Segment, TextTooLongError

PHONE_SECONDS = 0.08
"""Mean duration of a phone. Source: the official code."""
PHONE_MARGIN = 3
"""How much longer than its phones a text may last."""
PAUSE_REACH_SECONDS = 5.0
"""A pause nearer than this to the window's start does not end a stretch of speech."""
MAX_FAILURES = 10
"""Windows in a row whose text is longer than their audio, after which a recording is given up."""

Interval = tuple[float, float]


@dataclass(kw_only=True)
class WindowRules:
    """Constants of the algorithm; scores are mean natural-log probabilities, lengths seconds or characters."""

    __group__ = "Windows"

    threshold: float = option(
        -2.0, "lowest confidence of an anchor; to be tuned for a model", source="official code"
    )
    instant_accept: float = option(
        -1.0, "confidence above which a window's end is taken at once", source="official code"
    )
    short_utterance: CountOrZero = option(
        30, "characters below which an utterance cannot be an anchor", source="official code"
    )
    max_words: Count = option(24, "longer lines are split", source="official code")
    retime_window: Positive = option(
        70.0, "seconds of a window from which on expected times are made anew", source="official code"
    )
    stop_window: Positive = option(
        500.0, "seconds of a window at which a recording is given up", source="official code"
    )
    min_ratio: NonNegative = option(
        0.8, "text-to-audio ratio below which a window waits for more text", source="official code"
    )
    max_ratio: NonNegative = option(
        10.0, "ratio above which text is dropped before a pause", source="official code"
    )
    min_silence: Positive = option(
        20.0, "seconds of silence that divide stretches of speech", source="official shell script"
    )


DEFAULT_RULES = WindowRules()


class Window(Protocol):
    """A stretch of audio."""

    @property
    def seconds(self) -> float:
        """Its duration; less than was asked for at the end of a recording."""
        ...

    @property
    def frames(self) -> int:
        """Posterior frames of the model."""
        ...

    def align(self, utterances: Sequence[str]) -> list[Segment]:
        """Each utterance's place, in seconds from the window's start; raises `TextTooLongError`."""
        ...


@dataclass(frozen=True)
class Utterance:
    """A piece of a row: at most `max_words` words."""

    row: int
    text: str


@dataclass(frozen=True)
class Aligned:
    """An utterance with its place in the recording, in seconds, and its confidence (mean log-probability)."""

    utterance: Utterance
    start: float
    end: float
    score: float


@dataclass(frozen=True)
class Slot:
    """The expected time of a row, and the pause that follows it, if one does."""

    start: float
    end: float
    pause: Interval | None = None


@dataclass
class Result:
    """What came of a recording: `aligned` in order, and every utterance that was not, with the reason."""

    aligned: list[Aligned] = field(default_factory=list)
    unaligned: list[tuple[Utterance, str]] = field(default_factory=list)
    windows: int = 0


@dataclass(frozen=True)
class _Attempt:
    """A window's text and where it was found; `dropped` are the utterances left for later."""

    utterances: list[Utterance]
    dropped: list[Utterance]
    segments: list[Segment]


def split_words(text: str, max_words: int) -> list[str]:
    """`text` in pieces of at most `max_words` words."""
    words = text.split(" ")
    return [" ".join(words[start : start + max_words]) for start in range(0, len(words), max_words)]


def joined_length(texts: Sequence[str]) -> int:
    """Characters of the texts joined by single spaces."""
    return len(" ".join(texts))


def text_to_audio_ratio(characters: int, seconds: float) -> float:
    """Time the text may take over the time there is: below 1 there is more audio than text."""
    return characters * PHONE_SECONDS * PHONE_MARGIN / seconds if seconds > 0 else float("inf")


def even_times(
    lengths: Sequence[int], speech: Sequence[Interval], duration: float, *, start: float | None = None
) -> list[Slot]:
    """Times of rows at an even rate of characters over the stretches of speech.

    A row that runs past its stretch is cut there, and the next one begins with the next stretch. The last row reaches
    to the end of the recording.

    Args:
        lengths: characters of every row.
        speech: stretches of speech in order.
        duration: of the recording.
        start: from where on; by default from the beginning of the recording, as the official code counts.
    """
    stretches = list(speech)
    now = 0.0
    if start is not None:
        now = start
        stretches = [(begin, end) for begin, end in stretches if end > start] or [(start, duration)]
        stretches[0] = (start, stretches[0][1])
    total, spoken = max(sum(lengths), 1), sum(end - begin for begin, end in stretches)
    slots, current = [], 0
    for index, length in enumerate(lengths):
        begin, now = now, now + length / total * spoken
        end, pause = now, None
        if now >= stretches[current][1]:
            end = stretches[current][1]
            if current + 1 < len(stretches):
                now = stretches[current + 1][0]
                pause = (end, now)
                current += 1
        if index == len(lengths) - 1 and now < duration:
            end = duration
        slots.append(Slot(begin, end, pause))
    return slots


def align_rows(
    rows: Sequence[str],
    speech: Sequence[Interval],
    duration: float,
    open_window: Callable[[float, float], Window],
    rules: WindowRules = DEFAULT_RULES,
    on_row: Callable[[], None] = lambda: None,
    on_accept: Callable[[Window, Sequence[Aligned]], None] = lambda window, aligned: None,
) -> Result:
    """Align rows of text with a recording.

    Args:
        rows: the text in order, normalised as the model writes it.
        speech: stretches of speech between long silences; at least one.
        duration: of the recording, in seconds.
        open_window: (start, seconds) to the window of the recording.
        on_row: called after each row.
        on_accept: called with what a window was left with, while its audio is still at hand.
    """
    lengths = [len(row) for row in rows]
    slots = even_times(lengths, speech, duration)
    result = Result()
    anchor: float | None = None
    carry: list[Utterance] = []
    failures = 0
    for index, row in enumerate(rows):
        is_last = index == len(rows) - 1
        own = [Utterance(index, text) for text in split_words(row, rules.max_words)]
        texts, carry = carry + own, []
        start = anchor if anchor is not None else slots[index].start
        seconds = slots[index].end - start
        if seconds >= rules.stop_window:
            reason = f"lost: no anchor within {rules.stop_window:g} s"
            rest = [Utterance(later, rows[later]) for later in range(index + 1, len(rows))]
            result.unaligned += [(one, reason) for one in texts + rest]
            return result
        crowded = _crowded(texts, seconds, slots[index], start, is_last, rules)
        if seconds >= rules.retime_window or crowded:
            first = min((one.row for one in texts), default=index)
            slots[first:] = even_times(lengths[first:], speech, duration, start=start)
            seconds = slots[index].end - start
            crowded = _crowded(texts, seconds, slots[index], start, is_last, rules)
        window = open_window(start, max(seconds, 0.0))
        ratio = text_to_audio_ratio(joined_length([one.text for one in texts]), window.seconds)
        accepted = None
        if window.seconds <= 0:
            carry = texts
        elif not is_last and ratio < rules.min_ratio:
            carry, anchor = texts, start
        else:
            result.windows += 1
            kept, left = _fitting(texts, window) if crowded and not is_last else (texts, [])
            try:
                accepted = _settle(kept, left, window, rules, is_last)
                failures = 0
                carry, anchor = (accepted.dropped, anchor) if accepted else (texts, start)
            except TextTooLongError:
                failures += 1
                carry, anchor = texts, start
        if accepted:
            places = zip(accepted.utterances, accepted.segments, strict=True)
            now = [Aligned(one, start + at.start, start + at.end, at.score) for one, at in places]
            on_accept(window, now)
            result.aligned += now
            anchor = start + accepted.segments[-1].end
        if failures >= MAX_FAILURES:
            rest = [Utterance(later, rows[later]) for later in range(index + 1, len(rows))]
            reason = f"given up: the text was longer than the audio in {failures} windows in a row"
            result.unaligned += [(one, reason) for one in carry + rest]
            return result
        pause = slots[index].pause
        if pause is not None and not is_last:
            anchor = pause[1]
        on_row()
    result.unaligned += [(one, "no audio left for it") for one in carry]
    return result


def _crowded(
    texts: Sequence[Utterance], seconds: float, slot: Slot, start: float, is_last: bool, rules: WindowRules
) -> bool:
    """Whether a stretch of speech ends here with far more text than audio."""
    if text_to_audio_ratio(joined_length([one.text for one in texts]), seconds) <= rules.max_ratio:
        return False
    return not is_last and slot.pause is not None and abs(slot.pause[0] - start) > PAUSE_REACH_SECONDS


def _fitting(texts: list[Utterance], window: Window) -> tuple[list[Utterance], list[Utterance]]:
    """The first utterances that have fewer characters than the window has frames, and the rest; all if none fit."""
    for count in range(len(texts), 0, -1):
        if joined_length([one.text for one in texts[:count]]) < window.frames:
            return texts[:count], texts[count:]
    return texts, []


def _settle(
    texts: list[Utterance], left: list[Utterance], window: Window, rules: WindowRules, is_last: bool
) -> _Attempt | None:
    """The alignment that the window is left with; None where it needs more audio and more text."""
    previous: _Attempt | None = None
    while True:
        now = _Attempt(texts, left, window.align([one.text for one in texts]))
        score = _anchor_score(now, -1, rules)
        good = score >= rules.threshold
        if is_last:
            return now
        if previous is None:
            if good and (score > rules.instant_accept or len(texts) == 1):
                return now
            if not good and len(texts) == 1:
                return None
            previous = now if good else None
        else:
            before = _anchor_score(previous, -2, rules)
            if score > rules.instant_accept and score != before:
                return now
            if before >= score:
                return previous
            if len(texts) == 1:
                return now if good else None
            if not good:
                return previous
            previous = now
        texts, left = texts[:-1], [texts[-1], *left]


def _anchor_score(attempt: _Attempt, place: int, rules: WindowRules) -> float:
    """The score by which an utterance may become an anchor: short ones may not."""
    short = len(attempt.utterances[place].text) < rules.short_utterance
    return attempt.segments[place].score + (2 * rules.threshold if short else 0.0)
