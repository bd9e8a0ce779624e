"""What weighing domains by gradient alignment costs: training with updates of the weights against training without.

    python benchmarks/mixture_step.py [--every 10 100] [--pairs 3] [--model default]

Both sides train the same adapter on the same random records of as many domains with the trainer that `coalign run dga` uses;
blocks of `every` steps run alternately in one process, one with one update of the weights and one without any. An update takes
K + 1 gradients, each of as many records as a step, so that 1 + (K + 1) / every plain steps are what it should cost. Printed are
medians and the ratio block by block.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from coalign.checks.steps import example
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.curation import dga
from coalign.curation.mixing.domains import Domains
from coalign.models.files.loading import load_for_training
from coalign.training.batches import Example
from coalign.training.modules import fit_module

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Clock(TrainerCallback):
    """Time from the first step's beginning to the end of the training, updates included."""

    def __init__(self, clock: Any) -> None:
        self.clock, self.seconds = clock, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.started = self.clock()

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.seconds = self.clock() - self.started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default", help="hub id, folder or `default`")
    parser.add_argument("--domains", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4, help="records of a step and of a gradient")
    parser.add_argument("--tokens", type=int, default=32, help="of a record")
    parser.add_argument("--every", type=int, nargs="+", default=[10, 100], help="steps between updates")
    parser.add_argument("--pairs", type=int, default=3, help="blocks of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor seconds, for busy machines"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    common = {
        "data": ["a", "b"], "target": "c", "model": arguments.model, "tuning": "lora", "batch_size": arguments.batch,
        "save_steps": 0, "schedule": "constant", "max_length": 512,
    }  # fmt: skip
    model: Any = load_for_training(build(dga.Config, common))
    examples, target = records(arguments, model.config.vocab_size)
    names = [str(one) for one in range(arguments.domains)]
    domains = Domains(names, [], [], [], None, None, [], [])

    def block(steps: int, **changes: Any) -> float:
        config = build(dga.Config, {**common, **changes})
        task = dga.mixture_task(config, domains, examples, target, arguments.batch)
        clock = Clock(CLOCKS[arguments.clock])
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            run = Run(Path(folder))
            fit_module(
                model, task, range(steps * arguments.batch), config, run, callbacks=[clock], quiet=True, max_steps=steps
            )  # fmt: skip
        assert len(task.trajectory) == 1 + (config.weights == "alignment")
        return clock.seconds

    block(2, weights="uniform")
    block(1, update_every=1)
    for every in arguments.every:
        plain, aligned = [], []
        for _ in range(arguments.pairs):
            plain.append(block(every, weights="uniform"))
            aligned.append(block(every, update_every=every))
        ratios = [with_updates / without for with_updates, without in zip(aligned, plain, strict=True)]
        due = 1 + (arguments.domains + 1) / every
        print(
            f"every {every}: {statistics.median(plain) / every:.3f} s a plain step, "
            f"{statistics.median(aligned) / every:.3f} s with updates; ratio {statistics.median(ratios):.3f} "
            f"({', '.join(f'{one:.3f}' for one in ratios)}), due {due:.3f}: {statistics.median(ratios) / due:.3f} of it",
            flush=True,
        )


def records(arguments: argparse.Namespace, vocabulary: int) -> tuple[list[Example], list[Example]]:
    """Random records of every domain, and of the target."""
    draw = np.random.default_rng(0)

    def made(tag: str, number: int) -> Example:
        ids = draw.integers(100, vocabulary, arguments.tokens).tolist()
        return Example(example(ids[:1], [ids[1:]]).contexts, f"{tag}{number}", {}, tag=tag)

    domains = [made(str(tag), number) for tag in range(arguments.domains) for number in range(50)]
    return domains, [made("target", number) for number in range(50)]


if __name__ == "__main__":
    main()
