"""`coalign methods`: the catalogue in the terminal. Plain text, because it must answer at once."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

import click

from coalign.core.catalogue import CONFIDENCE, DATA, MODELS, ROOMS, VERBS, Entry, get, select


@click.command()
@click.argument("slug", required=False)
@click.option("--room", metavar="ROOM", help=f"Only one room: {', '.join(ROOMS)}.")
@click.option("--have", metavar="KIND,...", help=f"Only what your data suffices for: {', '.join(DATA)}.")
@click.option("--available", is_flag=True, help="Only methods that can run now.")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
def methods(slug: str | None, room: str | None, have: str | None, available: bool, as_json: bool) -> None:
    """List the methods, or explain one."""
    if slug is not None:
        entry = get(slug)
        click.echo(json.dumps(record(entry), indent=2) if as_json else explained(entry))
        return
    kinds = None if have is None else [kind for kind in have.split(",") if kind.strip()]
    found = select(room=room, have=kinds, available=available)
    click.echo(json.dumps([record(entry) for entry in found], indent=2) if as_json else listed(found))


def record(entry: Entry) -> dict[str, object]:
    """An entry as JSON takes it."""
    return {**asdict(entry), "year": entry.year, "url": entry.url, "command": entry.command}


def listed(found: Sequence[Entry]) -> str:
    """The systems in rows under their rooms."""
    if not found:
        return "No method fits. `coalign methods` lists all."
    lines: list[str] = []
    for room, holds in ROOMS.items():
        rows = sorted((one for one in found if one.room == room), key=lambda one: not one.available)
        if rows:
            lines += ["", f"{room}: {holds}", *(_row(entry) for entry in rows)]
    count = sum(entry.available for entry in found)
    summary = (
        f"{len(found)} methods, {count} can run (preview: without a check of the claim yet). "
        "`coalign methods NAME` explains one."
    )
    return "\n".join([*lines[1:], "", summary])


def _row(entry: Entry) -> str:
    row = f"  {entry.slug:<25} {entry.status:<10} {', '.join(entry.verbs):<30} {', '.join(entry.data)}"
    return row.rstrip()


def explained(entry: Entry) -> str:
    """Everything about one system; its options too when it can run."""
    lines = [
        entry.slug,
        *_field("paper", f"{entry.title} ({entry.year}), {entry.url}"),
        *_field("room", f"{entry.room}: {ROOMS[entry.room]}"),
        *_field("status", entry.status),
        *_field("claim", entry.claim),
        *_field("does", "; ".join(f"{verb} ({VERBS[verb]})" for verb in entry.verbs) or "a map of the field"),
        *_field("data", "; ".join(f"{kind} ({DATA[kind]})" for kind in entry.data) or "none"),
        *_field("models", "; ".join(f"{kind} ({MODELS[kind]})" for kind in entry.models) or "none"),
        *_field("confidence", f"{entry.confidence}: {CONFIDENCE[entry.confidence]}"),
    ]
    if entry.reconstruction:
        lines += _field("ours", entry.reconstruction)
    lines += _field("command", entry.command if entry.available else f"{entry.command} (planned)")
    return "\n".join(lines + (_options(entry) if entry.available else []))


def _field(name: str, text: str) -> list[str]:
    width = min(shutil.get_terminal_size().columns, 110)
    return textwrap.wrap(text, width, initial_indent=f"  {name:<11} ", subsequent_indent=" " * 14)


def _options(entry: Entry) -> list[str]:
    from coalign.cli.flags import shown
    from coalign.core.options import groups_of
    from coalign.core.system import load_system

    lines: list[str] = []
    for group, options in groups_of(load_system(entry.slug).Config).items():
        lines += ["", f"  {group}"]
        for one in options:
            default = "required" if one.required else shown(one.default)
            lines.append(f"    {one.flag:<28} {default:<18} {one.help} ({one.source})")
    return lines
