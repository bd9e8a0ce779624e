"""How long `coalign --help` and `coalign methods` take to answer.

python benchmarks/startup.py [--runs 15]

Whole processes, alternating, after one run of each that is not counted. The budget is 0.3 s for either.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = (["--help"], ["methods"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    seconds: dict[str, list[float]] = {" ".join(command): [] for command in COMMANDS}
    for number in range(runs + 1):
        for command in COMMANDS:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "coalign", *command], capture_output=True, check=True)
            if number:
                seconds[" ".join(command)].append(time.perf_counter() - started)
    for name, values in seconds.items():
        print(
            f"coalign {name:8} median {statistics.median(values):.3f} s, "
            f"min {min(values):.3f}, max {max(values):.3f} over {runs} runs"
        )


if __name__ == "__main__":
    main()
