"""The fuzzer: so many inputs over all targets, in one process; what goes wrong is gathered, not stopped at."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.contract.small import furnish
from tests.drill.fuzz.bench import Bench, FoundError, HangError, watchdog
from tests.drill.fuzz.targets import SMALL, TARGETS


@dataclass
class Findings:
    """What the inputs did.

    Attributes:
        inputs: tried, by target.
        seconds: by target.
        faults: name of the input to what went wrong with it.
    """

    inputs: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    def told(self) -> str:
        """A table of the targets, and every fault."""
        rows = [
            f"{name:22} {count:5} inputs {self.seconds[name]:7.1f} s" for name, count in self.inputs.items()
        ]
        return "\n".join([*rows, *(f"\n{name}\n{problem}" for name, problem in self.faults.items())])


def inputs(count: int) -> Iterator[tuple[str, int]]:
    """(target, number) of so many inputs: shares are kept at every count, and every target comes up early."""
    shares = {name: share for name, (_, share) in TARGETS.items()}
    done: Counter[str] = Counter()
    for _ in range(count):
        name = min(shares, key=lambda one: (done[one] + 1) / shares[one])
        yield name, done[name]
        done[name] += 1


def drill(root: Path, chosen: Iterable[tuple[str, int]], seed: int = 0) -> Findings:
    """Try the inputs in folders under `root`, in which the process works."""
    bench, found = Bench(root), Findings()
    for one in ("urial", "ln-dpo", "bco"):
        furnish(root, SMALL[one])
    with bench.open:
        for name, number in chosen:
            bench.next_folder()
            started = time.monotonic()
            try:
                with watchdog():
                    TARGETS[name][0](bench, Random(f"{seed} {name} {number}"))
            except HangError:
                found.faults[f"{name} {number}"] = "hangs"
            except FoundError as error:
                found.faults[f"{name} {number}"] = str(error)
            except Exception as error:  # what a target calls directly has no command line around it
                found.faults[f"{name} {number}"] = f"{type(error).__name__}: {error}"[:500]
            found.inputs[name] += 1
            found.seconds[name] += time.monotonic() - started
    return found
