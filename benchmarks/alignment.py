"""The aligner against ctc-segmentation and a plain NumPy trellis, and an hour of audio in bounded memory.

    python benchmarks/alignment.py                # 30 minutes, all three alternate
    python benchmarks/alignment.py --even         # the same at an even rate of speech
    python benchmarks/alignment.py --minutes 60 --only coalign
    python benchmarks/alignment.py --hour         # an hour of synthesised speech, windows and one pass, peak memory

The first two align synthetic log-probabilities of the right shape (20 ms frames, 32 tokens, 15 tokens a second in
utterances of 40 with uneven gaps) whose true times are known. Sides alternate
(A B C A B C) in one process; figures are medians. `--hour` needs espeak-ng; it trains a small recogniser first, or
takes that of `--model`.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalign.core.machine.measure import measure, peak_memory_mb
from coalign.speech.ctc.align import LoosePath, ground_truth, segment, utterance_segments

FRAME, LABELS, BLANK = 0.02, 32, 0
Segments = list[tuple[float, float, float]]


def make_case(
    minutes: float, even: bool = False, seed: int = 0
) -> tuple[NDArray[np.float32], list[list[int]], list[tuple[float, float]]]:
    """Log-probabilities [T, V], token ids of the utterances, and when each is spoken (first to last token)."""
    rng = np.random.default_rng(seed)
    frames = int(minutes * 60 / FRAME)
    places, texts, now = [], [], 25
    while True:
        spots = now + np.cumsum(rng.integers(1, 6, 40))
        if spots[-1] + 100 > frames:
            break
        places.append(spots)
        texts.append(rng.integers(1, LABELS, 40).tolist())
        now = int(spots[-1]) + (55 if even else int(rng.exponential(45)) + 10)
    logits = rng.normal(0, 1, (frames, LABELS)).astype(np.float32)
    logits[:, BLANK] += 6
    spots, tokens = np.concatenate(places), np.concatenate(texts)
    logits[spots, BLANK] -= 6
    logits[spots, tokens] += 4
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return logits, texts, [(spot[0] * FRAME, spot[-1] * FRAME) for spot in places]


def ours(logps: NDArray[np.float32], texts: list[list[int]]) -> Segments:
    states, begins = ground_truth(texts, BLANK)
    found = utterance_segments(segment(logps, states, BLANK), begins, FRAME)
    return [(one.start, one.end, one.score) for one in found]


def ctc_segmentation(logps: NDArray[np.float32], texts: list[list[int]]) -> Segments:
    import ctc_segmentation as package

    config = package.CtcSegmentationParameters(
        index_duration=FRAME, blank=BLANK, char_list=[str(label) for label in range(LABELS)]
    )
    matrix, begins = package.prepare_token_list(config, [np.array(text) for text in texts])
    timings, probs, _ = package.ctc_segmentation(config, logps, matrix)
    return package.determine_utterance_segments(config, begins, probs, timings, [""] * len(texts))


def numpy_trellis(logps: NDArray[np.float32], texts: list[list[int]]) -> Segments:
    """The same recursion, a row a frame; where a state was entered is kept as bits, for every frame and state."""
    states, begins = ground_truth(texts, BLANK)
    labels = np.maximum(states, 0)
    scores = np.full(len(states), -np.inf, dtype=np.float32)
    scores[0] = 0
    entered = []
    best, end = -np.inf, 0
    for t in range(1, len(logps)):
        emission = logps[t, labels]
        stay = scores + np.maximum(emission, logps[t, BLANK])
        stay[0] = 0
        enter = np.full_like(scores, -np.inf)
        enter[1:] = scores[:-1] + emission[1:]
        entered.append(np.packbits(enter > stay))
        scores = np.maximum(stay, enter)
        if scores[-1] > best:
            best, end = scores[-1], t
    frames, taken = np.zeros(len(states), dtype=np.int64), np.zeros(len(logps))
    state = len(states) - 1
    for t in range(end, 0, -1):
        emission, blank = logps[t, labels[state]], logps[t, BLANK]
        if entered[t - 1][state >> 3] >> (7 - (state & 7)) & 1:
            frames[state], taken[t] = t, emission
            state -= 1
        else:
            taken[t] = max(emission, blank) if state else blank
    found = utterance_segments(LoosePath(frames, taken, float(best)), begins, FRAME)
    return [(one.start, one.end, one.score) for one in found]


SIDES: dict[str, Callable[[NDArray[np.float32], list[list[int]]], Segments]] = {
    "coalign": ours,
    "ctc-segmentation": ctc_segmentation,
    "NumPy trellis": numpy_trellis,
}


def boundary_error(segments: Segments, truth: list[tuple[float, float]]) -> float:
    """Mean of |start| + |end| in milliseconds, against the first and the last token."""
    errors = [
        abs(start - begin) + abs(end - close)
        for (start, end, _), (begin, close) in zip(segments, truth, strict=True)
    ]
    return 1000 * statistics.fmean(errors)


def compare(minutes: float, repeats: int, only: str | None, even: bool) -> None:
    logps, texts, truth = make_case(minutes, even)
    states = len(ground_truth(texts, BLANK)[0])
    print(f"{minutes:g} minutes: {len(logps)} frames, {states} states, {len(texts)} utterances", flush=True)
    sides = {name: side for name, side in SIDES.items() if only in (None, name)}
    small = make_case(1)
    for side in sides.values():
        side(*small[:2])  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    before = peak_memory_mb()
    for _ in range(repeats):
        for name, side in sides.items():
            with measure() as spent:
                started = time.process_time()
                found = side(logps, texts)
            seconds[name].append(time.process_time() - started)
            print(
                f"  {name}: {seconds[name][-1]:.2f} s, boundary error {boundary_error(found, truth):.2f} ms, peak "
                f"{spent.peak_mb - before:.0f} MB above the inputs",
                flush=True,
            )
    for name in list(sides)[1:]:
        ratios = [theirs / mine for theirs, mine in zip(seconds[name], seconds["coalign"], strict=True)]
        print(
            f"{name} / coalign: median {statistics.median(ratios):.1f}, {min(ratios):.1f} to {max(ratios):.1f}"
        )


def hour(minutes: float, model: str | None, windows_only: bool) -> None:
    """Align an hour of speech with its text, window by window and in one pass."""
    import soundfile

    from coalign.checks.worlds.speech import voices as world
    from coalign.speech.audio.audio import SAMPLE_RATE, read_audio
    from coalign.speech.audio.recordings import Recording
    from coalign.speech.ctc.recogniser import load_recogniser
    from coalign.speech.segmentation.anchored_windows import WindowRules
    from coalign.speech.segmentation.long_alignment import align_recording

    with tempfile.TemporaryDirectory() as scratch:
        rng = random.Random(0)
        if model is None:
            material = world.voice_start(0, Path(scratch), rng)
            recogniser, recordings = material.recogniser, material.recordings
        else:
            recogniser, recordings = load_recogniser(model), world.away_recordings(Path(scratch), rng)
        parts = [(read_audio(one.recording.audio), one) for one in recordings]
        path, rows, times = Path(scratch) / "hour.wav", [], []
        turn, now = 0, 0.0
        with soundfile.SoundFile(str(path), "w", SAMPLE_RATE, 1) as file:
            while now < minutes * 60:
                samples, spoken = parts[turn % len(parts)]
                turn += 1
                file.write(samples)
                rows += spoken.recording.rows
                times += [(now + start, now + end) for start, end in spoken.times]
                now += len(samples) / SAMPLE_RATE
        del parts
        recording = Recording("hour", path, tuple(rows), now, str(path))
        print(f"{now / 60:.1f} minutes of speech, {len(rows)} lines", flush=True)
        for whole in (False,) if windows_only else (False, True):
            counted: dict[str, Any] = {"outside": Counter(), "conversions": Counter()}
            start = peak_memory_mb()
            with measure() as spent:
                found = align_recording(
                    recogniser, recording, [(0.0, now)], WindowRules(), whole=whole, **counted
                )
            errors = [
                abs(one["start"] - times[one["row"]][0]) + abs(one["end"] - times[one["row"]][1])
                for one in found.utterances
                if one["score"] >= -1
            ]
            print(
                f"  {'one pass' if whole else 'windows'}: {spent.seconds:.0f} s, peak {spent.peak_mb:.0f} MB (process "
                f"before: {start:.0f} MB), {len(errors)} of {len(rows)} kept, boundary error "
                f"{1000 * statistics.fmean(errors):.0f} ms",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=None, help="30 by default; 60 with --hour")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=list(SIDES))
    parser.add_argument("--even", action="store_true", help="pauses of equal length")
    parser.add_argument("--hour", action="store_true")
    parser.add_argument("--model", help="--hour: folder of a recogniser of English")
    parser.add_argument("--windows-only", action="store_true", help="--hour: without the one pass")
    arguments = parser.parse_args()
    if arguments.hour:
        hour(arguments.minutes or 60, arguments.model, arguments.windows_only)
    else:
        compare(arguments.minutes or 30, arguments.repeats, arguments.only, arguments.even)


if __name__ == "__main__":
    main()
