"""Steps of supervised fine-tuning of coalign, of TRL as it comes (padded) and of TRL with its packing, in one process.

    pip install 'coalign[bench]'
    python benchmarks/sft_packing.py [--batch 16] [--steps 3] [--threads 1 --clock cpu]

All sides train the same adapter (equal initial weights) of the same model on the same token ids with the same optimizer; a
batch runs once on each, in turn. Printed are medians, the ratios step by step, the share of tokens that are no padding, and
the largest difference of the losses of a step and of single samples from the padded side's.

Chats are random tokens with log-normal lengths (median 40, at most 512 tokens), of which the last two thirds are the answer.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dpo_step as shared
import torch
from dpo_step import CLOCKS
from torch.nn.functional import cross_entropy

Chat = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Side:
    """`step` takes a batch's gradient step and returns its loss; `losses` are those of its samples; `tokens` are computed."""

    step: Callable[[Sequence[Chat]], float]
    losses: Callable[[Sequence[Chat]], list[float]]
    tokens: Callable[[Sequence[Chat]], int]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    size, counted = arguments.batch, arguments.steps + arguments.warmup
    chats = draw_chats(size * counted, arguments.max_length)
    batches = [chats[start : start + size] for start in range(0, len(chats), size)]
    sides = {
        "coalign": make_coalign(arguments),
        "trl, padded": make_trl(arguments, packing=False),
        "trl, packed": make_trl(arguments, packing=True),
    }
    singly = {name: side.losses(batches[0]) for name, side in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, list[float]] = {name: [] for name in sides}
    clock = CLOCKS[arguments.clock]
    for number, batch in enumerate(batches):
        for name, side in sides.items():
            started = clock()
            found[name].append(side.step(batch))
            shared.synchronise()
            if number >= arguments.warmup:
                times[name].append(clock() - started)
        print(
            f"step {number}: " + "  ".join(f"{name} {losses[-1]:.6f}" for name, losses in found.items()),
            flush=True,
        )
    report(batches[arguments.warmup :], sides, times, found, singly)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default", help="hub id, folder or `default`")
    parser.add_argument("--batch", type=int, default=16, help="samples in a step")
    parser.add_argument("--steps", type=int, default=5, help="counted steps")
    parser.add_argument("--warmup", type=int, default=1, help="steps before, not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor seconds, for busy machines"
    )
    parser.add_argument(
        "--max-length", type=int, default=512, help="most tokens of a sample; capacity of TRL's rows"
    )
    parser.set_defaults(device="cpu", dtype="float32")
    return parser.parse_args()


def draw_chats(number: int, longest: int) -> list[Chat]:
    draw = random.Random(0)
    chats = []
    for _ in range(number):
        length = min(max(round(40 * draw.lognormvariate(0, 1)), 3), longest)
        ids = [draw.randint(100, 30_000) for _ in range(length)]
        chats.append((ids[: length // 3], ids[length // 3 :]))
    return chats


def make_coalign(arguments: argparse.Namespace) -> Side:
    from peft import get_peft_model
    from transformers import TrainingArguments

    from coalign.data.encoding import EncodedRecord
    from coalign.models.scoring.engine import score_responses
    from coalign.models.scoring.products import fast_products
    from coalign.training.batches import Example, collate
    from coalign.training.objective import all_objectives
    from coalign.training.trainer import AlignmentTrainer

    objective = all_objectives()["sft"]
    model = get_peft_model(shared.make_base(arguments), shared.lora())
    shared.set_adapter(model)

    def examples(batch: Sequence[Chat]) -> list[Example]:
        return [
            Example((EncodedRecord(number, prompt, [answer], None, [1.0], False),), str(number), {})
            for number, (prompt, answer) in enumerate(batch)
        ]

    training = TrainingArguments(
        output_dir=tempfile.mkdtemp(), report_to="none", use_cpu=True, remove_unused_columns=False, bf16=False
    )
    trainer = AlignmentTrainer(model, objective, objective.constants(), examples([([1], [2])]), training)
    trainer.current_gradient_accumulation_steps = 1
    optimizer = shared.optimiser(model)

    def step(batch: Sequence[Chat]) -> float:
        count = torch.tensor(float(sum(len(answer) for _, answer in batch)))
        with fast_products():  # as a training has them
            loss = trainer.training_step(model, collate(examples(batch)), count)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    def losses(batch: Sequence[Chat]) -> list[float]:
        with torch.no_grad():
            scored = score_responses(model, collate(examples(batch))["batch"].responses)
        return (-scored.means()).tolist()

    return Side(step, losses, lambda batch: sum(len(prompt) + len(answer) for prompt, answer in batch))


def make_trl(arguments: argparse.Namespace, *, packing: bool) -> Side:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer, pack_dataset

    from coalign.models.files.loading import load_tokenizer

    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        report_to="none",
        per_device_train_batch_size=arguments.batch,
        max_length=arguments.max_length,
        packing=packing,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
    )
    trainer = SFTTrainer(
        model=shared.make_base(arguments),
        args=config,
        train_dataset=Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}]),
        processing_class=load_tokenizer(arguments.model),
        peft_config=shared.lora(),
    )
    trainer.current_gradient_accumulation_steps = 1
    shared.set_adapter(trainer.model)
    optimizer = shared.optimiser(trainer.model)

    def inputs(batch: Sequence[Chat]) -> Any:
        rows = [
            {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
            for prompt, answer in batch
        ]
        if packing:
            rows = list(pack_dataset(Dataset.from_list(rows), arguments.max_length, "bfd"))
        return trainer.data_collator(rows)

    def step(batch: Sequence[Chat]) -> float:
        count = torch.tensor(sum(len(answer) for _, answer in batch))
        loss = trainer.training_step(trainer.model, inputs(batch), count)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    def losses(batch: Sequence[Chat]) -> list[float]:
        given = inputs(batch)
        labels = given.pop("labels")
        with torch.no_grad():
            logits = trainer.model(**given, use_cache=False).logits
        tokens = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
        tokens = tokens.view(labels.shape[0], -1)
        if not packing:
            return (tokens.sum(1) / (labels[:, 1:] != -100).sum(1)).tolist()
        found = {}
        bounds = given["cu_seq_lens_q"].tolist()
        for start, end in itertools.pairwise(bounds):
            here = labels[0, start + 1 : end]
            ids = tuple(given["input_ids"][0, start:end].tolist())
            found[ids] = float(tokens[0, start : end - 1].sum() / (here != -100).sum())
        return [found[(*prompt, *answer)] for prompt, answer in batch]

    return Side(step, losses, lambda batch: inputs(batch)["input_ids"].numel())


def report(
    batches: Sequence[Sequence[Chat]],
    sides: dict[str, Side],
    times: dict[str, list[float]],
    found: dict[str, list[float]],
    singly: dict[str, list[float]],
) -> None:
    said = sum(len(prompt) + len(answer) for batch in batches for prompt, answer in batch)
    size = len(batches[0])
    print()
    for name, side in sides.items():
        median = statistics.median(times[name])
        share = said / sum(side.tokens(batch) for batch in batches)
        steps = max(abs(one - other) for one, other in zip(found[name], found["trl, padded"], strict=True))
        single = max(abs(one - other) for one, other in zip(singly[name], singly["trl, padded"], strict=True))
        print(
            f"{name:12} median {median:.2f} s a step, {size / median:.2f} samples/s, {share:.2f} of its tokens no padding; "
            f"losses within {steps:.1e} of padded, those of samples within {single:.1e}"
        )
    for name in ("trl, padded", "trl, packed"):
        ratios = [slow / fast for slow, fast in zip(times[name], times["coalign"], strict=True)]
        print(
            f"ratio {name} / coalign: median {statistics.median(ratios):.2f}, "
            f"min {min(ratios):.2f}, max {max(ratios):.2f} over {len(ratios)} steps"
        )


if __name__ == "__main__":
    main()
