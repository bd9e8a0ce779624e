"""`python -m tests.drill fuzz --inputs 1500`: the drills as commands, each of which ends with a table and its faults."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path.cwd()))


@contextlib.contextmanager
def alone() -> Iterator[Path]:
    """A folder to work in, with a cache of its own; no keys, no proxies, no hub."""
    for name in ("COALIGN_API_KEY", "OPENAI_API_KEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        os.environ.pop(name, None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COALIGN_CACHE"] = str(Path(folder) / "cache")
        os.chdir(folder)
        yield Path(folder)
        os.chdir("/")


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
    from tests.drill.fuzz.drill import drill as run
    from tests.drill.fuzz.drill import inputs

    chosen = inputs(count)
    if only is not None:
        chosen = ((only, one) for one in ([number] if number is not None else range(count)))
    with alone() as folder:
        found = run(folder, chosen, seed)
    click.echo(found.told())
    sys.exit(bool(found.faults))


@drill.command()
@click.option("--prompts", default=40, show_default=True, help="Under each kind of fault.")
@click.option("--seed", default=0, show_default=True, help="Of what fails when.")
def endpoint(prompts: int, seed: int) -> None:
    """A faulty server, one kind of fault after the other: nothing is lost, mixed up or paid twice."""
    from tests.drill.endpoint_faults import FAULTS
    from tests.drill.endpoint_faults import drill as run

    faults = []
    with alone() as folder:
        for number, kind in enumerate(FAULTS):
            try:
                run(kind, folder / str(number), prompts=prompts, seed=seed)
            except Exception as error:
                faults.append(f"{kind}: {error}")
    click.echo("\n".join([f"{len(FAULTS)} kinds of fault, {len(faults)} that do not pass", *faults]))
    sys.exit(bool(faults))


@drill.command()
@click.option("--requests", default=10_000, show_default=True, help="In all, of clients side by side.")
@click.option("--seed", default=0, show_default=True, help="Of what they do.")
def soak(requests: int, seed: int) -> None:
    """A server under clients that leave: its memory stays within 5 %, nothing is left waiting, answers stay the same."""
    from tests.drill.soak import soak as run

    with alone() as folder:
        found = run(folder, requests, seed=seed)
    click.echo(found.told())
    sys.exit(bool(found.faults))


@drill.command()
@click.option("--kills", "count", default=100, show_default=True, help="How many, in turn over all.")
@click.option("--seed", default=0, show_default=True, help="Of the moments and the signals.")
@click.option("--minutes", default=60.0, show_default=True, help="After so many no further kill is made.")
@click.option(
    "--victim", "names", multiple=True, help="A system or a variant of it; may be given several times."
)
def kills(count: int, seed: int, minutes: float, names: tuple[str, ...]) -> None:
    """Processes killed at random moments by SIGKILL, SIGTERM and SIGINT; results differ in nothing but times."""
    from tests.drill.kills import SYSTEMS, victims
    from tests.drill.kills import drill as run

    with alone(), victims(names or SYSTEMS) as chosen:
        found = run(chosen, count, seed=seed, until=60 * minutes)
    click.echo(found.told())
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    drill()
