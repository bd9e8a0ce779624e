"""Tiny runs of systems that learn from speech: (options, files)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.preference.tiny_runs import write

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]


def _recogniser(path: Path) -> object:
    from tests.speech.tiny import tiny_recogniser

    return tiny_recogniser().save(path)


def _clips(path: Path) -> object:
    from tests.speech.tiny import TEXTS, wav

    rows = [{"audio": wav(path.with_name(f"c{n}.wav"), 1.0, n).name, "text": TEXTS[n % 5]} for n in range(5)]
    return write(path, rows)


def _recordings(path: Path) -> object:
    """A manifest, and a folder of the same recordings with their lines beside them."""
    from tests.speech.tiny import TEXTS, wav

    folder = path.with_suffix("")
    folder.mkdir()
    rows = []
    for number in range(2):
        audio = wav(folder / f"r{number}.wav", 8, number)
        audio.with_suffix(".txt").write_text("\n".join(TEXTS))
        rows.append({"audio": f"{folder.name}/{audio.name}", "rows": TEXTS})
    return write(path, rows)


SMALL: dict[str, Tiny] = {
    "awp": (
        {"model": "models/recogniser", "device": "cpu", "data": "clips.jsonl", "max_steps": 2, "batch_size": 2,
         "save_steps": 1, "start_accuracy": 0, "eval_fraction": 0.4},
        {"clips.jsonl": _clips},
    ),
    "pseudo-forced-alignment": (
        {"model": "models/recogniser", "device": "cpu", "data": "recordings.jsonl", "min_score": -30, "threshold": -30,
         "instant_accept": -20, "min_ratio": 0.1, "short_utterance": 1, "max_steps": 2, "batch_size": 2, "save_steps": 0, "rounds": 1,
         "page_sound": "none"},
        {"recordings.jsonl": _recordings},
    ),
}  # fmt: skip
VARIANTS: dict[str, tuple[str, Tiny]] = {}
MODELS: dict[str, Callable[[Path], object]] = {"recogniser": _recogniser}
