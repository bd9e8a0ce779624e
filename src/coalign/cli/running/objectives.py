"""`coalign objectives`: the registered training objectives."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import click

from coalign.core.catalogue import entries

if TYPE_CHECKING:
    from coalign.training.objective import Objective


@click.command()
@click.argument("name", required=False)
def objectives(name: str | None) -> None:
    """List the training objectives, or explain one."""
    from coalign.training.objective import all_objectives, get_objective

    known = all_objectives()
    if name is not None:
        click.echo(explained(get_objective(name.replace("-", "_"))))
        return
    for one in known.values():
        reference = "with reference" if one.reference else "no reference"
        click.echo(f"  {one.name:<20} {one.data:<14} {reference:<15} {one.when}".rstrip())


def explained(one: Objective) -> str:
    """What an objective learns from, its loss, and its constants."""
    from coalign.cli.flags import shown
    from coalign.core.options import options_of

    lines = [
        one.name,
        f"  data        {one.data}",
        f"  reference   {'needed' if one.reference else 'not needed'}",
        f"  normalised  over {one.normalise}",
    ]
    lines += [f"  when        {one.when}"] if one.when else []
    lines += [f"  loss        {one.equation}"] if one.equation else []
    summary = (inspect.getdoc(one.loss) or "").partition("\n\n")[0]
    lines += [f"  source      {summary}"] if summary else []
    lines += [f"  run         coalign run {method_of(one)}"]
    for constant in options_of(one.constants):
        lines.append(
            f"    {constant.name:<20} {shown(constant.default):<10} {constant.help} ({constant.source})"
        )
    return "\n".join(lines)


def method_of(one: Objective) -> str:
    """What `coalign run` calls it: the system in whose file it is, else its own name."""
    module = one.loss.__module__.rpartition(".")[2].replace("_", "-")
    return module if any(entry.slug == module for entry in entries()) else one.name.replace("_", "-")
