"""`coalign search RUN TEXT...`: the clips of a run's index that texts describe, best first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coalign.cli.counts import COUNT
from coalign.cli.flags import assert_new
from coalign.cli.threads import takes_threads
from coalign.core.errors import ConfigError
from coalign.core.files import dump_json, write_rows

SHOWN = 60
"""Characters of a caption in the table."""


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="RUN")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--texts-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Texts, one a line, beside those given.",
)
@click.option(
    "--top", type=COUNT, default=10, show_default=True, help="How many clips are shown for each text."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON row a clip instead of a table.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.jsonl",
    help="Write the rows there.",
)
@click.option("--overwrite", is_flag=True, help="Replace --out.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:<n>, mps or auto.")
@takes_threads
def search(
    run: Path,
    texts: tuple[str, ...],
    texts_file: Path | None,
    top: int,
    as_json: bool,
    out: Path | None,
    overwrite: bool,
    device: str,
) -> None:
    """Find the clips that a text describes among those that a run of glscl indexed; no clip is decoded."""
    lines = texts_file.read_text(encoding="utf-8").splitlines() if texts_file else []
    wanted = [one.strip() for one in (*texts, *lines) if one.strip()]
    if not wanted:
        raise ConfigError("Nothing to search for.", hint="Give texts, or --texts-file.")
    assert_new(overwrite, out=out)
    from coalign.video.retrieval.index import search as found

    results = found(run, wanted, count=top, device=device)
    rows = [{"text": text, **row} for text, best in zip(wanted, results, strict=True) for row in best]
    if out is not None:
        write_rows(out, rows)
        click.echo(str(out))
    elif as_json:
        for row in rows:
            click.echo(dump_json(row))
    else:
        for text, best in zip(wanted, results, strict=True):
            _table(text, best)


def _table(text: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from coalign.report.text import visible

    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name, side in (("rank", "right"), ("score", "right"), ("clip", "left"), ("caption", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for row in rows:
        caption = visible(row["captions"][0])
        short = caption if len(caption) <= SHOWN else caption[: SHOWN - 1] + "…"
        table.add_row(str(row["rank"]), f"{row['score']:.3f}", Text(_place(row)), Text(short))
    console = Console()
    console.print(Text(visible(text), "bold"))
    console.print(table)


def _place(row: dict[str, Any]) -> str:
    if row["start"] is None and row["end"] is None:
        return row["video"]
    return f"{row['video']} {row['start'] or 0:g} to {'the end' if row['end'] is None else format(row['end'], 'g')} s"
