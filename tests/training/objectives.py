"""Two clipped steps of every objective and of what else learns, as any number of processes does it. Run as a module under a
launcher it is one of two processes: `FOLDER RECIPE`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coalign.cli.running.run import find
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.training.learning import learner
from coalign.training.objective import get_objective
from coalign.training.processes import end_processes
from tests.preference.tiny_runs import (
    SMALL,
    demonstrations,
    feedback,
    judgments,
    pairs,
    rankings,
    save_tiny_model,
    write,
)
from tests.training import in_processes

WAYS: dict[str, dict[str, Any]] = {
    "full": {"tuning": "full"},
    "lora": {"tuning": "lora"},
    "recomputed": {"tuning": "full", "gradient_checkpointing": True},
    "recomputed-lora": {"tuning": "lora", "gradient_checkpointing": True},
}
RECORDS = 10
ROWS = {
    "preference": pairs(RECORDS, confidence=0.8, weight=0.5),
    "feedback": [{**row, "prob_desirable": 0.6} for row in feedback(RECORDS)],
    "ranking": rankings(RECORDS),
    "demonstration": [{**row, "aligned_logp": -3.0, "end_tokens": 1} for row in demonstrations(RECORDS)],
    "judgment": judgments(RECORDS, 5),
    "anchored": rankings(RECORDS, scores=[0, 1, 1]),
}
"""Kind of data to its rows; the last are those that d2o makes."""
OTHERS = ("reward-model", "distillation")
"""What learns without an objective."""
NAMES = (
    "aft", "asft", "bco", "bco-matched", "cdpo", "constraint-ranking", "cpo", "cut", "d2o", "dpo", "hinge-ref",
    "internal-consistency", "ipo", "kto", "ln-dpo", "orpo", "poft", "poft-whole", "pro", "ranking-distillation", "rrhf",
    "self-refinement", "sft", "simpo", "slic-hf", "soft-dpo",
)  # fmt: skip
"""The objectives of the library."""
OWN: dict[str, dict[str, Any]] = {
    "self-refinement": {"margin_window": 2, "smoothing_warmup": 0.0},
    "internal-consistency": {"max_length": 1200},
    "ipo": {"learning_rate": 0.05},  # else its squared distance is almost nothing, and all of it rounding
}
"""Options beside those of the step: what is kept from step to step takes part in the first."""


def material(folder: Path) -> None:
    save_tiny_model(folder / "tiny", context=2048)
    for kind, rows in ROWS.items():
        write(folder / f"{kind}.jsonl", rows)


def train(name: str, way: str, folder: Path, processes: int) -> Run:
    """Two steps over ten records, the second of which has two left, however many processes share them."""
    where = folder / f"{name}-{way}-{processes}"
    if name == "distillation":
        return in_processes.distil(where, folder, processes, **{**WAYS[way], "max_steps": 2})
    kind = "preference" if name in OTHERS else get_objective(name.replace("-", "_")).data
    data = folder / f"{'anchored' if name == 'd2o' else kind}.jsonl"
    system: Any = find(name)[1] if name in OTHERS else learner(name)
    given = {
        "model": str(folder / "tiny"),
        "data": [str(data)],
        "batch_size": 4 // processes,
        "eval_fraction": 0.0,
    }
    answers = {} if name in OTHERS else {"show_answers": 0}
    step = {
        **SMALL,
        **in_processes.STEP,
        **given,
        **answers,
        **WAYS[way],
        **OWN.get(name, {}),
        "max_steps": 2,
    }
    config = build(system.Config, step)
    run = Run.start(where, name, config, seed=0)
    system.run(config, run)
    return run


CHOSEN = [("bco", "recomputed"), ("self-refinement", "lora"), ("rrhf", "recomputed-lora")]
"""Those of every test run: running figures over processes, a reference in every step, a ranking."""


def cases(names: Sequence[str] = (*NAMES, *OTHERS)) -> list[tuple[str, str]]:
    return [(name, way) for name in names for way in WAYS]


def train_all(chosen: Sequence[tuple[str, str]], folder: Path, processes: int) -> None:
    for name, way in chosen:
        train(name, way, folder, processes)


if __name__ == "__main__":
    train_all(cases(), Path(sys.argv[1]), int(os.environ["WORLD_SIZE"]))
    end_processes()
