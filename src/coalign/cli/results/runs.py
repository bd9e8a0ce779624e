"""`coalign runs`: what lies in the folder of runs."""

from __future__ import annotations

from pathlib import Path

import click

from coalign.core.runs import Run, list_runs


@click.command()
@click.option(
    "--root", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, metavar="DIR"
)
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
def runs(root: Path, as_json: bool) -> None:
    """List the runs under a folder, the latest last."""
    rows = [row(run) for run in list_runs(root)]
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
    elif rows:
        click.echo(table(rows))
    else:
        click.echo(
            f"No runs under {root}. `coalign run METHOD` makes one; `coalign methods --available` lists methods."
        )


def row(run: Run) -> dict[str, str]:
    """Method, state, time, place and the headline's first line of one run."""
    summary = run.summary()
    return {**summary, "headline": summary["headline"].partition("\n")[0]}


def table(rows: list[dict[str, str]]) -> str:
    """Rows in columns as wide as needed; the headline comes last and is not cut."""
    columns = [name for name in rows[0] if any(one[name] for one in rows)]
    widths = {name: max(len(name), *(len(one[name]) for one in rows)) for name in columns}
    lines = [{name: name for name in columns}, *rows]
    return "\n".join("  ".join(line[name].ljust(widths[name]) for name in columns).rstrip() for line in lines)
