"""Tiny recognisers with random weights, and sound that is not speech."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from coalign.speech.audio.audio import SAMPLE_RATE, Samples, write_wav
from coalign.speech.ctc.recogniser import Recogniser, samples_per_frame
from coalign.speech.ctc.small_ctc import SmallCTC, SmallCTCConfig
from coalign.speech.ctc.vocabulary import Vocabulary

TEXTS = [
    "the river runs",
    "old men sing",
    "a boat goes down",
    "young horses follow",
    "bread for winter nights",
]


def timed(start: float, end: float, score: float, **more: Any) -> dict[str, Any]:
    """A stretch of an alignment."""
    return {"start": start, "end": end, "score": score, **more}


def tone(seconds: float, seed: int = 0, sample_rate: int = SAMPLE_RATE) -> Samples:
    """Noise whose loudness rises and falls."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(0, 0.1, int(seconds * sample_rate))
    return (samples * (1.1 + np.sin(np.arange(len(samples)) / 2000))).astype(np.float32)


def tiny_recogniser(seed: int = 0, streaming: bool = False) -> Recogniser:
    vocabulary = Vocabulary.of_texts(TEXTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = SmallCTCConfig(
            len(vocabulary), mels=16, channels=12, hidden_size=12, layers=1, bidirectional=not streaming
        )
        model = SmallCTC(config).eval()
    return Recogniser(model, vocabulary, samples_per_frame=samples_per_frame(model, SAMPLE_RATE))


def wav(path: Path, seconds: float, seed: int = 0) -> Path:
    write_wav(path, tone(seconds, seed))
    return path
