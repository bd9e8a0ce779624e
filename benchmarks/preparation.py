"""Preparing pairs for a training: read, check, hold out, write with the chat template, tokenise; against `datasets`.

    python benchmarks/preparation.py [--records 100000] [--pairs 2] [--workers 2]

Each run is a process of its own, in turn; every side has the same file (1.1 kB a pair) and tokenizer. Sides:

- `coalign`: what `coalign run dpo` does before it loads a model, with an empty cache.
- `again`: the same with what the run before kept.
- `datasets`: `load_dataset("json")` and one batched `map` that renders the three texts of a pair and tokenises them.
- `floor`: rendering and one batched call of the tokenizer a thousand pairs, without reading, checks or writing.

Printed are processor and wall time without imports, peak memory of the process and of those it started (what they share
counts once), and the ratios pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common_words import COMMON

SIDES = ("coalign", "again", "datasets", "floor")


def main() -> None:
    arguments = parse()
    if arguments.side:
        run_side(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pairs.jsonl"
        write_pairs(data, arguments.records)
        print(
            f"{arguments.records} pairs, {data.stat().st_size / arguments.records:.0f} bytes each", flush=True
        )
        found: dict[str, list[dict[str, float]]] = {one: [] for one in arguments.only}
        for number in range(arguments.pairs):
            for side in arguments.only:
                cache = Path(folder) / f"cache{number}{'' if side in ('coalign', 'again') else side}"
                one = in_process(side, data, cache, arguments)
                found[side].append(one)
                told = " ".join(f"{name} {value:.1f}" for name, value in one.items())
                print(f"pair {number} {side:9} {told}", flush=True)
        report(found)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=2, help="runs of each side")
    parser.add_argument(
        "--workers", type=int, default=1, help="cores of coalign and of the floor's tokenizer"
    )
    parser.add_argument(
        "--peer-workers", type=int, default=1, help="threads of the tokenizer for datasets, in one process"
    )
    parser.add_argument("--model", default="default", help="hub id, folder or `default`: its tokenizer")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_pairs(path: Path, count: int) -> None:
    """Conversations of drawn words, 250 bytes of prompt and 350 of each reply on average."""
    draw = random.Random(0)
    rare = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(8000)]

    def text(low: int, high: int) -> str:
        words, length, wanted = [], 0, draw.randint(low, high)
        while length < wanted:
            word = draw.choice(COMMON if draw.random() < 0.55 else rare)
            words.append(word + draw.choice(".,?\n") if draw.random() < 0.08 else word)
            length += len(word) + 1
        return " ".join(words)

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            row = {
                "prompt": [{"role": "user", "content": text(100, 400)}],
                **{
                    name: [{"role": "assistant", "content": text(150, 550)}]
                    for name in ("chosen", "rejected")
                },
            }
            file.write(json.dumps(row) + "\n")


def in_process(side: str, data: Path, cache: Path, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, "--data", str(data), "--model", arguments.model]
    workers = arguments.peer_workers if side == "datasets" else arguments.workers
    environment = {
        **os.environ,
        "COALIGN_CACHE": str(cache),
        "HF_DATASETS_CACHE": str(cache),
        "OMP_NUM_THREADS": str(workers),
        "RAYON_NUM_THREADS": str(workers),
        "TOKENIZERS_PARALLELISM": "true" if workers > 1 else "false",
    }
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=errors, text=True)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory_mb(process.pid))
            time.sleep(0.2)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(errors.read())
        return {**json.loads(out.read().splitlines()[-1]), "all_mb": peak}


def memory_mb(process: int) -> float:
    """Memory of a process and of those it started, what several have counted once; 0 where it has ended."""
    import psutil

    try:
        top = psutil.Process(process)
        return sum(one.memory_full_info().pss for one in (top, *top.children(recursive=True))) / 2**20
    except (psutil.Error, AttributeError):  # AttributeError: elsewhere than on Linux
        return 0.0


def processor_seconds() -> float:
    """Of this process and of those it waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def run_side(arguments: argparse.Namespace) -> None:
    tokenizer = make_tokenizer(arguments.model)
    work: dict[str, Callable[[Any, Any], int]] = {
        "coalign": prepare, "again": prepare, "datasets": mapped, "floor": bare,
    }  # fmt: skip
    given = list(batches(arguments.data)) if arguments.side == "floor" else arguments.data
    if arguments.side in ("coalign", "again"):
        import coalign.training.examples
        import coalign.training.material  # noqa: F401
        from coalign.training.objective import get_objective

        get_objective("dpo")
    elif arguments.side == "datasets":
        import datasets  # noqa: F401
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall, cpu = time.monotonic(), processor_seconds()
    tokens = work[arguments.side](tokenizer, given)
    told = {
        "cpu_s": processor_seconds() - cpu,
        "wall_s": time.monotonic() - wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "start_mb": before,
        "tokens": tokens,
    }
    print(json.dumps(told))


def make_tokenizer(model: str) -> Any:
    """As every side has it; where the default model lies is asked of the real cache."""
    from transformers import AutoTokenizer

    from coalign.models.files.places import locate

    own = os.environ.pop("COALIGN_CACHE")
    try:
        return AutoTokenizer.from_pretrained(locate(model).path)
    finally:
        os.environ["COALIGN_CACHE"] = own


def prepare(tokenizer: Any, data: Path) -> int:
    """Tokens of what is trained on and held out."""
    from coalign.training.examples import prepare_examples
    from coalign.training.material import LearningOptions, read_material
    from coalign.training.objective import get_objective

    config = LearningOptions(data=str(data))
    material = read_material(config, "preference")
    objective, total = get_objective("dpo"), 0
    for records in (material.training, material.held_out):
        prepared = prepare_examples(records, objective, tokenizer, config)
        total += prepared.prompt_tokens + prepared.response_tokens
    return total


def texts_of(tokenizer: Any, rows: dict[str, list[Any]]) -> list[str]:
    prompts = tokenizer.apply_chat_template(rows["prompt"], tokenize=False, add_generation_prompt=True)
    wholes = [
        tokenizer.apply_chat_template(
            [[*prompt, *reply] for prompt, reply in zip(rows["prompt"], rows[side], strict=True)],
            tokenize=False,
        )
        for side in ("chosen", "rejected")
    ]
    return [
        text
        for prompt, good, bad in zip(prompts, *wholes, strict=True)
        for text in (prompt, good[len(prompt) :], bad[len(prompt) :])
    ]


def mapped(tokenizer: Any, data: Path) -> int:
    """What TRL and others do, in one call for many rows."""
    import datasets

    def encode(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        ids = tokenizer(texts_of(tokenizer, rows), add_special_tokens=False)["input_ids"]
        return {"prompt_ids": ids[::3], "chosen_ids": ids[1::3], "rejected_ids": ids[2::3]}

    loaded: Any = datasets.load_dataset("json", data_files=str(data), split="train")
    made = loaded.map(encode, batched=True, remove_columns=loaded.column_names)
    return sum(len(ids) for row in made.select(range(min(len(made), 100))) for ids in row.values())


def batches(data: Path) -> Iterator[dict[str, list[Any]]]:
    rows: list[Any] = []
    with data.open("rb") as file:
        for line in file:
            rows.append(json.loads(line))
            if len(rows) == 1000:
                yield {name: [one[name] for one in rows] for name in rows[0]}
                rows = []
    if rows:
        yield {name: [one[name] for one in rows] for name in rows[0]}


def bare(tokenizer: Any, read: list[dict[str, list[Any]]]) -> int:
    """Of rows that are read already."""
    total = 0
    for rows in read:
        ids = tokenizer(texts_of(tokenizer, rows), add_special_tokens=False)["input_ids"]
        total += sum(map(len, ids))
    return total


def report(found: dict[str, list[dict[str, float]]]) -> None:
    for side, runs in found.items():
        told = {name: statistics.median(one[name] for one in runs) for name in runs[0]}
        print(f"{side:9} median " + " ".join(f"{name} {value:.1f}" for name, value in told.items()))
    for name in ("cpu_s", "wall_s"):
        for side, base in (("coalign", "floor"), ("coalign", "datasets"), ("again", "coalign")):
            if side in found and base in found:
                ratios = [
                    one[name] / other[name] for one, other in zip(found[side], found[base], strict=True)
                ]
                print(
                    f"{name} {side} / {base}: median {statistics.median(ratios):.3f}, "
                    f"min {min(ratios):.3f}, max {max(ratios):.3f} over {len(ratios)} pairs"
                )


if __name__ == "__main__":
    main()
