"""Pseudo-forced alignment: text helpers, CTC-segmentation, and whole runs of the window algorithm with an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from coalign.speech.ctc.align import Segment, ground_truth, segment, utterance_segments
from coalign.speech.segmentation import anchored_windows
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "logits_TV" in inputs:
        return _segmentation(inputs, params)
    return _trace(inputs, params) if "rows" in inputs else _text_helpers(inputs, params)


def _segmentation(inputs: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    logps = torch.tensor(inputs["logits_TV"], dtype=torch.float64).log_softmax(-1).numpy()
    states, begins = ground_truth(inputs["utterance_tokens"], params["blank"])
    path = segment(logps, states, params["blank"])
    seconds = params["index_duration"]
    found = utterance_segments(path, begins, seconds, scoring_frames=params["score_min_mean_over_L"])
    return {
        "ground_truth": states,
        "utt_begin_indices": begins,
        "timings": np.asarray(path.frames * seconds, dtype=np.float64),
        "char_probs": path.logps,
        "segments_start_end_score": [[one.start, one.end, one.score] for one in found],
    }


class OracleWindow:
    """Knows where every utterance is: one inside the window has its true place and score, others score -5."""

    frames = 10**9

    def __init__(self, start: float, end: float, truth: dict[str, list[float]], calls: list[Any]) -> None:
        self.start, self.end = start, end
        self.seconds = end - start
        self.truth, self.calls = truth, calls

    def align(self, utterances: Sequence[str]) -> list[Segment]:
        self.calls.append([self.start, self.end, list(utterances)])
        return [self._place(*self.truth[text]) for text in utterances]

    def _place(self, start: float, end: float, score: float) -> Segment:
        inside = start >= self.start - 1e-9 and end <= self.end + 1e-9
        clipped = [min(max(time, self.start), self.end) - self.start for time in (start, end)]
        return Segment(*clipped, score if inside else -5.0)


def _trace(inputs: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    rate, duration = params["sample_rate"], inputs["duration"]
    rules = anchored_windows.WindowRules(
        threshold=params["threshold"],
        short_utterance=params["short_utterance_len"],
        max_words=params["max_words_sequence"],
        retime_window=params["max_window_size"],
        stop_window=params["window_to_stop"],
        min_ratio=params["min_text_to_audio_prop"],
        max_ratio=params["max_text_to_audio_prop_exec"],
    )
    rows = [row.upper() for row in inputs["rows"]]
    speech = [(start, end) for start, end in inputs["vad_segments"]]
    calls: list[Any] = []

    def open_window(start: float, seconds: float) -> OracleWindow:
        end = (int(start * rate) + int(seconds * rate)) / rate
        return OracleWindow(start, end, inputs["truth_start_end_score"], calls)

    found = anchored_windows.align_rows(rows, speech, duration, open_window, rules)
    times = anchored_windows.even_times([len(row) for row in rows], speech, duration)

    def penalty(text: str) -> float:  # the official code leaves it in the score of a short utterance
        return 2 * rules.threshold if len(text) < rules.short_utterance else 0.0

    return {
        "initial_time_refs": [[round(slot.start, 6), round(slot.end, 6), "Speech"] for slot in times],
        "aligner_calls": calls,
        "alignments": [
            [one.start, one.end, one.score + penalty(one.utterance.text), one.utterance.text]
            for one in found.aligned
        ],
    }


def _text_helpers(inputs: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    assert params["margin_time"] == anchored_windows.PHONE_MARGIN
    assert params["mean_phoneme_s"] == anchored_windows.PHONE_SECONDS
    split = [anchored_windows.split_words(text, params["max_words"]) for text in inputs["texts"]]
    return {
        "proportion": [
            anchored_windows.text_to_audio_ratio(characters, samples / rate)
            for samples, characters, rate in inputs["audio_samples_textlen_sr"]
        ],
        "split": split,
        "text_length_joined": [anchored_windows.joined_length(texts) for texts in split],
    }
