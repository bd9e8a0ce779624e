"""Loops of rounds as any number of processes runs them. Run as a module under a launcher it is one of them:
`FOLDER RECIPE NAMES`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coalign.core.options import build
from coalign.core.runs import Run
from coalign.core.system import load_system
from coalign.loops import scoring
from coalign.models.generation import generator
from coalign.training.processes import end_processes
from tests.contract.small import SMALL, VARIANTS, Small, furnish

CHOSEN = "cream"
"""That of every test run."""
STEP = {"optimizer": "sgd", "learning_rate": 0.05}
"""AdamW may turn the sign of a gradient that is almost nothing, and later rounds then say something else."""
OWN: dict[str, dict[str, Any]] = {
    "act": {"samples": 12},  # enough to learn from for two processes
    "self-specialization": {"adapter_dropout": 0.0},  # drawn by each process
    "dpa-rag": {
        "reranker_batch_size": 4,
        "weights": "equal",
    },  # else they follow the queries of a process's share
}
OTHERS = ("i-sheep", "act", "cut over rounds", "cyclealign", "scir", "selfie", "self-specialization")
SAMPLING = ("d2o", "ln-dpo as a study", "dpo-insights", "aft", "self-j", "janus")
"""Systems that sample, score and train in turns, once."""
WHOLE = ("reward-transform", "infalign", "dmoerm", "dpa-rag")
"""Systems that need the whole model in every process."""


def furnish_for(folder: Path, *names: str) -> None:
    with inside(folder):
        for name in names:
            furnish(folder, small_of(name)[1])
        for path in Path("models").glob("encoder/config.json"):  # dropout is drawn by each process
            dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
            path.write_text(
                json.dumps({**json.loads(path.read_text(encoding="utf-8")), **dropout}), encoding="utf-8"
            )


def small_of(name: str) -> tuple[str, Small]:
    """The system and the tiny run of a row or of a variant."""
    return VARIANTS[name] if name in VARIANTS else (name, SMALL[name])


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Works in the folder, with batches and chunks so small that there are several."""
    before = Path.cwd(), generator.CPU_ROWS, scoring.CHUNK
    os.chdir(folder)
    generator.CPU_ROWS, scoring.CHUNK = 2, 2
    try:
        yield
    finally:
        os.chdir(before[0])
        generator.CPU_ROWS, scoring.CHUNK = before[1:]


def run_loop(name: str, folder: Path, processes: int) -> Run:
    """A tiny run in a folder of its own beside data and models."""
    method, small = small_of(name)
    system: Any = load_system(method)
    with inside(folder):
        given = {**small.options, **STEP, **OWN.get(name, {})}
        shared = {
            one: given[one] // processes for one in ("batch_size", "reranker_batch_size") if one in given
        }
        config = build(system.Config, {**given, **shared})
        run = Run.start(Path(f"{name}-{processes}"), method, config, seed=0)
        system.run(config, run)
    return Run(folder / run.path)


if __name__ == "__main__":
    for one in sys.argv[3].split(","):
        run_loop(one, Path(sys.argv[1]), int(os.environ["WORLD_SIZE"]))
    end_processes()
