"""What the command line costs before any work: processor time and peak memory of what only shows or checks something.

python benchmarks/startup.py [--runs 5] [--only WORD]

Whole processes, alternating, after one run of each that is not counted; medians. Help of `coalign` itself and the list
of methods have 0.3 s of processor time, help of a command and a method's help and configuration 0.5 s, a check of three
records 0.4 s. What is over its limit is marked, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from coalign.cli.main import COMMANDS
from coalign.core.catalogue import entries

PAIR = '{"prompt": "What is 2 + 2?", "chosen": "4", "rejected": "5"}\n'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", metavar="WORD", help="commands that hold this word")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.jsonl"
        pairs.write_text(PAIR * 3)
        limits = {one: limit for one, limit in commands(pairs).items() if options.only in " ".join(one)}
        figures: dict[tuple[str, ...], list[tuple[float, float]]] = {command: [] for command in limits}
        for number in range(options.runs + 1):
            for command, found in figures.items():
                figure = cost(command)
                if number:
                    found.append(figure)
    print(f"{'coalign':44}  CPU s  limit  peak MB   (medians over {options.runs} runs)")
    over = 0
    for command, found in figures.items():
        seconds, memory = (statistics.median(values) for values in zip(*found, strict=True))
        slow = seconds > limits[command]
        over += slow
        name = " ".join(command).replace(str(pairs), "FILE")
        print(f"{name:44} {seconds:6.3f} {limits[command]:6.1f} {memory:8.0f}{'  OVER' if slow else ''}")
    print(f"{over} of {len(figures)} are over their limit.")
    sys.exit(over > 0)


def commands(pairs: Path) -> dict[tuple[str, ...], float]:
    """Each command with its limit in seconds of processor time."""
    slugs = [entry.slug for entry in entries() if entry.available]
    return {
        ("--help",): 0.3,
        ("methods",): 0.3,
        **{(name, "--help"): 0.5 for name in COMMANDS},
        **{("run", slug, flag): 0.5 for slug in (*slugs, "simpo") for flag in ("--help", "--print-config")},
        ("data", "check", str(pairs)): 0.4,
    }


def cost(command: tuple[str, ...]) -> tuple[float, float]:
    """(seconds of processor time, MB of memory at the most) of one process.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.Popen([sys.executable, "-m", "coalign", *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"coalign {' '.join(command)}: exit code {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    main()
