"""`coalign report RUN`: what a run found, in the terminal and as a page."""

from __future__ import annotations

from pathlib import Path

import click

from coalign.cli.browser import open_page
from coalign.core.errors import RunError
from coalign.core.runs import Run


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--open", "browse", is_flag=True, help="Open the page in the browser.")
def report(run: Path, browse: bool) -> None:
    """Print the report of a run, and write its page again from the data beside it (report.json)."""
    from coalign.core.files import write_text
    from coalign.report.html import read_report, render_html
    from coalign.report.terminal import print_report

    folder = Run.open(run)
    if not folder.report.with_suffix(".json").exists():
        raise RunError(
            f"{run} has no report yet (its state: {folder.state}).",
            hint="A run writes it at its end; the same command with the same --out continues one that stopped.",
        )
    found = read_report(folder.report)
    write_text(folder.report, render_html(found))
    print_report(found)
    click.echo(f"Report: {folder.report}")
    if browse:
        open_page(folder.report.resolve().as_uri())
