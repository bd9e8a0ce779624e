"""A world of two voices: a recogniser that knows one, and long recordings of the other with captions that are not right.

Texts are drawn from 60 words and spoken by espeak-ng, so when each utterance is spoken is known exactly.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from coalign.checks.arms import Measures
from coalign.checks.worlds.texts import read_texts
from coalign.speech.audio.audio import SAMPLE_RATE, Samples, read_audio, write_wav
from coalign.speech.audio.error_rates import character_error_rate
from coalign.speech.audio.recordings import Recording
from coalign.speech.audio.synthesis import Voice, speak
from coalign.speech.ctc.losses import ctc_losses
from coalign.speech.ctc.recogniser import Recogniser
from coalign.speech.ctc.small_ctc import SmallCTC, SmallCTCConfig
from coalign.speech.ctc.vocabulary import Vocabulary
from coalign.speech.segmentation.anchored_windows import WindowRules
from coalign.speech.segmentation.long_alignment import align_recording

WORDS: list[str] = read_texts("spoken_words")
HOME, AWAY = Voice("en-us", 165, 50), Voice("en-gb+f4", 180, 65)
CER, EDGES, KEPT = "character error rate", "boundary error (s)", "kept"
MIN_SCORE = -1.0
Clips = list[tuple[str, Samples]]


@dataclass(frozen=True)
class Spoken:
    """A long recording: its file, the caption lines, and for each line when its utterance is spoken (seconds)."""

    recording: Recording
    times: list[tuple[float, float]]


@dataclass(frozen=True)
class VoiceStart:
    """What the arms of a seed share: a recogniser of the home voice, recordings and held-out clips of the other."""

    seed: int
    recogniser: Recogniser
    recordings: list[Spoken]
    held_out: Clips


def voice_start(seed: int, folder: Path, rng: random.Random) -> VoiceStart:
    """Everything of a seed; the recordings are written to `folder`."""
    vocabulary = Vocabulary.of_texts(WORDS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallCTC(SmallCTCConfig(len(vocabulary), hidden_size=96, channels=96, layers=1))
    recogniser = Recogniser(model, vocabulary)
    home = _spoken(240, HOME, rng)
    recordings = away_recordings(folder, rng)
    held_out = _spoken(30, AWAY, rng)
    trained = trained_copy(recogniser, home, seed, steps=350, learning_rate=3e-3)
    return VoiceStart(seed, trained, recordings, held_out)


def away_recordings(folder: Path, rng: random.Random) -> list[Spoken]:
    """Three recordings of the other voice, written to `folder`."""
    return [_recording(folder / f"{name}.wav", rng) for name in ("one", "two", "three")]


def seed_arm(material: VoiceStart) -> Measures:
    """The recogniser of the home voice as it is. It keeps nothing, so it has no boundary error: 0."""
    return {CER: _error_rate(material.recogniser, material.held_out), EDGES: 0.0, KEPT: 0.0}


def adapted_arm(material: VoiceStart, *, whole: bool) -> Measures:
    """Align the recordings (in one pass, or by windows), keep, adapt, measure."""
    clips: Clips = []
    errors: list[float] = []
    for spoken in material.recordings:
        recording = spoken.recording
        found = align_recording(
            material.recogniser,
            recording,
            [(0.0, recording.seconds)],
            WindowRules(),
            outside=Counter(),
            conversions=Counter(),
            whole=whole,
        )
        samples = read_audio(recording.audio)
        for one in found.utterances:
            if one["score"] >= MIN_SCORE and one["end"] > one["start"]:
                start, end = spoken.times[one["row"]]
                errors.append(abs(one["start"] - start) + abs(one["end"] - end))
                cut = samples[int(one["start"] * SAMPLE_RATE) : int(one["end"] * SAMPLE_RATE)]
                clips.append((one["text"], cut))
    if not clips:
        return {CER: _error_rate(material.recogniser, material.held_out), EDGES: 1e3, KEPT: 0.0}
    adapted = trained_copy(material.recogniser, clips, material.seed, steps=80, learning_rate=5e-4)
    lines = sum(len(spoken.times) for spoken in material.recordings)
    return {
        CER: _error_rate(adapted, material.held_out),
        EDGES: float(np.mean(errors)),
        KEPT: len(clips) / lines,
    }


def trained_copy(
    recogniser: Recogniser, clips: Clips, seed: int, *, steps: int, learning_rate: float, batch_size: int = 16
) -> Recogniser:
    """A copy, trained by CTC with a rate that rises over a tenth of the steps and then falls to 0."""
    copied = copy.deepcopy(recogniser)
    copied.model.train()
    optimizer = torch.optim.Adam(copied.model.parameters(), lr=learning_rate)
    rng = random.Random(seed)
    warm = max(steps // 10, 1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min((step + 1) / warm, (steps - step) / (steps - warm))
        batch = rng.choices(clips, k=batch_size)
        logits, lengths = copied.logits([samples for _, samples in batch])
        targets = [copied.vocabulary.encode(text) for text, _ in batch]
        loss = ctc_losses(logits, lengths, targets, copied.vocabulary.blank).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(copied.model.parameters(), 5.0)
        optimizer.step()
    copied.model.eval()
    return copied


def _spoken(count: int, voice: Voice, rng: random.Random) -> Clips:
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(6, 9))) for _ in range(count)]
    return [(text, speak(text, voice)) for text in texts]


def _recording(path: Path, rng: random.Random, utterances: int = 40) -> Spoken:
    """Utterances with gaps of 0.3 to 1 s; captions with missing lines and wrong words."""
    parts: list[Samples] = []
    rows: list[str] = []
    times: list[tuple[float, float]] = []
    now = 0
    for text, samples in _spoken(utterances, AWAY, rng):
        gap = np.zeros(int(rng.uniform(0.3, 1.0) * SAMPLE_RATE), dtype=np.float32)
        sound = _trimmed(samples)
        parts += [gap, sound]
        start = now + len(gap)
        now = start + len(sound)
        if rng.random() >= 0.15:
            rows.append(" ".join(_wrong(word, rng) if rng.random() < 0.1 else word for word in text.split()))
            times.append((start / SAMPLE_RATE, now / SAMPLE_RATE))
    write_wav(path, np.concatenate(parts))
    return Spoken(Recording(path.stem, path, tuple(rows), now / SAMPLE_RATE, str(path)), times)


def _trimmed(samples: Samples) -> Samples:
    """Without the silence that the synthesiser puts around an utterance."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples


def _wrong(word: str, rng: random.Random) -> str:
    return rng.choice([one for one in WORDS if one != word])


def _error_rate(recogniser: Recogniser, clips: Sequence[tuple[str, Samples]]) -> float:
    written = [recogniser.transcribe(samples) for _, samples in clips]
    return character_error_rate([text for text, _ in clips], written).rate
