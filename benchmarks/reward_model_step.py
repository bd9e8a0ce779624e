"""Steps of reward-model training of coalign and of TRL on the same pairs, alternating in one process.

    pip install 'coalign[bench]'
    python benchmarks/reward_model_step.py [--data pairs.jsonl] [--micro 2] [--checkpointing] [--memory]

Both sides train the same adapter and head (equal initial weights) of the same model on the same token ids with the same
optimizer. Each step runs once on either side, A B A B; printed are medians, the ratio step by step, and the largest
difference of the losses. Peak memory is measured in processes of their own (`--memory`).

`--micro N` lets coalign go through a step in parts of N pairs (`--batch-size N` with gradient accumulation): the step is the
same, its memory is that of a part. Pairs come from where those of `dpo_step.py` do.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import dpo_step as shared
import torch
from dpo_step import CLOCKS, Pair, Step
from torch import nn


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    size = arguments.batch
    pairs = shared.read_pairs(arguments)[: size * (arguments.steps + arguments.warmup)]
    batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    makers = {"coalign": make_coalign, "trl": make_trl}
    if arguments.only:
        run_one(arguments, makers[arguments.only], batches)
        return
    sides = {name: make(arguments)[0] for name, make in makers.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    worst, clock = 0.0, CLOCKS[arguments.clock]
    for number, batch in enumerate(batches):
        losses = {}
        for name, step in sides.items():
            started = clock()
            losses[name] = step(batch)
            shared.synchronise()
            if number >= arguments.warmup:
                times[name].append(clock() - started)
        worst = max(worst, abs(losses["coalign"] - losses["trl"]))
        print(
            f"step {number}: " + "  ".join(f"{name} {value:.6f}" for name, value in losses.items()),
            flush=True,
        )
    report(arguments, times, worst, batches[arguments.warmup :])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default", help="hub id, folder or `default`")
    parser.add_argument("--data", help="preference records; random tokens of the recorded lengths without it")
    parser.add_argument("--batch", type=int, default=8, help="pairs in a step")
    parser.add_argument(
        "--micro", type=int, help="pairs in a forward pass of coalign; by default all of a step"
    )
    parser.add_argument("--steps", type=int, default=5, help="counted steps")
    parser.add_argument("--warmup", type=int, default=1, help="steps before, not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor seconds, for busy machines"
    )
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--checkpointing", action="store_true", help="TRL with activation checkpointing")
    parser.add_argument("--only", choices=["coalign", "trl"], help="run one side and print its peak memory")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory, in a process a side")
    return parser.parse_args()


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"]
    )


def make_base(arguments: argparse.Namespace) -> Any:
    """A classifier of one output with a head that is the same every time, padded with a token that no text has."""
    from transformers import AutoModelForSequenceClassification

    from coalign.models.files.loading import load_pretrained

    torch.manual_seed(0)
    base = load_pretrained(
        AutoModelForSequenceClassification, arguments.model, what="model", num_labels=1, dtype=torch.float32
    )
    base.config.pad_token_id = 0
    return base


def set_trained(model: nn.Module) -> None:
    """The same adapter and head on both sides, ones that have learnt something."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, one in sorted(model.named_parameters()):
            if one.requires_grad:
                scale = 0.01 if "lora_A" not in name else one.shape[1] ** -0.5
                one.copy_(torch.randn(one.shape, generator=draw) * scale)


def make_coalign(arguments: argparse.Namespace) -> tuple[Step, nn.Module]:
    from peft import get_peft_model
    from transformers import TrainingArguments

    from coalign.models.reward_inputs import RewardInputs, RewardText
    from coalign.models.scoring.products import fast_products
    from coalign.training.module_trainer import ModuleTrainer
    from coalign.training.reward_models.task import RewardExample, RewardLossOptions, RewardTask

    model = get_peft_model(make_base(arguments), lora())
    set_trained(model)
    task = RewardTask(RewardInputs(None, "chat", arguments.max_length), RewardLossOptions(), [""])
    training = TrainingArguments(
        output_dir=tempfile.mkdtemp(), report_to="none", use_cpu=True, remove_unused_columns=False, bf16=False
    )
    trainer = ModuleTrainer(model, task, [None], training)
    trainer.current_gradient_accumulation_steps = 1
    optimizer = shared.optimiser(model)
    micro = arguments.micro or arguments.batch

    def example(pair: Pair) -> RewardExample:
        texts = tuple(RewardText((*pair[0], *ids), (0,) * (len(pair[0]) + len(ids))) for ids in pair[1:])
        return RewardExample("", "", texts, (1.0, 0.0))

    def step(batch: list[Pair]) -> float:
        count, loss = torch.tensor(float(len(batch))), 0.0
        for start in range(0, len(batch), micro):
            inputs = task.collate([example(pair) for pair in batch[start : start + micro]])
            with fast_products():  # as a training has them
                loss += float(trainer.training_step(model, inputs, count))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step, model


def make_trl(arguments: argparse.Namespace) -> tuple[Step, nn.Module]:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from coalign.models.files.loading import load_tokenizer

    tokenizer = load_tokenizer(arguments.model)
    tokenizer.pad_token = "<|endoftext|>"
    config = RewardConfig(
        output_dir=tempfile.mkdtemp(),
        report_to="none",
        per_device_train_batch_size=arguments.batch,
        max_length=arguments.max_length,
        gradient_checkpointing=arguments.checkpointing,
        disable_dropout=False,
        use_cpu=True,
        bf16=False,
    )
    trainer = RewardTrainer(
        model=make_base(arguments),
        args=config,
        train_dataset=Dataset.from_list([{"chosen_ids": [5, 6], "rejected_ids": [5, 7]}]),
        processing_class=tokenizer,
        peft_config=lora(),
    )
    trainer.current_gradient_accumulation_steps = 1
    if arguments.checkpointing:  # which `train` would turn on
        trainer.model.enable_input_require_grads()
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    set_trained(trainer.model)
    optimizer = shared.optimiser(trainer.model)

    def step(batch: list[Pair]) -> float:
        rows = [{"chosen_ids": one[0] + one[1], "rejected_ids": one[0] + one[2]} for one in batch]
        loss = trainer.training_step(trainer.model, trainer.data_collator(rows), None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return step, trainer.model


def report(
    arguments: argparse.Namespace, times: dict[str, list[float]], worst: float, counted: list[list[Pair]]
) -> None:
    ratios = [slow / fast for slow, fast in zip(times["trl"], times["coalign"], strict=True)]
    padded = statistics.mean(
        2 * len(one) * max(len(p) + max(len(c), len(r)) for p, c, r in one) for one in counted
    )
    packed = statistics.mean(sum(len(p) + len(c) + len(r) for p, c, r in one) for one in counted)
    print(f"\ntokens in a step: padded {padded:.0f}, shared and packed {packed:.0f} ({padded / packed:.2f}x)")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:8} median {median:.3f} s a step, {arguments.batch / median:.2f} pairs/s")
    print(
        f"ratio trl / coalign: median {statistics.median(ratios):.2f}, "
        f"min {min(ratios):.2f}, max {max(ratios):.2f} over {len(ratios)} steps"
    )
    print(f"largest difference of the losses: {worst:.1e}")
    for name in ("coalign", "trl") if arguments.memory else ():
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        print(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1],
            flush=True,
        )


def run_one(arguments: argparse.Namespace, make: Any, batches: list[list[Pair]]) -> None:
    """Steps of one side alone; prints the peak memory of the process and of the steps above the loaded model."""
    from coalign.core.machine.measure import measure

    step, _ = make(arguments)
    loaded = shared.resident_mb()
    with measure() as spent:
        for batch in batches:
            step(batch)
    above = spent.peak_mb - loaded
    print(f"{arguments.only}: peak memory {spent.peak_mb:.0f} MB, {above:.0f} MB above the loaded model")


if __name__ == "__main__":
    main()
