"""Stored scores and accuracies of response strategies, as the folder of XuanRen4470/SPPL has them; read, never copied."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from coalign.core.errors import DataError
from coalign.core.files import parse_json

GOLD = "gold_label"
"""The strategy of bare right answers, which is left out of the spread."""
_BOOK = Path("Mix_Score_Ranking_Calculation/Mix_Score_record/record_book")
_RUNS = Path("log_total/experiment_data_recorder")
_TUNING = Path("1000/2e-05/20")
_NAME = re.compile(r"300_icppl_(mistral|llama_3_instruct|qwen)_(\w+)_0_100_main_3_examples\.json")


@dataclass(frozen=True)
class StoredTask:
    """One task for one model.

    Attributes:
        self_aligned, perplexity: strategy to its mean over 100 answers.
        accuracies: strategy to the mean accuracy over the stored seeds, after tuning on 1,000 of its answers.
    """

    model: str
    task: str
    self_aligned: Mapping[str, float]
    perplexity: Mapping[str, float]
    accuracies: Mapping[str, float]


def read_strategies(folder: Path) -> list[StoredTask]:
    """The tasks of a checkout of the repository (those of PlanBench aside), with the strategies that have all three.

    Raises:
        DataError: the folder has no such records.
    """
    found = []
    for path in sorted((folder / _BOOK).glob("300_icppl_*_0_100_main_3_examples.json")):
        name = _NAME.fullmatch(path.name)
        if name is None or name[2].startswith("plan_bench"):
            continue
        model, task = name.groups()
        other = path.with_name(f"300_other_metrics_{model}_{task}_0_100_unprocessed.json")
        if not other.exists():
            continue
        mine = {key.removeprefix(f"{task}_"): value for key, value in _read(path).items()}
        plain = {key.removeprefix(f"{task}_"): value["perplexity"] for key, value in _read(other).items()}
        accuracies = {
            one: _accuracy(folder / _RUNS / model / _TUNING, task, one) for one in mine if one in plain
        }
        known = {one: value for one, value in accuracies.items() if value is not None}
        if len(known) > 2:
            found.append(
                StoredTask(
                    model, task, {one: mine[one] for one in known}, {one: plain[one] for one in known}, known
                )
            )
    if not found:
        raise DataError(
            f"{folder}: no stored scores of strategies.",
            hint=f"Expected a checkout of github.com/XuanRen4470/SPPL, with {_BOOK} and {_RUNS}.",
        )
    return found


def _accuracy(folder: Path, task: str, strategy: str) -> float | None:
    """Mean over seeds of a strategy's runs; None without any."""
    stems = (
        f"{task}_{strategy}_",
        f"{task}_gpt4_variation_{strategy}",
        f"{task}_groundtruth_variation_{strategy}",
    )
    for stem in stems:
        values = [
            float(path.read_text(encoding="utf-8").split()[0])
            for path in sorted(folder.glob(f"{stem}_[0-9].txt"))
            if path.stat().st_size
        ]
        if values:
            return fmean(values)
    return None


def _read(path: Path) -> dict[str, Any]:
    return parse_json(path.read_text(encoding="utf-8"))
