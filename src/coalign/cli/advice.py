"""What is said to a word that a command does not know, where more is known of it than that."""

from __future__ import annotations

import os

import click

from coalign.cli.peers import counterpart
from coalign.core.inputs import NAMES
from coalign.core.names import suggest

_OF_ARGUMENTS = {"data": "file", "input": "file", "run": "model", "folder": "runs"}
"""Flags of other commands to the argument that stands for them where it is given by itself."""
_OF_DATA = {"data", "dataset", "datasets", "file", "files", "input", "prompts", "train_file"}
"""Words for what a method learns from."""


def advice_on(option: str, command: click.Command) -> str | None:
    """A sentence on an option that a command does not have; None where its spelling is all there is to say.

    An option of another library is answered by what stands for it here, one whose value is given without a flag by that,
    and one for data by the options that name data.
    """
    word = option.lstrip("-").replace("-", "_")
    for one in command.params:
        if isinstance(one, click.Argument) and one.name in (word, _OF_ARGUMENTS.get(word), f"{word}s"):
            return f"{one.make_metavar(click.Context(command))} is given without a flag."
    if word in _OF_DATA:
        names = [one.opts[0] for one in command.params if one.name and NAMES.search(one.name)]
        if names:
            return f"What names data here: {', '.join(names)}."
    return counterpart(option)


class FileGroup(click.Group):
    """A group of commands on files; a file in place of a command is answered by the first of them."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word not in self.commands and not word.startswith("-"):
            raise click.UsageError(f"No such command: {word!r}. {self._advice(ctx, word)}", ctx)
        return super().resolve_command(ctx, args)

    def _advice(self, ctx: click.Context, word: str) -> str:
        if os.path.exists(word) or os.path.splitext(word)[1]:
            return f"For a file: `{ctx.command_path} {next(iter(self.commands))} {word}`."
        return suggest(word, self.commands, f"Known: {', '.join(self.commands)}.")
