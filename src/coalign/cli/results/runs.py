"""`coalign runs`: what lies in the folder of runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from coalign.core.errors import ConfigError
from coalign.core.runs import Run, list_runs
from coalign.core.secrets import redacted


@click.command()
@click.option(
    "--root", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, metavar="DIR"
)
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
@click.option("--failed", is_flag=True, help="Only runs that failed.")
@click.option(
    "--delete", is_flag=True, help="Delete the runs that are named, or with --failed all that failed."
)
@click.option("--yes", is_flag=True, help="With --delete: do not ask.")
@click.argument("names", nargs=-1, metavar="[RUN]...")
def runs(root: Path, as_json: bool, failed: bool, delete: bool, yes: bool, names: tuple[str, ...]) -> None:
    """List the runs under a folder, the latest last, or those that are named; or delete them."""
    found = [_named(name, root) for name in names] if names else list(list_runs(root))
    found = [run for run in found if not failed or run.summary()["state"] == "failed"]
    if delete:
        _delete(found, named=bool(names) or failed, sure=yes)
        return
    rows = [row(run) for run in found]
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
    elif rows:
        click.echo(table(rows))
    elif failed:
        click.echo(redacted(f"No failed runs under {root}."))
    else:
        advice = "`coalign run METHOD` makes one; `coalign methods --available` lists methods."
        click.echo(redacted(f"No runs under {root}. {advice}"))


def _named(name: str, root: Path) -> Run:
    """A run by its folder, or by its name under the folder of runs."""
    inside = root / name
    return Run.open(inside if (inside / "status.json").exists() else Path(name))


def _delete(found: list[Run], *, named: bool, sure: bool) -> None:
    """Delete runs with everything in them, after a question; one in which a process works is refused before any is."""
    if not named:
        raise ConfigError("--delete names no run.", hint="Give the folders of runs, or --failed.")
    if not found:
        click.echo("Nothing to delete.")
        return
    click.echo(table([row(run) for run in found]))
    if not sure and not click.confirm(f"Delete {len(found)} run{'s' if len(found) > 1 else ''} for good?"):
        return
    for run in found:
        run.assert_idle()
    for run in found:
        run.delete()
        click.echo(f"Deleted {run.path}")


def row(run: Run) -> dict[str, str]:
    """Method, state, time, place and the headline's first line of one run."""
    summary = run.summary()
    return {**summary, "headline": summary["headline"].partition("\n")[0]}


def table(rows: list[dict[str, str]], width: int | None = None) -> str:
    """Rows in columns as wide as needed; the headline comes last.

    Args:
        width: of a line, by default the terminal's; the headline is cut to it, to no less than 20 characters, then the
            beginning of paths. Into a file or a pipe nothing is cut.
    """
    if width is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    shown = [{name: text[:16] if name == "started" else text for name, text in one.items()} for one in rows]
    columns = [name for name in shown[0] if any(one[name] for one in shown)]
    widths = {name: max(len(name), *(len(one[name]) for one in shown)) for name in columns}
    if width and columns[-1] == "headline":
        others = sum(widths[name] + 2 for name in columns[:-1])
        widths["path"] = max(min(widths["path"], 16), widths["path"] - max(0, others + 20 - width))
        others = sum(widths[name] + 2 for name in columns[:-1])
        widths["headline"] = min(widths["headline"], max(20, width - others))
    lines = [{name: name for name in columns}, *shown]
    return "\n".join(
        "  ".join(_fitted(line[name], widths[name], end=name == "path") for name in columns).rstrip()
        for line in lines
    )


def _fitted(text: str, width: int, *, end: bool = False) -> str:
    """The text in so many characters; of a longer one the beginning, or the end."""
    if len(text) > width:
        text = f"…{text[1 - width :]}" if end else f"{text[: width - 1]}…"
    return text.ljust(width)
