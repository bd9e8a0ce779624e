"""`coalign compare RUN RUN ...`: one report over several runs."""

from __future__ import annotations

from pathlib import Path

import click

from coalign.cli.browser import open_page
from coalign.core.runs import Run


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("compare.html"),
    show_default=True,
    metavar="FILE",
    help="Where the page goes, a file or a folder; its data goes beside it as .json.",
)
@click.option("--open", "browse", is_flag=True, help="Open the page in the browser.")
def compare(runs: tuple[Path, ...], out: Path, browse: bool) -> None:
    """Compare runs: figures, options that differ, curves over each other, samples side by side."""
    if len(runs) < 2:
        raise click.UsageError("Give at least two runs; `coalign report RUN` shows one.")
    if out.is_dir() or not out.suffix:
        out = out / "compare.html"
    if out.suffix != ".html":
        raise click.BadParameter(f"{out} does not end in .html.", param_hint="--out")
    from coalign.report.compare import comparison_report, print_comparison
    from coalign.report.html import write_report

    found = comparison_report([Run.open(path) for path in runs])
    write_report(found, out)
    print_comparison(found)
    click.echo(f"Report: {out}")
    if browse:
        open_page(out.resolve().as_uri())
