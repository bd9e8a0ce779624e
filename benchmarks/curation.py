"""A corpus through exact duplicates, near duplicates, length and quality, and the best tenth: coalign and `datasets`.

    pip install 'coalign[overlap]'
    python benchmarks/curation.py --records 100000 --pairs 3
    python benchmarks/curation.py --records 1000000 --only coalign
    python benchmarks/curation.py --records 1000000 --only near

Sides alternate (A B A B), each run in a process of its own: `coalign` (a pipeline), `rows` (`datasets.map` and `filter` by rows)
and `batched` (the same with batches of 1000). All use the same functions: digests of the text, signatures, what connects
them, words, quality. So they must keep the same records, which is asserted, and what differs is how records are moved.
Records are sentences of 10 to 40 words of a Zipf vocabulary of 50,000, a tenth of them exact duplicates, a tenth with one
word changed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common_words import COMMON

from coalign.measures.texts.minhash import connected, signatures
from coalign.measures.texts.text_quality import rule_quality
from coalign.measures.texts.text_units import words

SIDES = ("coalign", "rows", "batched")
NEAR_ALONE = "near"
LEAST, MOST, SHARE, NEAR = 12, 38, 0.1, 0.8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    parser.add_argument(
        "--only",
        choices=(*SIDES, NEAR_ALONE),
        help="one run of one side, or of near duplicates by themselves",
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(globals()[f"run_{arguments.only}"](arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder) / "corpus.jsonl", arguments.records)
        sides = (arguments.only,) if arguments.only else SIDES
        times: dict[str, list[float]] = {side: [] for side in sides}
        kept = set()
        for number, side in itertools.product(range(1 if arguments.only else arguments.pairs), sides):
            seconds, peak, told = one_run(arguments, Path(folder), side)
            times[side].append(seconds)
            kept.add(told.pop("kept"))
            print(f"{number} {side}: {seconds:.1f} s, peak {peak:.0f} MB  {told}", flush=True)
        assert len(kept) == 1, "the sides keep other records"
        for side in sides[1:]:
            ratios = [other / ours for ours, other in zip(times[sides[0]], times[side], strict=True)]
            print(
                f"{side} / coalign: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
            )


def write_corpus(path: Path, count: int) -> None:
    """A corpus with a tenth of exact and a tenth of near duplicates, spread over the file."""
    draw = random.Random(0)
    vocabulary = COMMON + [
        "".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(3, 10))) for _ in range(50_000)
    ]
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(vocabulary))))
    texts: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            kind = draw.random() if texts else 1.0
            if kind < 0.2:
                text = draw.choice(texts)
                if kind < 0.1:
                    parts = text.split()
                    parts[draw.randrange(len(parts))] = draw.choice(vocabulary)
                    text = " ".join(parts)
            else:
                text = " ".join(draw.choices(vocabulary, cum_weights=weights, k=draw.randint(10, 40)))
                text = text.capitalize() + draw.choice([".", ".", "?", ""])
                if len(texts) < 20_000:
                    texts.append(text)
            file.write(json.dumps({"text": text, "number": number}) + "\n")


def one_run(arguments: argparse.Namespace, folder: Path, side: str) -> tuple[float, float, dict[str, Any]]:
    """Seconds, peak memory in MB, and what a side told, of a process of its own."""
    command = [sys.executable, __file__, "--only", side, "--folder", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr)
    told = json.loads(result.stdout.splitlines()[-1])
    seconds = told.pop("cpu") if arguments.clock == "cpu" else told.pop("wall")
    told.pop("wall", None), told.pop("cpu", None)
    return seconds, told.pop("peak_mb"), told


def timed(work: Any) -> dict[str, Any]:
    """What a side told, with its time without imports."""
    wall, cpu = time.perf_counter(), time.process_time()
    told = work()
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **told,
    }


def run_coalign(folder: Path) -> dict[str, Any]:
    from coalign.loops.curation.corpus import Corpus
    from coalign.loops.pipeline import run_pipeline
    from coalign.loops.steps.choices import Exact, Near, Top
    from coalign.loops.steps.usual import Filter, Score

    def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            done = run_pipeline(
                Path(place) / "out",
                Corpus([str(folder / "corpus.jsonl")]),
                [
                    Exact("exact", lambda row: row["text"]),
                    Near("near", lambda row: row["text"], NEAR),
                    Filter(
                        "length", lambda row: None if LEAST <= len(words(row["text"])) <= MOST else "length"
                    ),
                    Score("quality", "quality", lambda rows: [rule_quality(row["text"]) for row in rows]),
                    Top("top", "quality", share=SHARE),
                ],
            )
            near = next(step for step in done.manifest["steps"] if step["name"] == "near")
            return {
                "kept": digest([row["number"] for row in done.rows()]),
                "near in": near["in"],
                "near out": near["out"],
            }

    return timed(work)


def run_near(folder: Path) -> dict[str, Any]:
    """Signatures of batches of 1000 texts, and what connects them: the work of the step without reading and writing."""
    import numpy as np

    spent, parts, count = 0.0, [], 0
    with (folder / "corpus.jsonl").open(encoding="utf-8") as file:
        texts = (json.loads(line)["text"] for line in file)
        while several := list(itertools.islice(texts, 1000)):
            started = time.process_time()
            parts.append(signatures(several))
            spent += time.process_time() - started
            count += len(several)
    started = time.process_time()
    root = connected(np.concatenate(parts), NEAR)
    spent += time.process_time() - started
    told = {"records a second": round(count / spent), "kept": len(np.unique(root))}
    return {
        "wall": spent,
        "cpu": spent,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **told,
    }


def run_rows(folder: Path) -> dict[str, Any]:
    return timed(lambda: with_datasets(folder, batched=False))


def run_batched(folder: Path) -> dict[str, Any]:
    return timed(lambda: with_datasets(folder, batched=True))


def with_datasets(folder: Path, *, batched: bool) -> dict[str, Any]:
    """The same steps with `datasets`, whose results go to its cache on disk and at last to a file."""
    import datasets
    import numpy as np

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        cache = str(Path(place) / "cache")
        data: Any = datasets.load_dataset(
            "json", data_files=str(folder / "corpus.jsonl"), split="train", cache_dir=cache
        )
        seen: set[bytes] = set()

        def is_new(text: str) -> bool:
            mark = hashlib.blake2b(text.encode(), digest_size=16).digest()
            new = mark not in seen
            seen.add(mark)
            return new

        def is_long(text: str) -> bool:
            return LEAST <= len(words(text)) <= MOST

        if batched:
            data = data.filter(lambda rows: [is_new(one) for one in rows["text"]], batched=True)
            data = data.map(lambda rows: {"signature": signatures(rows["text"])}, batched=True)
        else:
            data = data.filter(lambda row: is_new(row["text"]))
            data = data.map(lambda row: {"signature": signatures([row["text"]])[0]})
        marks = np.stack([np.asarray(part) for part in data.with_format("numpy")["signature"]]).astype(
            np.uint32
        )
        root = connected(marks, NEAR)
        _, first = np.unique(root, return_index=True)
        data = data.select(np.sort(first)).remove_columns("signature")
        if batched:
            data = data.filter(lambda rows: [is_long(one) for one in rows["text"]], batched=True)
            data = data.map(
                lambda rows: {"quality": [rule_quality(one) for one in rows["text"]]}, batched=True
            )
        else:
            data = data.filter(lambda row: is_long(row["text"]))
            data = data.map(lambda row: {"quality": rule_quality(row["text"])})
        order = np.argsort(-np.asarray(data.with_format("numpy")["quality"]), kind="stable")
        data = data.select(np.sort(order[: -(-len(order) // 10)]))
        data.to_json(str(Path(place) / "kept.jsonl"))
        return {"kept": digest(data["number"])}


def digest(numbers: Any) -> str:
    """Which records were kept."""
    return hashlib.sha256(json.dumps([int(one) for one in numbers]).encode()).hexdigest()


if __name__ == "__main__":
    main()
