"""DPO steps of coalign and of TRL on the same pairs, alternating in one process.

    pip install 'coalign[bench]'
    python benchmarks/dpo_step.py [--data pairs.jsonl] [--precomputed] [--checkpointing]

Both sides train the same adapter (equal initial weights) of the same model on the same token ids with the same
optimizer. Each step runs once on either side, A B A B; printed are medians, the ratio step by step, and the largest
difference of the losses. Peak memory is measured in processes of their own (`--only coalign|trl`).

`--micro N` lets coalign go through a step in parts of N pairs (`--batch-size N` with gradient accumulation): the step is the
same, its memory is that of a part.

Without `--data` pairs of random tokens are used whose prompt and response lengths (`pair_lengths.json`) are those of
256 pairs drawn from the test split of Anthropic's HH-RLHF harmless-base, tokenised for SmolLM2.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).parent
Pair = tuple[list[int], list[int], list[int]]
Step = Callable[[list[Pair]], float]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    size = arguments.batch
    pairs = read_pairs(arguments)[: size * (arguments.steps + arguments.warmup)]
    batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    if arguments.only:
        run_one(arguments, batches)
        return
    peer = arguments.against
    sides = {"coalign": make_coalign(arguments, pairs), peer: PEERS[peer](arguments, pairs)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    worst = 0.0
    clock = CLOCKS[arguments.clock]
    for number, batch in enumerate(batches):
        losses = {}
        for name, (step, _) in sides.items():
            started = clock()
            losses[name] = step(batch)
            synchronise()
            if number >= arguments.warmup:
                times[name].append(clock() - started)
        worst = max(worst, abs(losses["coalign"] - losses[peer]))
        print(
            f"step {number}: " + "  ".join(f"{name} {value:.6f}" for name, value in losses.items()),
            flush=True,
        )
    report(arguments, times, worst, batches)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default", help="hub id, folder, `default`, or `random-1b`")
    parser.add_argument("--data", help="preference records; random tokens of the recorded lengths without it")
    parser.add_argument("--batch", type=int, default=8, help="pairs in a step")
    parser.add_argument(
        "--micro", type=int, help="pairs in a forward pass of coalign; by default all of a step"
    )
    parser.add_argument("--steps", type=int, default=7, help="counted steps")
    parser.add_argument("--warmup", type=int, default=1, help="steps before, not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor seconds, for busy machines"
    )
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument(
        "--precomputed", action="store_true", help="reference log-probabilities computed beforehand"
    )
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing on both sides")
    parser.add_argument(
        "--plain-products", action="store_true", help="coalign without oneDNN's products in linear layers"
    )
    parser.add_argument(
        "--keep-activations", action="store_true", help="coalign keeps what it could make again"
    )
    parser.add_argument("--keep-freed", action="store_true", help="coalign returns no freed memory meanwhile")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", choices=["coalign", "trl"], help="run one side and print its peak memory")
    parser.add_argument(
        "--against",
        choices=["trl", "plain", "kept"],
        default="trl",
        help="plain: coalign with `--plain-products`; kept: with `--keep-activations`",
    )
    parser.add_argument("--memory", action="store_true", help="also measure peak memory, in a process a side")
    return parser.parse_args()


def read_pairs(arguments: argparse.Namespace) -> list[Pair]:
    """Token ids of the pairs, in a seeded order."""
    if arguments.data:
        from coalign.data.encoding import encode_records
        from coalign.data.readers import read_records
        from coalign.models.files.loading import load_tokenizer

        tokenizer = load_tokenizer(arguments.model)
        records = read_records(arguments.data, on_bad_record="skip", limit=600).records
        encoded = encode_records(records, tokenizer, max_length=arguments.max_length).records
        pairs = [(one.prompt_ids, one.response_ids[0], one.response_ids[1]) for one in encoded]
    else:
        draw = random.Random(0)
        lengths = json.loads((HERE / "pair_lengths.json").read_text())
        pairs = []
        for prompt, *responses in lengths:
            room = arguments.max_length - prompt
            if room > 0:
                sizes = [prompt, *(min(room, one) for one in responses)]
                pairs.append(tuple([draw.randint(100, 30_000) for _ in range(size)] for size in sizes))
    random.Random(1).shuffle(pairs)
    return pairs


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def make_base(arguments: argparse.Namespace) -> nn.Module:
    if arguments.model == "random-1b":
        from transformers import LlamaConfig, LlamaForCausalLM

        shape = {
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
        }
        config = LlamaConfig(vocab_size=32_000, num_key_value_heads=8, max_position_embeddings=4096, **shape)
        torch.manual_seed(0)
        base: Any = LlamaForCausalLM(config)
    else:
        from coalign.models.files.loading import load_model
        from coalign.models.options import ModelOptions

        base = load_model(ModelOptions(model=arguments.model, device="cpu", dtype="float32"), training=True)
    device = "cuda" if arguments.device == "auto" and torch.cuda.is_available() else arguments.device
    return base.to("cpu" if device == "auto" else device).to(getattr(torch, arguments.dtype))


def set_adapter(model: nn.Module) -> None:
    """The same adapter on both sides, one that has learnt something, so that policy and reference differ."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_" in name:
                scale = 0.01 if "lora_B" in name else one.shape[1] ** -0.5
                one.copy_(torch.randn(one.shape, generator=draw) * scale)


def optimiser(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-5)


def make_coalign(arguments: argparse.Namespace, pairs: list[Pair]) -> tuple[Step, nn.Module]:
    from peft import get_peft_model
    from transformers import TrainingArguments

    from coalign.data.encoding import EncodedRecord
    from coalign.models.adapters import disabled_adapter
    from coalign.models.scoring.products import fast_products
    from coalign.models.scoring.recomputed import recomputed_activations
    from coalign.models.scoring.returned import returned_memory
    from coalign.training.batches import Example, collate
    from coalign.training.objective import all_objectives
    from coalign.training.reference import with_reference
    from coalign.training.trainer import AlignmentTrainer

    objective = all_objectives()["dpo"]
    model = get_peft_model(make_base(arguments), lora())
    set_adapter(model)
    records = [
        EncodedRecord(n, one[0], [one[1], one[2]], None, [1.0, 0.0], False) for n, one in enumerate(pairs)
    ]
    examples = {
        id(pair): Example((record,), str(n), {})
        for n, (pair, record) in enumerate(zip(pairs, records, strict=True))
    }
    training = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        report_to="none",
        per_device_train_batch_size=arguments.batch,
        gradient_checkpointing=arguments.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=next(model.parameters()).device.type == "cpu",
        remove_unused_columns=False,
        bf16=False,
    )
    if arguments.precomputed:
        with disabled_adapter(model), tempfile.TemporaryDirectory() as folder:
            scored = with_reference(list(examples.values()), model.eval(), folder=Path(folder))
        examples = dict(zip(examples, scored, strict=True))
    trainer = AlignmentTrainer(model, objective, objective.constants(), list(examples.values()), training)
    if arguments.checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer.current_gradient_accumulation_steps = 1
    optimizer = optimiser(model)
    micro = arguments.micro or arguments.batch

    def step(batch: list[Pair]) -> float:
        count, loss = torch.tensor(float(len(batch))), 0.0
        for start in range(0, len(batch), micro):
            inputs = collate([examples[id(pair)] for pair in batch[start : start + micro]])
            fast = fast_products(not arguments.plain_products)  # these three as a training has them
            recomputed = recomputed_activations(model, not arguments.keep_activations)
            with fast, recomputed, returned_memory(model, not arguments.keep_freed):
                loss += float(trainer.training_step(model, inputs, count))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step, model


def make_trl(arguments: argparse.Namespace, pairs: list[Pair]) -> tuple[Step, nn.Module]:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from coalign.models.files.loading import load_tokenizer

    tokenizer = load_tokenizer("default" if arguments.model == "random-1b" else arguments.model)
    base = make_base(arguments)
    chat = [{"role": "user", "content": "a"}]
    reply = [{"role": "assistant", "content": "b"}]
    placeholder = Dataset.from_list([{"prompt": chat, "chosen": reply, "rejected": reply}])
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        report_to="none",
        per_device_train_batch_size=arguments.batch,
        max_length=arguments.max_length,
        gradient_checkpointing=arguments.checkpointing,
        use_cpu=next(base.parameters()).device.type == "cpu",
        bf16=False,
    )
    trainer = DPOTrainer(
        model=base, args=config, train_dataset=placeholder, processing_class=tokenizer, peft_config=lora()
    )
    trainer.current_gradient_accumulation_steps = 1
    set_adapter(trainer.model)
    rows: dict[int, dict[str, Any]] = {
        id(pair): {"prompt_ids": pair[0], "chosen_ids": pair[1], "rejected_ids": pair[2]} for pair in pairs
    }
    optimizer = optimiser(trainer.model)
    if arguments.precomputed:
        trainer.precompute_ref_logps = True
        for pair in pairs:
            inputs = trainer._prepare_inputs(trainer.data_collator([rows[id(pair)]]))
            chosen, rejected = trainer.compute_ref_log_probs(trainer.model, inputs)
            rows[id(pair)] |= {"ref_chosen_logps": float(chosen), "ref_rejected_logps": float(rejected)}

    def step(batch: list[Pair]) -> float:
        inputs = trainer.data_collator([rows[id(pair)] for pair in batch])
        loss = trainer.training_step(trainer.model, inputs, None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return step, trainer.model


def make_plain(arguments: argparse.Namespace, pairs: list[Pair]) -> tuple[Step, nn.Module]:
    return make_coalign(argparse.Namespace(**{**vars(arguments), "plain_products": True}), pairs)


def make_kept(arguments: argparse.Namespace, pairs: list[Pair]) -> tuple[Step, nn.Module]:
    return make_coalign(argparse.Namespace(**{**vars(arguments), "keep_activations": True}), pairs)


PEERS = {"trl": make_trl, "plain": make_plain, "kept": make_kept}


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(
    arguments: argparse.Namespace, times: dict[str, list[float]], worst: float, batches: list[list[Pair]]
) -> None:
    counted = batches[arguments.warmup :]
    ratios = [slow / fast for slow, fast in zip(times[arguments.against], times["coalign"], strict=True)]
    padded = statistics.mean(
        2 * len(one) * max(len(p) + max(len(c), len(r)) for p, c, r in one) for one in counted
    )
    shared = statistics.mean(sum(len(p) + len(c) + len(r) - 2 for p, c, r in one) for one in counted)
    print(f"\ntokens in a step: padded {padded:.0f}, shared and packed {shared:.0f} ({padded / shared:.2f}x)")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:8} median {median:.3f} s a step, {arguments.batch / median:.2f} pairs/s")
    print(
        f"ratio {arguments.against} / coalign: median {statistics.median(ratios):.2f}, "
        f"min {min(ratios):.2f}, max {max(ratios):.2f} over {len(ratios)} steps"
    )
    print(f"largest difference of the losses: {worst:.1e}")
    if arguments.memory:
        for name in ("coalign", "trl"):
            command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
            lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
            print(lines[-1])


def run_one(arguments: argparse.Namespace, batches: list[list[Pair]]) -> None:
    """Steps of one side alone; prints the peak memory of the process and of the steps above the loaded model."""
    from coalign.core.machine.measure import measure

    make = {"coalign": make_coalign, "trl": make_trl}[arguments.only]
    step, model = make(arguments, [pair for batch in batches for pair in batch])
    loaded = resident_mb()
    started = time.process_time()
    with measure() as spent:
        for batch in batches:
            step(batch)
    print(f"{arguments.only}: {time.process_time() - started:.1f} processor seconds in {len(batches)} steps")
    if torch.cuda.is_available() and next(model.parameters()).is_cuda:
        peak = torch.cuda.max_memory_allocated() / 2**20
        print(f"{arguments.only}: peak GPU memory {peak:.0f} MB")
    else:
        print(
            f"{arguments.only}: peak memory {spent.peak_mb:.0f} MB, {spent.peak_mb - loaded:.0f} MB above the loaded model"
        )


def resident_mb() -> float:
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
