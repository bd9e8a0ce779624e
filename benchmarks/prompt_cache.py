"""Time to the first token of two turns of a chat with a long first prompt, with the states of earlier prompts kept and without.

    python -m benchmarks.prompt_cache --model default                     # SmolLM2-135M-Instruct, 1000 and 4000 tokens
    python -m benchmarks.prompt_cache --model default --path modules      # the model's own modules, in place of fused weights

Both sides alternate (A B A B) in one process over conversations that nothing was kept of. First turns show what keeping
costs, second turns what it spares; the answers of both sides are compared token by token.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from coalign.models.devices import pick_device
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.generation.prefix_cache.store import PrefixCache
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling

WORDS = [
    "river",
    "moon",
    "bread",
    "chess",
    "map",
    "bee",
    "engine",
    "rainbow",
    "stone",
    "lamp",
    "cheese",
    "kite",
    "mirror",
    "roof",
    "clock",
    "wool",
    "tide",
    "coin",
]
ANSWER = Sampling(max_new_tokens=24, temperature=0.0)
MOST = 2**31


def conversation(length: int, seed: int, tokenizer: Any) -> list[dict[str, str]]:
    """A system message of about `length` tokens and a question."""
    draw = random.Random(seed)
    text = " ".join(draw.choice(WORDS) for _ in range(2 * length))
    system = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:length])
    return [{"role": "system", "content": system}, {"role": "user", "content": "Which word stands first?"}]


def turn(generator: TransformersGenerator, messages: list[Any], cache: PrefixCache | None) -> dict[str, Any]:
    """Ask, and say after how long the first token was there, by the clock and by the processor."""
    generator.prefixes = cache
    began, used = time.perf_counter(), time.process_time()
    generator.generate([messages], Sampling(max_new_tokens=1, temperature=0.0))
    first = {"wall": time.perf_counter() - began, "cpu": time.process_time() - used}
    *_, last = generator.stream([messages], ANSWER)
    assert last.generation is not None
    return {**first, "answer": last.generation}


def measured(generator: TransformersGenerator, length: int, pairs: int) -> list[dict[str, Any]]:
    """A row a pair: both turns on both sides."""
    rows = []
    for seed in range(pairs + 1):
        cache, messages = PrefixCache(MOST), conversation(length, seed, generator.tokenizer)
        second: list[Any] = []
        row: dict[str, Any] = {}
        for number in (1, 2):
            asked = second or messages
            for side, used in (("kept", cache), ("plain", None))[:: 1 if seed % 2 else -1]:
                row[side, number] = turn(generator, asked, used)
            kept, plain = (row[side, number]["answer"] for side in ("kept", "plain"))
            assert kept.token_ids == plain.token_ids, "the answers differ"
            second = [
                *messages,
                {"role": "assistant", "content": kept.text},
                {"role": "user", "content": "And which stands last?"},
            ]
        row["bytes"], row["prompt"] = cache.bytes, len(generator.encode(asked))  # pyright: ignore[reportPossiblyUnboundVariable]
        rows.append(row)
    return rows[1:]  # the first is for warming up


def ratios(rows: Sequence[dict[str, Any]], number: int, clock: str) -> str:
    found = [row["plain", number][clock] / row["kept", number][clock] for row in rows]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--path", choices=["fastest", "modules"], default="fastest")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    options = ModelOptions(model=given.model, dtype="float32", device=str(pick_device("auto")))
    generator = TransformersGenerator(
        load_model(options, training=False), load_tokenizer(options), fused=given.path == "fastest"
    )
    why = generator.keep_prefixes(PrefixCache(MOST))
    if why is not None:
        raise SystemExit(f"{given.model}: {why}")
    print(f"{given.model}, fused weights: {generator.is_fused}, {given.threads} threads, {given.pairs} pairs")
    print(
        "| prompt | turn | first token, s of processor, without and with | ratio, processor | ratio, clock |"
    )
    print("|---|---|---|---|---|")
    for length in given.lengths:
        rows = measured(generator, length, given.pairs)
        for number in (1, 2):
            medians = [
                statistics.median(row[side, number]["cpu"] for row in rows) for side in ("plain", "kept")
            ]
            print(
                f"| {rows[0]['prompt']} | {number} | {medians[0]:.3f} and {medians[1]:.3f} | {ratios(rows, number, 'cpu')} | "
                f"{ratios(rows, number, 'wall')} |"
            )
        print(f"  kept: {rows[0]['bytes'] / 2**20:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
