"""A training while another program keeps one core busy, against the same training on one free core.

    python benchmarks/busy_machine.py --pairs 2

Each run is `coalign run sft` on the default model in a process of its own; its time is the trainer's own. In turn:
one thread on free cores; the busy core with a thread for every core, waiting as PyTorch has it; the busy core with the
threads that coalign chooses. It says little on a machine where more than that one program works.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = {
    "one free core": ({"OMP_NUM_THREADS": "1"}, False),
    "busy, a thread a core": ({"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "ACTIVE"}, True),
    "busy, as chosen": ({}, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data.jsonl")
        rows = [
            {
                "prompt": f"Say what {one} is for, in one sentence.",
                "completion": f"One needs {one} at home. " * 4,
            }
            for one in ("a cup", "a chair", "a lamp", "a door", "a coat", "a knife", "a map", "a rope") * 3
        ]
        data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        for turn in range(arguments.pairs):
            for name, (environment, busy) in SETTINGS.items():
                out = Path(folder, f"{turn}-{name.replace(' ', '-').replace(',', '')}")
                times[name].append(_timed(data, out, environment, busy, arguments.steps))
                print(f"{name}: {times[name][-1]:.1f} s", flush=True)
    free = times["one free core"]
    for name, seconds in times.items():
        ratios = [one / other for one, other in zip(seconds, free, strict=True)]
        print(
            f"{name}: median {statistics.median(seconds):.1f} s, {statistics.median(ratios):.2f} times one free core"
        )


def _timed(data: Path, out: Path, environment: dict[str, str], busy: bool, steps: int) -> float:
    """Seconds of the training."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))
    }
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        words = f"-m coalign run sft --max-steps {steps} --batch-size 4 --eval-fraction 0".split()
        subprocess.run(
            [sys.executable, *words, "--data", str(data), "--out", str(out)],
            env={**kept, **environment},
            check=True,
            capture_output=True,
        )
    finally:
        if other is not None:
            other.kill()
            other.wait()
    events = map(json.loads, (out / "events.jsonl").read_text(encoding="utf-8").splitlines())
    return next(one["train_runtime"] for one in events if "train_runtime" in one)


if __name__ == "__main__":
    main()
