"""The command `coalign`: a group whose commands are imported only when they run."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

import click

from coalign import __version__
from coalign.core.deferred import defer
from coalign.core.errors import CoalignError
from coalign.core.faults import told
from coalign.core.files import FULL
from coalign.core.names import suggest
from coalign.core.secrets import hold_arguments, redact_log_records, redacted

COMMANDS = {
    "quickstart": (
        "coalign.cli.running.quickstart:quickstart",
        "Align the default model on this machine and prove it.",
    ),
    "run": ("coalign.cli.running.run:run", "Run a method, or continue a run."),
    "launch": ("coalign.cli.running.launch:launch", "Run a method in several processes."),
    "pipeline": (
        "coalign.cli.running.pipeline:pipeline",
        "Run methods one after the other, from a YAML file.",
    ),
    "sweep": ("coalign.cli.running.sweep:sweep", "Run a method for every choice of some options."),
    "advise": (
        "coalign.cli.running.advise:advise_command",
        "Say which methods fit your data, model and goal.",
    ),
    "methods": ("coalign.cli.running.methods:methods", "List the methods, or explain one."),
    "objectives": ("coalign.cli.running.objectives:objectives", "List the training objectives."),
    "data": ("coalign.cli.files.data:data", "Check and show data files."),
    "import-config": (
        "coalign.cli.files.import_config:import_config",
        "Turn a configuration of TRL, LLaMA-Factory or axolotl into ours.",
    ),
    "export": (
        "coalign.cli.files.export:export",
        "Write a model to a folder that any tool loads, or to the hub.",
    ),
    "generate": ("coalign.cli.files.generate:generate", "Generate responses to a file of prompts."),
    "score": ("coalign.cli.files.score:score", "Score texts with a metric, without a run folder."),
    "search": ("coalign.cli.files.search:search", "Find the clips that a text describes in a run's index."),
    "judge": ("coalign.cli.files.judge:judge", "Compare or rate responses with a judge."),
    "eval": (
        "coalign.cli.files.eval:eval_command",
        "Evaluate models on standard tasks, before and after in one table.",
    ),
    "annotate": ("coalign.cli.files.annotate:annotate", "Judge pairs yourself, blind, in the browser."),
    "chat": ("coalign.cli.serving.chat:chat", "Talk to a model or to a run's result."),
    "serve": ("coalign.cli.serving.serve:serve", "Serve a model or a decoding method to OpenAI clients."),
    "runs": ("coalign.cli.results.runs:runs", "List the runs."),
    "report": ("coalign.cli.results.report:report", "Show or rebuild a run's report."),
    "compare": ("coalign.cli.results.compare:compare", "Compare runs in one report."),
    "ui": ("coalign.cli.results.ui:ui", "Runs, reports and models in the browser."),
    "reproduce": ("coalign.cli.running.reproduce:reproduce", "Check a paper's claim at desk scale."),
    "cache": ("coalign.cli.files.cache:cache", "Show, trim or clear what is kept for later starts."),
    "doctor": ("coalign.cli.doctor:doctor", "Show versions, devices, extras and caches."),
}
"""Command to (where it is, one line of help)."""

INTERRUPTED = 130
ERROR_DELAY = 3.0
"""Seconds in which a launcher ends the other processes once the first has failed."""
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""In what the operations of a group say once another of its processes is gone."""
OF_PATHS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR),
    *(errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG),
)
"""Error numbers that say what is wrong with a path, which is the user's."""
LONGEST_NAME = 120
"""Characters of a path that are shown of one that is too long for the system."""


class LazyGroup(click.Group):
    """Commands by name, imported when one of them is called. `--help` imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"No such command: {args[0]!r}. {_advice(args[0])}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _advice(word: str) -> str:
    """For a word that is no command: a method is given to `coalign run`."""
    from coalign.platform.methods import methods

    known = {one.lower().replace("_", "-") for one in methods()}
    if word == "help":
        return "`coalign --help` lists the commands, `coalign COMMAND --help` explains one."
    if word.lower().replace("_", "-") in known:
        return f"It is a method: `coalign run {word}`."
    near = suggest(word, [*COMMANDS, *(f"run {one}" for one in known)], "")
    return near or "`coalign --help` lists the commands, `coalign run --help` the methods."


def _with_dashes(name: str) -> str:
    """`--learning_rate` is `--learning-rate`; the choices of a flag are compared in the same form."""
    return name.replace("_", "-")


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "token_normalize_func": _with_dashes,
    },
)
@click.version_option(__version__, prog_name="coalign")
def coalign() -> None:
    """Bring a model into line with what people want from it, and prove it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Turns errors that a user can act on into a message and an exit code, without a traceback.

    Exit codes: 0 done, 1 the work could not be done (or the reader of the output went away), 2 wrong usage or
    configuration, 130 interrupted. An error that is a fault of the code is told in one line too: what it is, where, and
    which file holds its traceback. `COALIGN_TRACEBACK=1` shows where any error came from.
    """
    defer("torch", "numpy", "jinja2")
    hold_arguments(sys.argv[1:] if argv is None else argv)
    redact_log_records()
    for stream in (sys.stdout, sys.stderr):  # what cannot be shown is shown by its code
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = coalign.main(
            args=None if argv is None else list(argv), prog_name="coalign", standalone_mode=False
        )
        sys.stdout.flush()
    except click.exceptions.ClickException as error:
        cast(Any, error).message = redacted(error.message)
        error.show()
        code = error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes standard output once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if os.environ.get("COALIGN_TRACEBACK") == "1":
            raise
        _let_another_tell(error)
        click.echo(f"Error: {redacted(_message(error) or told(error))}", err=True)
        code = getattr(error, "exit_code", 1) if isinstance(error, CoalignError) else 1
    sys.exit(code if type(code) is int else 0)


def _let_another_tell(error: Exception) -> None:
    """Under a launcher an error that all processes share is told once: the first process tells it, and the launcher ends the
    others while they wait here. One that only this process has is told a little later; that another one is gone, last.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    if any(sign in str(error) for sign in LOST):
        time.sleep(2 * ERROR_DELAY)
    elif os.environ.get("RANK", "0") != "0":
        time.sleep(ERROR_DELAY)


def _message(error: Exception) -> str | None:
    """What to tell the user; None for an error that is a fault of the code."""
    if isinstance(error, CoalignError):
        return str(error)
    if not isinstance(error, OSError):
        return None
    if error.errno in FULL:
        place = f" while writing {error.filename}" if error.filename else ""
        return f"No space left on the disk{place}.\nFree some space and run the same command again."
    if error.errno in OF_PATHS and error.filename:
        name = str(error.filename)
        return f"{name if len(name) <= LONGEST_NAME else f'{name[:LONGEST_NAME]}...'}: {error.strerror}."
    return None


if __name__ == "__main__":
    main()
