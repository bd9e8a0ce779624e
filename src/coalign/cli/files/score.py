"""`coalign score METRIC FILE`: scores of a file's texts or tables as rows, without a run folder."""

from __future__ import annotations

import functools
import importlib
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

import click

from coalign.cli.counts import COUNT
from coalign.cli.files.output import SHARD_ROWS, Output
from coalign.cli.flags import GroupedCommand, assert_new, built, flags_of
from coalign.cli.threads import threads_flag
from coalign.core.engines.options import EngineOptions
from coalign.core.errors import ConfigError
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

The module has `ScoringOptions`; `read(source, options)`, the `items` of a source with their `ids`, sequences on disk, and the
`problems` of others; `scorer(options)`, which opens what makes a row of each of some items; `page(read, rows, options) -> Report`.
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
    """Score the texts or tables of a file, a folder or a glob of shards: one JSON row each on standard output, or in --out.

    `coalign score METRIC --help` shows a metric's options. `coalign run alignscore` does the same in a run folder, which
    can be continued, with a report.
    """


def _command(name: str) -> click.Command:
    module: Any = importlib.import_module(METRICS[name][0])

    def apply(
        file: str, out: Path | None, shard_rows: int | None, html: Path | None, overwrite: bool, **given: Any
    ) -> None:
        from coalign.core.engines.spool import View
        from coalign.core.engines.spread import fill, item_id

        assert_new(overwrite, html=html)
        output = Output(out, shard_rows, overwrite)
        config, engine = built(module.ScoringOptions, given), built(EngineOptions, given)
        found = module.read(file, config)
        for problem in found.problems:
            click.echo(f"Skipped: {problem}", err=True)
        output.begin({"metric": name, **asdict(config)})
        places = range(len(found.items))
        kept = output.rows(View(places, lambda place: item_id(place, found.items[place])), "row")
        fill(
            kept, found.items, functools.partial(module.scorer, config), engine,
            label="Scoring", names=found.ids, row=lambda made: {"row": made},
        )  # fmt: skip
        if html is not None and not any("error" in one for one in kept):
            from coalign.report.html import write_report

            write_report(module.page(found, View(kept, itemgetter("row")), config), html)
            click.echo(f"Page: {html}", err=True)
        rows = (
            one.get("row") or {"id": named, "error": one["error"]}
            for named, one in zip(found.ids, kept, strict=True)
        )
        if told := output.write(rows, len(kept)):
            click.echo(told)

    path = click.Path(path_type=Path, dir_okay=False)
    return GroupedCommand(
        name,
        params=[
            click.Argument(["file"], metavar="FILE|-"),
            click.Option(
                ["--out"],
                type=path,
                metavar="FILE",
                help="Write the rows there: JSON Lines, or by its name Parquet (.parquet) or a WebDataset tar (.tar). The same "
                "command goes on where it stopped.",
            ),
            click.Option(["--shard-rows"], type=COUNT, help=SHARD_ROWS),
            click.Option(["--html"], type=path, metavar="FILE.html", help="Write a page to read there."),
            click.Option(["--overwrite"], is_flag=True, help="Replace --out and --html."),
            *flags_of(module.ScoringOptions),
            *flags_of(EngineOptions),
            threads_flag(),
        ],
        callback=apply,
        help=METRICS[name][1],
    )
