"""What is wrong with a command line that a page or a report shows."""

from __future__ import annotations

import shlex

import click

from coalign.cli.main import coalign
from coalign.cli.running.run import command as method_command


def unknown_in(line: str) -> list[str]:
    """The words of `coalign ...` that no command or flag has; none of another program."""
    program, *words = shlex.split(line.partition(" > ")[0], comments=True)
    if program != "coalign":
        return []
    command: click.Command = coalign
    while isinstance(command, click.Group) and words:
        word = words.pop(0)
        found = command.get_command(click.Context(command), word)
        if found is None:
            return [word]
        command = found
    if command.name == "launch" and "run" in words:
        at = words.index("run")
        return unknown_in(shlex.join(["coalign", *words[at:]])) or unknown_in(
            shlex.join(["coalign", "launch", *words[:at]]).removesuffix(" --")
        )
    params = [*command.params]
    if command.name == "sweep" and not words[0].endswith(".yaml"):  # it takes the flags of the method as well
        params += method_command(words[0]).params
    flags = {name for param in params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in flags]
