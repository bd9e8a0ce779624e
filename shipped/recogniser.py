"""Make `default-recogniser`, the CTC recogniser that comes with the package: English from voices of espeak-ng.

    python -m shipped.recogniser --texts gsm8k/train.jsonl tico-19.en --run runs/default-recogniser

The texts are the questions of GSM8K (MIT; openai/grade-school-math) and the English side of TICO-19 (CC0;
tico-19.github.io): sentences without digits, of at most twelve words. Every clip has a text, a voice, a speed, a pitch and
noise of its own, all drawn from the seed. A tenth of the texts and all of `UNHEARD` voices are held out. A killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from coalign.core.files import stream_rows, write_json
from coalign.core.runs import Run
from coalign.models.files.defaults import SHIPPED
from coalign.speech.audio.audio import Samples
from coalign.speech.audio.error_rates import character_error_rate, word_error_rate
from coalign.speech.audio.synthesis import Voice, speak
from coalign.speech.ctc.recogniser import Recogniser
from coalign.speech.ctc.small_ctc import SmallCTC, SmallCTCConfig
from coalign.speech.ctc.training import Clip, CTCTrainingOptions, train_recogniser
from coalign.speech.ctc.vocabulary import Vocabulary

ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-gb-x-gbcwmd")
SPEAKERS = (
    *(f"+m{number}" for number in range(1, 8)),
    *(f"+f{number}" for number in range(1, 5)),
    *("", "+klatt", "+klatt2", "+klatt3", "+Andy", "+Annie", "+Lee", "+Max", "+Steph", "+anika", "+Mike", "+Quincy"),
)  # fmt: skip
UNHEARD = ("en-us+m8", "en-gb+f5", "en-us+klatt4", "en-gb-x-gbclan+Linda", "en-us+John", "en-gb+Alicia")
LETTERS = "abcdefghijklmnopqrstuvwxyz'"
MOST_WORDS = 12


@dataclass(kw_only=True)
class Settings:
    clips: int = 6000
    epochs: float = 5.0
    held_out: int = 200
    width: int = 160
    seed: int = 0


def sentences(files: Sequence[Path], vocabulary: Vocabulary) -> list[str]:
    """The sentences of the files that can be written with letters alone, each once, in their order."""
    found: dict[str, None] = {}
    for path in files:
        lines = (
            (row["question"] for _, row in stream_rows(path))
            if path.suffix == ".jsonl"
            else path.read_text(encoding="utf-8").splitlines()
        )
        for line in lines:
            for one in re.split(r"(?<=[.!?;:])\s+", line):
                if re.fullmatch(r"[A-Za-z',.!?;: -]+", one):
                    text = vocabulary.normalise(one)
                    if 3 <= len(text.split()) <= MOST_WORDS:
                        found[text] = None
    return list(found)


def spoken(text: str, voices: Sequence[str], draw: random.Random) -> Samples:
    """The text in a drawn voice, with white noise 15 to 45 dB below it."""
    voice = Voice(draw.choice(voices), draw.randint(120, 210), draw.randint(25, 75))
    samples = speak(text, voice)
    noise = np.random.default_rng(draw.getrandbits(32)).standard_normal(len(samples))
    level = np.sqrt(np.mean(samples**2)) * 10 ** (-draw.uniform(15, 45) / 20)
    return (samples + level * noise).astype(np.float32)


def clips_of(texts: Sequence[str], count: int, voices: Sequence[str], seed: str) -> list[Clip]:
    """So many clips; a text is said again, by another voice, when all have been said."""
    draw = random.Random(seed)
    order = [text for _ in range(-(-count // len(texts))) for text in draw.sample(texts, len(texts))]
    return [
        Clip(str(place), text, samples=spoken(text, voices, draw)) for place, text in enumerate(order[:count])
    ]


def error_rates(recogniser: Recogniser, clips: Sequence[Clip]) -> dict[str, float]:
    written = [recogniser.transcribe(cast(Any, clip.samples)) for clip in clips]
    texts = [clip.text for clip in clips]
    return {
        "clips": len(clips),
        "character error rate": round(character_error_rate(texts, written).rate, 4),
        "word error rate": round(word_error_rate(texts, written).rate, 4),
    }


def make(texts: Sequence[str], run: Run, settings: Settings) -> dict[str, Any]:
    """Train on nine tenths of the texts, write the model at half precision to the run, measure what was written."""
    vocabulary = Vocabulary.of_texts([LETTERS])
    shuffled = random.Random(settings.seed).sample(list(texts), len(texts))
    kept, rest = shuffled[len(texts) // 10 :], shuffled[: len(texts) // 10]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = SmallCTC(SmallCTCConfig(len(vocabulary), hidden_size=settings.width, channels=settings.width))
    recogniser = Recogniser(cast(Any, model).eval(), vocabulary)
    voices = [accent + speaker for accent in ACCENTS for speaker in SPEAKERS]
    material = clips_of(kept, settings.clips, voices, f"{settings.seed}/training")
    train_recogniser(
        recogniser, material, CTCTrainingOptions(epochs=settings.epochs, seed=settings.seed), run
    )
    recogniser.model.half()
    recogniser.save(run.model)
    recogniser.model.float()
    figures = {
        "texts": len(kept),
        "clips": settings.clips,
        "hours": round(sum(len(cast(Any, one.samples)) for one in material) / 16_000 / 3600, 2),
        "new texts, known voices": error_rates(
            recogniser, clips_of(rest, settings.held_out, voices, f"{settings.seed}/voices")
        ),
        "new texts, new voices": error_rates(
            recogniser, clips_of(rest, settings.held_out, UNHEARD, f"{settings.seed}/unheard")
        ),
    }
    write_json(run.artefacts / "results.json", figures)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", nargs="+", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/default-recogniser"))
    for name, value in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    texts = sentences(given.pop("texts"), Vocabulary.of_texts([LETTERS]))
    path, settings = given.pop("run"), Settings(**given)
    run = Run.start(path, "default-recogniser", settings, seed=settings.seed)
    figures = make(texts, run, settings)
    print(json.dumps(figures, indent=1))
    print(
        f"Copy {run.model} to {SHIPPED['default-recogniser']} when these figures are at least those of its card."
    )


if __name__ == "__main__":
    main()
