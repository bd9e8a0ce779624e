"""GRPO steps of coalign and of TRL at the same model, adapter, prompts and lengths, in processes that alternate.

    pip install 'coalign[bench]'
    python benchmarks/grpo_step.py [--pairs 2] [--steps 2] [--checkpointing] [--batch-size 4]

A step samples 8 responses of at most 64 new tokens to every prompt, values them, and updates a LoRA adapter of rank 16 on all linear
layers: float32, temperature 1, no reference (TRL's default), one update a rollout. Every run is a process of its own, so peak memory
is that of one side; its first step is not counted. The loop is the whole one on both sides: what is sampled is written, logged and
decoded as in a run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("Mara", "Tom", "Ines", "Paul", "Rosa", "Nils", "Vera", "Omar")
PROMPTS = [
    f"{name} runs a small bakery. On Monday {name} bakes {12 + n} trays with {6 + n} rolls on each tray and sells all but {7 + n} of the "
    f"rolls. On Tuesday there are {3 + n} trays more than on Monday, and {4 + n} rolls are given to a neighbour before the shop opens. "
    f"A roll costs {n + 2} coins. How many coins does {name} take on both days together, if every other roll is sold? Explain "
    "every step in full sentences before you give the answer."
    for n, name in enumerate(NAMES)
]
"""Word problems of about 127 tokens with the chat template."""
THINGS = ("river", "garden", "harbour", "library")
SHORT = [f"Write a long story about a {one} and the people who live near it." for one in THINGS]
"""About 45 tokens."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    arguments = parse()
    if arguments.only:
        print(json.dumps(run_one(arguments)))
        return
    found: dict[str, list[dict[str, Any]]] = {"coalign": [], "trl": []}
    for number in range(arguments.pairs):
        for name in sorted(found, reverse=bool(number % 2)):
            command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(name, found[name][-1], flush=True)
    report(found)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default")
    parser.add_argument("--short", action="store_true", help="prompts of about 45 tokens in place of 127")
    parser.add_argument("--prompts", type=int, default=1, help="prompts of a step")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=2, help="runs of each side")
    parser.add_argument("--steps", type=int, default=2, help="counted steps of a run, after one that is not")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor seconds, for busy machines"
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, help="responses in a forward pass of coalign's update"
    )
    parser.add_argument(
        "--checkpointing", action="store_true", help="recompute activations on TRL's side (its default)"
    )
    parser.add_argument("--only", choices=("coalign", "trl"))
    return parser.parse_args()


def run_one(arguments: argparse.Namespace) -> dict[str, Any]:
    os.environ.setdefault("OMP_NUM_THREADS", str(arguments.threads))
    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        side = run_coalign if arguments.only == "coalign" else run_trl
        timer = side(arguments, Path(folder))
    from coalign.core.machine.measure import peak_memory_mb

    return {
        "seconds": timer.seconds[1:],
        "sampling": timer.sampling[1:],
        "tokens": timer.tokens,
        "peak_mb": round(peak_memory_mb()),
    }


def make_timer(clock: Any) -> Any:
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        """Seconds from the beginning to the end of each step, rollout included."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.sampling: list[float] = []
            self.tokens: float = 0.0
            self._started = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self._started = clock()

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.seconds.append(round(clock() - self._started, 3))

    return Timer()


def vowels(text: str) -> float:
    return sum(one in "aeiou" for one in text) / max(len(text), 1)


def run_coalign(arguments: argparse.Namespace, folder: Path) -> Any:
    from types import SimpleNamespace

    from transformers import set_seed

    from coalign.core.options import build
    from coalign.core.runs import Run
    from coalign.loops import reinforcement
    from coalign.loops.online import online_learner
    from coalign.models.files.loading import load_for_training, load_tokenizer
    from coalign.training.online.methods import get_online_method

    timer = make_timer(CLOCKS[arguments.clock])
    learner = online_learner("grpo")
    config = build(
        learner.Config,
        {
            "prompts": "none", "reward": ["max_words:1"], "model": arguments.model, "device": "cpu", "samples": arguments.samples,
            "prompts_per_step": arguments.prompts, "max_new_tokens": arguments.new_tokens, "epochs": 99, "max_steps": arguments.steps + 1,
            "batch_size": arguments.batch_size, "learning_rate": 1e-5, "save_steps": 0, "schedule": "constant",
        },
    )  # fmt: skip
    tokenizer = load_tokenizer(config)
    set_seed(0)
    model: Any = load_for_training(config)
    loop = reinforcement.Reinforcement(
        method=get_online_method("grpo"),
        constants=config,
        config=config,
        run=Run.start(folder / "run", "grpo", config),
        prompts=[
            SimpleNamespace(id=str(n), prompt=[{"role": "user", "content": one}])
            for n, one in enumerate(SHORT if arguments.short else PROMPTS)
        ],
        score=lambda rows: [{"rewards": [vowels(one) for one in row["responses"]]} for row in rows],
    )
    fit = reinforcement.fit_module

    def timed(*given: Any, callbacks: Any, **more: Any) -> Any:
        return fit(*given, callbacks=[timer, *callbacks], **more)

    reinforcement.fit_module = timed
    result = reinforcement.reinforce(loop, model, tokenizer)
    timer.sampling = [event["sampling_seconds"] for event in loop.run.events("rollout")]
    timer.tokens = statistics.fmean(
        row["length/response"] for row in result.history if "length/response" in row
    )
    return timer


def run_trl(arguments: argparse.Namespace, folder: Path) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    from coalign.models.files.loading import load_tokenizer, locate
    from coalign.models.options import ModelOptions

    timer = make_timer(CLOCKS[arguments.clock])
    options = ModelOptions(model=arguments.model)
    model = AutoModelForCausalLM.from_pretrained(locate(arguments.model).path, dtype="float32")
    rows = [{"prompt": [{"role": "user", "content": one}]} for one in (SHORT if arguments.short else PROMPTS)]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **rest: [vowels(one[0]["content"]) for one in completions],
        args=GRPOConfig(
            output_dir=str(folder), per_device_train_batch_size=arguments.samples * arguments.prompts, num_generations=arguments.samples,
            max_completion_length=arguments.new_tokens, max_steps=arguments.steps + 1, learning_rate=1e-5, bf16=False, use_cpu=True,
            lr_scheduler_type="constant", report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1,
            gradient_checkpointing=arguments.checkpointing,
        ),
        train_dataset=Dataset.from_list(rows * 99),
        processing_class=load_tokenizer(options),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[timer],
    )  # fmt: skip
    generate = trainer._generate

    def timed(*given: Any, **more: Any) -> Any:
        started = time.perf_counter()
        found = generate(*given, **more)
        timer.sampling.append(round(time.perf_counter() - started, 3))
        return found

    trainer._generate = timed
    trainer.train()
    lengths = [
        row["completions/mean_length"]
        for row in trainer.state.log_history
        if "completions/mean_length" in row
    ]
    timer.tokens = statistics.fmean(lengths)
    return timer


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    medians = {}
    for name, runs in found.items():
        seconds = [one for run in runs for one in run["seconds"]]
        medians[name] = statistics.median(seconds)
        print(
            f"{name}: {medians[name]:.2f} s a step (median of {len(seconds)}; {min(seconds):.2f} to {max(seconds):.2f}), sampling "
            f"{statistics.median(one for run in runs for one in run['sampling']):.2f} s wall, {statistics.fmean(run['tokens'] for run in runs):.1f} "
            f"tokens a response, peak {max(run['peak_mb'] for run in runs)} MB"
        )
    ratios = [
        statistics.median(trl["seconds"]) / statistics.median(own["seconds"])
        for own, trl in zip(found["coalign"], found["trl"], strict=True)
    ]
    print(
        f"trl / coalign: {medians['trl'] / medians['coalign']:.2f}, pair by pair {', '.join(f'{one:.2f}' for one in ratios)}; memory "
        f"{max(r['peak_mb'] for r in found['coalign']) / min(r['peak_mb'] for r in found['trl']):.2f}"
    )


if __name__ == "__main__":
    main()
