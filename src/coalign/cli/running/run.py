"""`coalign run METHOD`: flags from the method's configuration, a run folder around its `run`."""

from __future__ import annotations

import contextlib
import inspect
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from coalign.cli.flags import ConfigCommand
from coalign.core.built_in import BUILT_IN
from coalign.core.catalogue import CONFIDENCE, ROOMS, Entry, entries
from coalign.core.deferred import load_deferred
from coalign.core.errors import CoalignError
from coalign.core.faults import keep_traceback
from coalign.core.inputs import assert_there
from coalign.core.options import to_dict
from coalign.core.own_code import names_code
from coalign.core.runs import Run, is_main_process, new_run_path
from coalign.platform.methods import find

FIRST = {
    "sft": "Supervised fine-tuning on demonstrations.",
    "dpo": "Direct preference optimisation on pairs, against a reference.",
    "kto": "Single answers with a thumb up or down.",
    "orpo": "Fine-tuning and preferences in one loss, without a reference.",
    "simpo": "Mean log-probabilities with a margin, without a reference.",
    "ipo": "Pairs with a squared loss, which does not push without end.",
    "cpo": "DPO's loss without a reference, beside fine-tuning.",
}
"""Objectives that nearly everybody begins with, told of without importing any."""


class Methods(click.Group):
    """Every method as a subcommand; the method's module is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*FIRST, *BUILT_IN, *(entry.slug for entry in entries() if entry.available)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name.startswith("-"):
            return None
        return command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Objectives (`coalign objectives` tells of all)"):
            formatter.write_dl(list(FIRST.items()))
        with formatter.section("Methods of no one paper"):
            formatter.write_dl([(name, one.summary) for name, one in BUILT_IN.items()])
        with formatter.section("Systems (`coalign methods` tells of all, `coalign methods NAME` of one)"):
            formatter.write_dl([(room, ", ".join(slugs)) for room in ROOMS if (slugs := _available(room))])


@click.group(cls=Methods, invoke_without_command=True, subcommand_metavar="METHOD [OPTIONS]")
@click.pass_context
def run(ctx: click.Context) -> None:
    """Run a method, or continue a run: the same command with the same --out goes on where it stopped.

    METHOD is a system's name (`coalign methods`), an objective's (`coalign objectives`), one of those below, or an
    objective of your own as file.py:function.
    `coalign run METHOD --help` shows its options.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _available(room: str) -> list[str]:
    return [entry.slug for entry in entries() if entry.available and entry.room == room]


def command(method: str) -> click.Command:
    """The command of a system, of a method of no one paper, or of an objective.

    Raises:
        ConfigError: there is neither, or the system is planned.
    """
    entry, implementation = find(method)
    name = entry.slug if entry else implementation.objective.name if names_code(method) else method

    def apply(config: Any, out: Path | None) -> None:
        execute(name, implementation, config, out)

    return ConfigCommand(name, implementation.Config, apply, help=_about(entry, implementation))


def execute(name: str, implementation: Any, config: Any, out: Path | None) -> Run:
    """Run a method inside its run folder and keep the folder's status true, whatever happens."""
    if out is None or not (out / "status.json").exists():
        _assert_names(config)
    folder = Run.start(out or new_run_path(name), name, config, seed=getattr(config, "seed", None))
    if is_main_process():
        click.echo(f"Run folder: {folder.path}", err=True)
    advice = f"To continue, give the same options and --out {shlex.quote(str(folder.path))}"
    with _withdrawn_when_refused(folder, named=out is not None), true_status(folder, advice):
        load_deferred()
        implementation.run(config, folder)
    folder.set_status(state="done", error=None)
    if is_main_process():
        _show_end(folder)
    from coalign.training.processes import end_processes

    end_processes()
    return folder


def _assert_names(config: Any) -> None:
    """Refuse data and a model that are not there before a run folder is made for them."""
    assert_there(to_dict(config))
    model, elsewhere = getattr(config, "model", None), getattr(config, "endpoint", None)
    if isinstance(model, str) and not elsewhere and model.startswith((".", "/", "~")):
        from coalign.models.files.places import locate

        locate(model, getattr(config, "revision", None))


@contextlib.contextmanager
def _withdrawn_when_refused(folder: Run, *, named: bool) -> Iterator[None]:
    """A start that is refused before anything was made leaves no folder, unless the user named it. One of several processes
    leaves none at all: what cannot be shared among them is known only there.
    """
    from coalign.training.processes import process_count

    try:
        yield
    except CoalignError:
        if (not named or process_count() > 1) and is_main_process() and folder.withdraw():
            click.echo("Nothing was made: the run folder is removed again.", err=True)
        raise


@contextlib.contextmanager
def true_status(run: Run, advice: str) -> Iterator[None]:
    """A run whose work in the block is interrupted (then with advice how to go on) or fails is said to be so."""
    try:
        yield
    except KeyboardInterrupt:
        run.set_status(state="interrupted")
        click.echo(f"\nStopped. {advice}", err=True)
        raise
    except Exception as error:
        run.set_status(state="failed", error=f"{type(error).__name__}: {error}")
        keep_traceback(error, run.path)
        raise


def _show_end(folder: Run) -> None:
    """The report on standard output, and where everything is."""
    if folder.report.with_suffix(".json").exists():
        from coalign.report.html import read_report
        from coalign.report.terminal import print_report

        print_report(read_report(folder.report))
    click.echo(f"Done: {folder.path}", err=True)
    if folder.report.exists():
        click.echo(f"Report: {folder.report}", err=True)


def _about(entry: Entry | None, implementation: Any) -> str:
    """Text above the options: what it is, the paper and its claim."""
    summary = (inspect.getdoc(implementation) or "").partition("\n\n")[0]
    if entry is None:
        return summary
    parts = [summary, f"Paper: {entry.title} ({entry.year}), {entry.url}", f"Claim: {entry.claim}"]
    if entry.reconstruction:
        parts.append(
            f"Confidence: {entry.confidence}, {CONFIDENCE[entry.confidence]}. {entry.reconstruction}"
        )
    return "\n\n".join(filter(None, parts))
