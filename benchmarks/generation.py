"""Generation speed against `model.generate` of Transformers: same model, same prompts, same batch size.

    python benchmarks/generation.py                    # a random Llama of 30 M parameters
    python benchmarks/generation.py --model default    # SmolLM2-135M-Instruct
    python benchmarks/generation.py --model default --against loop    # planned batches against prompts that come and go
    python benchmarks/generation.py --model default --against operations    # kernels for one text against operations
    python benchmarks/generation.py --model default --against modules    # fused weights against the model's own modules

Both sides alternate (A B A B) in one process; the figures are medians over the repetitions. Only tokens up to the end
of a response count. Transformers gets its prompts sorted by length too, so that padding is not what is compared.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from coalign.models.generation.decode_loop import DecodeLoop, Decoding
from coalign.models.generation.fused_rows import FusedRows
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.generation.incremental import Rows
from coalign.models.types import Sampling

TOPICS = ("rivers", "the moon", "bread", "chess", "old maps", "bees", "steam engines", "rainbows")
TASKS = (
    "Write one sentence about {}.",
    "Explain {} to a child in at most three sentences, and end with a question.",
    (
        "List five facts about {}. Use one bullet point for each fact, keep every fact below twelve words, and do not "
        "repeat a word that another fact starts with."
    ),
    (
        "You are the editor of a small newspaper. Your readers like short sentences, dry humour and numbers that they can "
        "check. Write the opening paragraph of an article about {}; it must mention a place, a year and a person, must not "
        "contain an exclamation mark, and should make the reader want to go on. Then write a headline for it in capital "
        "letters and a caption for the photograph beside it."
    ),
)
CASES = {
    "greedy, n=1": Sampling(temperature=0.0, n=1),
    "temperature 1, n=4": Sampling(n=4),
    "temperature 0.7, top-p 0.9, n=4": Sampling(temperature=0.7, top_p=0.9, n=4),
    "temperature 1, top-k 50, n=4": Sampling(top_k=50, n=4),
    "temperature 0.8, top-p 0.95, n=4": Sampling(temperature=0.8, top_p=0.95, n=4),
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="`tiny` or anything that coalign loads")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64, help="samples in a batch, both sides")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--precision", choices=("float32", "bfloat16", "int4"), help="of coalign's side")
    parser.add_argument("--case", choices=CASES, help="only this one")
    parser.add_argument(
        "--against",
        choices=OTHERS,
        default="generate",
        help="loop: the continuous batching that serves requests; modules: coalign without fused weights; operations: without kernels for one text",
    )
    parser.add_argument(
        "--ends",
        type=float,
        default=0.0,
        help="share of the vocabulary that ends a response of the tiny model, so that lengths vary",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: processor seconds, for busy machines (with --threads 1)",
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    clock = CLOCKS[args.clock]

    model, tokenizer, prompts = load(args.model, args.prompts, args.device, args.ends)
    lengths = [len(one) for one in prompts]
    print(f"{model.num_parameters() / 1e6:.0f} M parameters on {model.device}, {model.dtype}, ", end="")
    print(
        f"{torch.get_num_threads()} threads; {len(prompts)} prompts of {min(lengths)} to {max(lengths)} tokens"
    )
    print(f"{'':34}{'coalign':>12}{args.against:>12}{'ratio':>8}   (tokens/s)")
    work = Work(model, tokenizer, prompts, args.batch_size, clock, args.precision)
    sides = (coalign_side(work), OTHERS[args.against](work))
    for name in [args.case] if args.case else CASES:
        sampling = Sampling(**{**vars(CASES[name]), "max_new_tokens": args.max_new_tokens})
        ours, theirs, ratios = compare(*sides, sampling, args.repeat)
        print(
            f"{name:34}{ours:12.0f}{theirs:12.0f}{ratios[0]:8.2f}   [{ratios[1]:.2f}, {ratios[2]:.2f}]",
            flush=True,
        )


def compare(
    first: Side, second: Side, sampling: Sampling, repeat: int
) -> tuple[float, float, tuple[float, float, float]]:
    """Medians of both, and median, smallest and largest ratio over pairs. A first pair warms up and is not counted."""
    seeds = [replace(sampling, seed=seed) for seed in range(repeat + 1)]
    pairs = [(first(one), second(one)) for one in seeds][1:]
    ratios = [one / other for one, other in pairs]
    medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
    return medians[0], medians[1], (statistics.median(ratios), min(ratios), max(ratios))


def load(name: str, count: int, device: str, ends: float) -> tuple[Any, Any, list[list[int]]]:
    """Model, tokenizer and encoded prompts of ragged length."""
    from coalign.data.encoding import encode_prompt
    from coalign.models.files.loading import load_model, load_tokenizer
    from coalign.models.options import ModelOptions

    tokenizer: Any = load_tokenizer("default" if name == "tiny" else name)
    texts = [TASKS[n % len(TASKS)].format(TOPICS[n // len(TASKS) % len(TOPICS)]) for n in range(count)]
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in texts]
    if name != "tiny":
        return load_model(ModelOptions(model=name, device=device), training=False), tokenizer, prompts

    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=2, bos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    from coalign.models.devices import pick_device

    model: Any = LlamaForCausalLM(config).eval()
    model = model.to(pick_device(device))
    model.generation_config.eos_token_id = [2, *range(100, 100 + round(ends * config.vocab_size))]
    return model, tokenizer, prompts


@dataclass(frozen=True)
class Work:
    """What both sides do."""

    model: Any
    tokenizer: Any
    prompts: list[list[int]]
    rows: int
    clock: Callable[[], float]
    precision: Any = None


Side = Callable[[Sampling], float]
"""Tokens a second of the processor or of the wall clock."""


def coalign_side(work: Work, *, fused: bool = True, kernels: bool = True) -> Side:
    texts = [work.tokenizer.decode(ids) for ids in work.prompts]
    generator = TransformersGenerator(
        work.model, work.tokenizer, batch_size=work.rows, fused=fused, precision=work.precision
    )
    if not kernels:
        open_rows = generator.open_rows

        def opened() -> Rows:
            rows = open_rows()
            if isinstance(rows, FusedRows):
                rows.is_alone = lambda: False
            return rows

        generator.open_rows = opened

    def run(sampling: Sampling) -> float:
        started = work.clock()
        generator.generate(texts, sampling)
        return generator.last_stats.tokens / (work.clock() - started)

    return run


def loop_side(work: Work) -> Side:
    """The loop without end; a sample that is done makes room for the next prompt."""
    ordered = sorted(work.prompts, key=len, reverse=True)
    generator = TransformersGenerator(work.model, work.tokenizer, batch_size=work.rows)

    def run(sampling: Sampling) -> float:
        started = work.clock()
        loop = DecodeLoop(generator)
        loop.add(Decoding(ids, sampling, prompt=index) for index, ids in enumerate(ordered))
        tokens = 0
        while not loop.is_idle:
            tokens += sum(piece.generation.length for _, piece in loop.step() if piece.generation)
        return tokens / (work.clock() - started)

    return run


def transformers_side(work: Work) -> Side:
    model, tokenizer = work.model, work.tokenizer
    ordered = sorted(work.prompts, key=len, reverse=True)
    ends = torch.tensor([model.generation_config.eos_token_id], device=model.device).flatten()

    @torch.inference_mode()
    def run(sampling: Sampling) -> float:
        torch.manual_seed(sampling.seed)
        started = work.clock()
        size = max(1, work.rows // sampling.n)
        tokens = 0
        for start in range(0, len(ordered), size):
            batch = tokenizer.pad(
                {"input_ids": ordered[start : start + size]}, padding_side="left", return_tensors="pt"
            )
            choice: dict[str, Any] = {"do_sample": False}
            if sampling.temperature > 0:
                choice = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
                choice |= {"top_k": sampling.top_k, "num_return_sequences": sampling.n}
            output = model.generate(
                **batch.to(model.device),
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                **choice,
            )
            new = output[:, batch["input_ids"].shape[1] :]
            texts = tokenizer.batch_decode(new, skip_special_tokens=True)
            assert len(texts) == len(new)
            ended = torch.isin(new, ends)
            tokens += int((ended.cumsum(-1) - ended.int() == 0).sum())
        return tokens / (work.clock() - started)

    return run


OTHERS: dict[str, Callable[[Work], Side]] = {
    "generate": transformers_side,
    "loop": loop_side,
    "modules": functools.partial(coalign_side, fused=False),
    "operations": functools.partial(coalign_side, kernels=False),
}


if __name__ == "__main__":
    main()
