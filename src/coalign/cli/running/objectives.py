"""`coalign objectives`: the registered training objectives."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import click

from coalign.cli.flags import shown
from coalign.core.catalogue import entries
from coalign.core.options import options_of

if TYPE_CHECKING:
    from coalign.training.objective import Objective
    from coalign.training.online.policy_gradient import OnlineMethod


@click.command()
@click.argument("name", required=False)
def objectives(name: str | None) -> None:
    """List the training objectives, or explain one."""
    from coalign.training.objective import all_objectives, get_objective
    from coalign.training.online.methods import online_methods

    known, online = all_objectives(), online_methods()
    if name is not None:
        own = online.get(name.replace("_", "-"))
        click.echo(explained_online(own) if own else explained(get_objective(name.replace("-", "_"))))
        return
    for one in known.values():
        reference = "with reference" if one.reference else "no reference"
        click.echo(f"  {one.name:<20} {one.data:<14} {reference:<15} {one.when}".rstrip())
    click.echo("On responses that the policy samples while it is trained (docs/how-to/reinforcement.md):")
    for one in online.values():
        click.echo(f"  {one.name:<20} {'prompts':<14} {'by option':<15} {one.when}".rstrip())


def explained_online(one: OnlineMethod) -> str:
    """What an online method is: its loss, its source and its constants."""
    lines = [
        one.name,
        "  data        prompts; the policy samples responses, and rewards value them",
        f"  when        {one.when}",
        f"  loss        {one.equation}",
        f"  source      {(inspect.getdoc(one.loss) or '').partition(chr(10) * 2)[0]}",
        f"  run         coalign run {one.name}",
        *_constants(one.constants),
    ]
    return "\n".join(lines)


def _constants(constants: type) -> list[str]:
    return [
        f"    {one.name:<20} {shown(one.default):<10} {one.help} ({one.source})"
        for one in options_of(constants)
    ]


def explained(one: Objective) -> str:
    """What an objective learns from, its loss, and its constants."""
    lines = [
        one.name,
        f"  data        {one.data}",
        f"  reference   {'needed' if one.reference else 'not needed'}",
        f"  normalised  over {one.unit(one.constants())}",
    ]
    lines += [f"  when        {one.when}"] if one.when else []
    lines += [f"  loss        {one.equation}"] if one.equation else []
    summary = (inspect.getdoc(one.loss) or "").partition("\n\n")[0]
    lines += [f"  source      {summary}"] if summary else []
    lines += [f"  run         coalign run {method_of(one)}"]
    lines += _constants(one.constants)
    return "\n".join(lines)


def method_of(one: Objective) -> str:
    """What `coalign run` calls it: the system in whose file it is, else its own name."""
    module = one.loss.__module__.rpartition(".")[2].replace("_", "-")
    return module if any(entry.slug == module for entry in entries()) else one.name.replace("_", "-")
