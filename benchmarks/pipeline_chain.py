"""What a pipeline costs: a chain of demonstrations, a reward model, GRPO and a merge against the same commands by hand.

    python benchmarks/pipeline_chain.py [--pairs 2] [--steps 8] [--model default]

Both sides run the same commands with the same options, each stage in a process of its own, alternately, each time in a new
folder; time is that of the whole processes, with all that they start. Printed are medians and the ratio pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COALIGN = (sys.executable, "-m", "coalign")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default", help="hub id, folder or `default`")
    parser.add_argument("--steps", type=int, default=8, help="of each training; GRPO takes a quarter")
    parser.add_argument("--pairs", type=int, default=2, help="how often each side runs")
    args = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {"pipeline": [], "by hand": []}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        write_data(folder)
        for number in range(args.pairs):
            for side, run in (("by hand", by_hand), ("pipeline", by_pipeline)):
                out = folder / f"{side}-{number}".replace(" ", "-")
                commands = run(folder, out, args.model, args.steps)
                times[side].append(measured(commands, folder))
                wall, cpu = times[side][-1]
                print(f"{side}: {wall:.1f} s, {cpu:.1f} CPU s", flush=True)
    for place, clock in enumerate(("wall", "CPU")):
        medians = {side: statistics.median(one[place] for one in found) for side, found in times.items()}
        ratios = [
            ours[place] / theirs[place]
            for ours, theirs in zip(times["pipeline"], times["by hand"], strict=True)
        ]
        print(
            f"{clock}: {medians['pipeline']:.1f} s against {medians['by hand']:.1f} s, "
            f"ratio {statistics.median(ratios):.3f} ({', '.join(f'{one:.3f}' for one in ratios)})"
        )


def stages(folder: Path, model: str, steps: int) -> dict[str, dict[str, object]]:
    """Method and options of each stage, with the results of others by name."""
    common = {"max_steps": steps, "batch_size": 4, "save_steps": 0}
    return {
        "tuned": {"run": "sft", "options": {"model": model, "data": str(folder / "chats.jsonl"), **common}},
        "rewards": {"run": "reward-model", "options": {"model": model, "data": str(folder / "pairs.jsonl"), **common}},
        "practised": {
            "run": "grpo",
            "options": {
                "model": "${tuned}", "prompts": str(folder / "pairs.jsonl"), "reward": ["model:${rewards}"],
                "max_steps": max(1, steps // 4), "samples": 4, "prompts_per_step": 2, "max_new_tokens": 16,
                "eval_fraction": 0.0, "save_steps": 0,
            },
        },
        "merged": {"run": "merge", "options": {"base": model, "models": ["${tuned}", "${practised}"]}},
    }  # fmt: skip


def by_pipeline(folder: Path, out: Path, model: str, steps: int) -> list[list[str]]:
    file = folder / "chain.yaml"
    file.write_text(json.dumps({"stages": stages(folder, model, steps)}))
    return [[*COALIGN, "pipeline", "run", str(file), "--out", str(out)]]


def by_hand(folder: Path, out: Path, model: str, steps: int) -> list[list[str]]:
    commands = []
    for name, stage in stages(folder, model, steps).items():
        file = folder / f"{out.name}-{name}.yaml"
        text = json.dumps(stage["options"])
        for other in stages(folder, model, steps):
            text = text.replace(f"${{{other}}}", str(out / other))
        file.write_text(text)
        commands.append([*COALIGN, "run", str(stage["run"]), "--config", str(file), "--out", str(out / name)])
    return commands


def measured(commands: list[list[str]], folder: Path) -> tuple[float, float]:
    """Wall time, and processor time of the commands with their children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    for command in commands:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, env={**os.environ, "COALIGN_PROGRESS": "0"}
        )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_data(folder: Path) -> None:
    chats = [
        {"prompt": f"What comes after {n}?", "completion": f"After {n} comes {n + 1}."} for n in range(40)
    ]
    pairs = [
        {
            "prompt": f"What comes before {n}?",
            "chosen": f"Before {n} comes {n - 1}.",
            "rejected": "I cannot say.",
        }
        for n in range(40)
    ]
    for name, rows in (("chats", chats), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


if __name__ == "__main__":
    main()
