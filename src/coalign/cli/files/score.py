"""`coalign score METRIC FILE`: scores of a file's texts or tables as JSON Lines, without a run folder."""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from coalign.cli.flags import GroupedCommand, assert_new, built, flags_of
from coalign.cli.threads import threads_flag
from coalign.core.engines.options import EngineOptions
from coalign.core.errors import ConfigError
from coalign.core.files import dump_json, hold_file, write_rows
from coalign.core.names import suggest

METRICS = {
    "alignscore": ("coalign.evaluation.alignscore", "How well each claim is supported by its source."),
    "amg": (
        "coalign.evaluation.modalities",
        "How well answers in several modalities follow their prompts and fit together.",
    ),
    "grits": ("coalign.tables.scoring", "How alike predicted and true table structures are."),
}
"""Metric to its module and one line of help.

The module has `ScoringOptions`; `read(source, options)`, the items of a file with their `ids` and the `problems` of others;
`scorer(options)`, which opens what makes a row of each of some items; `page(items, rows, options) -> Report`.
"""


class Metrics(click.Group):
    """Every metric as a subcommand; its module is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(METRICS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name.startswith("-"):
            return None
        if cmd_name not in METRICS:
            advice = suggest(cmd_name, METRICS, f"Known: {', '.join(METRICS)}.")
            raise ConfigError(f"{cmd_name!r} is not a metric. {advice}")
        return _command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Metrics"):
            formatter.write_dl([(name, line) for name, (_, line) in METRICS.items()])


@click.group(cls=Metrics, subcommand_metavar="METRIC FILE [OPTIONS]")
def score() -> None:
    """Score the texts or tables of a file: one JSON row each on standard output, or in --out.

    `coalign score METRIC --help` shows a metric's options. `coalign run alignscore` does the same in a run folder, which
    can be continued, with a report.
    """


def _command(name: str) -> click.Command:
    module: Any = importlib.import_module(METRICS[name][0])

    def apply(file: str, out: Path | None, html: Path | None, overwrite: bool, **given: Any) -> None:
        assert_new(overwrite, out=out, html=html)
        config, engine = built(module.ScoringOptions, given), built(EngineOptions, given)
        items = module.read(file, config)
        for problem in items.problems:
            click.echo(f"Skipped: {problem}", err=True)
        if engine.engine == "ray":
            rows = _by_workers(name, items, config, engine, out)
        else:
            rows = module.scorer(config)(list(items))
            _write(rows, out)
        if html is not None:
            from coalign.report.html import write_report

            write_report(module.page(items, rows, config), html)
            click.echo(f"Page: {html}", err=True)

    path = click.Path(path_type=Path, dir_okay=False)
    return GroupedCommand(
        name,
        params=[
            click.Argument(["file"], metavar="FILE|-"),
            click.Option(["--out"], type=path, metavar="FILE.jsonl", help="Write the rows there."),
            click.Option(["--html"], type=path, metavar="FILE.html", help="Write a page to read there."),
            click.Option(["--overwrite"], is_flag=True, help="Replace --out and --html."),
            *flags_of(module.ScoringOptions),
            *flags_of(EngineOptions),
            threads_flag(),
        ],
        callback=apply,
        help=METRICS[name][1],
    )


def _by_workers(
    name: str, items: Any, config: Any, engine: EngineOptions, out: Path | None
) -> Sequence[dict[str, Any]]:
    """The rows that workers make, in the order of the items; with `out` they are continued after a kill.

    Raises:
        CoalignError: rows failed, after all were written.
    """
    from coalign.core.engines.row_file import RowFile, begin
    from coalign.core.engines.spread import fill, item_id

    module, listed = importlib.import_module(METRICS[name][0]), list(items)
    with tempfile.TemporaryDirectory() as folder:
        partial = out.with_name(f"{out.name}.partial") if out else Path(folder) / "rows.jsonl"
        lock = hold_file(partial, hint="Wait for it, or give another --out.")
        begin(partial, {"metric": name, **asdict(config)})
        kept = RowFile(partial, [item_id(place, one) for place, one in enumerate(listed)])
        if out and kept.missing < len(kept):
            click.echo(f"Continuing: {len(kept) - kept.missing} of {len(kept)} rows are done.", err=True)
        failures = fill(
            kept, listed, functools.partial(module.scorer, config), engine,
            label="Scoring", names=items.ids, row=lambda made: {"row": made},
        )  # fmt: skip
        rows = [
            one.get("row") or {"id": name, "error": one["error"]}
            for name, one in zip(items.ids, kept, strict=True)
        ]
        _write(rows, out)
        failures.check(len(rows), str(out) if out else "the output")
        partial.unlink()
        lock.release()
    return rows


def _write(rows: list[dict[str, Any]], out: Path | None) -> None:
    if out is None:
        for row in rows:
            click.echo(dump_json(row))
        return
    write_rows(out, rows)
    click.echo(str(out))
