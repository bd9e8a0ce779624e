"""`python -m tests.drill fuzz --inputs 1500`: the drills as commands, each of which ends with a table and its faults."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import click

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path.cwd()))


@click.group()
def drill() -> None:
    """Rough handling of the whole project; exits with 1 where something does not hold."""


@drill.command()
@click.option("--inputs", "count", default=1500, show_default=True, help="How many.")
@click.option("--seed", default=0, show_default=True, help="Of the inputs.")
@click.option("--target", "only", help="One target alone; with --number one input.")
@click.option("--number", type=int, help="One input of the target.")
def fuzz(count: int, seed: int, only: str | None, number: int | None) -> None:
    """Odd input for everything that reads, in this process."""
    from tests.drill.fuzz.bench import alone
    from tests.drill.fuzz.drill import drill as run
    from tests.drill.fuzz.drill import inputs

    chosen = inputs(count)
    if only is not None:
        chosen = ((only, one) for one in ([number] if number is not None else range(count)))
    alone()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["COALIGN_CACHE"] = str(Path(folder) / "cache")
        found = run(Path(folder), chosen, seed)
        os.chdir("/")
    click.echo(found.told())
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    drill()
