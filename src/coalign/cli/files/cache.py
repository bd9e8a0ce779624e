"""`coalign cache`: what lies in coalign's cache, how large it is, and how it becomes smaller."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from coalign.core.cache import (
    PREPARED,
    Entry,
    cache_limit,
    cache_root,
    entries,
    folder_size,
    in_use,
    shown_size,
    size_of,
)
from coalign.core.cache import trim as trimmed
from coalign.core.errors import ConfigError
from coalign.core.names import suggest
from coalign.core.secrets import redacted

OTHERS = {
    "base-rewards": "scores by which rewards are transformed",
    "clips": "clips out of archives",
    "embeddings": "embeddings of reference translations",
    "endpoint.sqlite": "answers of endpoints",
    "features": "features of pictures and texts",
    "hashes": "checksums of models",
    "launch": "configurations of launches",
    "models": "default models in Hugging Face's layout",
    "small-clip": "a small model of the checks",
}
"""Folder or file of the cache beside prepared data to what it is."""


@click.command()
@click.argument("kinds", nargs=-1, metavar="[KIND]...")
@click.option(
    "--trim",
    metavar="SIZE",
    help="Remove what was not used for longest until prepared data take at most so much, such as 20GB.",
)
@click.option(
    "--clear", is_flag=True, help="Remove everything of these kinds, without a KIND all prepared data."
)
@click.option("--yes", is_flag=True, help="With --clear: do not ask.")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
def cache(kinds: tuple[str, ...], trim: str | None, clear: bool, yes: bool, as_json: bool) -> None:
    """Show what is kept in the cache and how large it is, entry by entry where kinds are named; trim or clear it.

    Prepared data (records, tokens, reference) are held to COALIGN_CACHE_LIMIT (100GB if it is not set; none for no limit)
    whenever something is added. What a living process makes use of is never removed.
    """
    root = cache_root()
    lying = {one.name for one in root.iterdir() if one.suffix != ".lock"} if root.is_dir() else set[str]()
    known = [*PREPARED, *sorted(lying - {*PREPARED})]
    for one in kinds:
        if one not in known:
            raise ConfigError(
                f"{one}: not in the cache.", hint=suggest(one, known, f"There are {', '.join(known)}.")
            )
    if trim is not None and (clear or not {*kinds} <= {*PREPARED}):
        raise ConfigError("--trim is for prepared data, and not beside --clear.")
    limit = cache_limit()
    if trim is not None:
        _tell(trimmed(size_of(trim, "--trim"), kinds or tuple(PREPARED)))
    elif clear:
        _clear(kinds or tuple(PREPARED), root, sure=yes)
    else:
        rows = [row for kind in kinds for row in _each(kind)] if kinds else [_row(root, one) for one in known]
        if as_json:
            click.echo(json.dumps({"path": str(root), "limit": limit, "entries": rows}, indent=2))
            return
        held = "no limit" if limit is None else f"prepared data at most {shown_size(limit)}"
        click.echo(redacted(f"{root}: {shown_size(folder_size(root))}, {held}"))
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            click.echo(redacted(_line(row, width)))


def _row(root: Path, kind: str) -> dict[str, Any]:
    """A kind as a whole."""
    path = root / kind
    found = entries([kind])
    return {
        "name": kind,
        "entries": len(found) if kind in PREPARED else None,
        "bytes": path.stat().st_size if path.is_file() else folder_size(path),
        "used": max((one.used for one in found), default=None),
        "about": PREPARED.get(kind) or OTHERS.get(kind, ""),
    }


def _each(kind: str) -> list[dict[str, Any]]:
    """What is kept of a kind, the one that was used last first."""
    return [
        {
            "name": f"{kind}/{one.path.name}",
            "entries": 1,
            "bytes": one.bytes,
            "used": one.used,
            "about": "in use" if in_use(one) else "unfinished" if one.lost else "",
        }
        for one in entries([kind])[::-1]
    ]


def _line(row: dict[str, Any], width: int) -> str:
    used = row["used"]
    day = "" if used is None else f"{datetime.datetime.fromtimestamp(used):%Y-%m-%d %H:%M}"
    return f"  {row['name']:<{width}} {shown_size(row['bytes']):>9}  {day:<16}  {row['about']}".rstrip()


def _clear(kinds: Sequence[str], root: Path, *, sure: bool) -> None:
    """Remove kinds, after a question."""
    size = shown_size(sum(_row(root, one)["bytes"] for one in kinds))
    if not sure and not click.confirm(f"Remove {', '.join(kinds)} ({size}) from {root}?"):
        return
    _tell(trimmed(0, [one for one in kinds if one in PREPARED]))
    left = [one for kind in kinds if kind in PREPARED for one in entries([kind])]
    for kind in kinds:
        if kind not in PREPARED:
            path = root / kind
            path.unlink() if path.is_file() else shutil.rmtree(path)
            click.echo(f"Removed {path}")
    if left:
        click.echo(f"In use, and kept: {len(left)} ({shown_size(sum(one.bytes for one in left))})")


def _tell(removed: Sequence[Entry]) -> None:
    click.echo(f"Removed {len(removed)} of prepared data ({shown_size(sum(one.bytes for one in removed))})")
