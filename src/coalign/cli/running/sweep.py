"""`coalign sweep`: one run, or one pipeline, for every choice of some options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coalign.core.errors import ConfigError
from coalign.core.runs import Run, new_run_path


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("method", metavar="METHOD|FILE")
@click.option(
    "--grid",
    multiple=True,
    required=True,
    metavar="NAME=V1,V2,...",
    help="An option of the method (a setting of the pipeline) and its values; given several times, all combinations are "
    "run. `seed` repeats: its values are averaged.",
)
@click.option(
    "--by",
    required=True,
    metavar="FIGURE",
    help="The held-out figure that decides: one of the run's status.json, or STAGE.FIGURE of a pipeline.",
)
@click.option("--lower", is_flag=True, help="Less of it is better (a loss).")
@click.option("--cells", type=click.IntRange(1), metavar="N", help="Only N choices, drawn from the grid.")
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True),
    metavar="H",
    help="Start no further run after H hours.",
)
@click.option("--draw-seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of that draw.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder; an existing one is continued.",
)
@click.pass_context
def sweep(
    ctx: click.Context,
    method: str,
    grid: tuple[str, ...],
    by: str,
    lower: bool,
    cells: int | None,
    hours: float | None,
    draw_seed: int,
    out: Path | None,
) -> None:
    """Run METHOD (or the pipeline FILE) for every choice of some options, and say which was best.

    Further flags are those of `coalign run METHOD`. Every run lies in DIR/stages; the same command goes on where it stopped,
    and a grid may grow. Stages of a pipeline that the varied settings do not reach run once.

    Example: coalign sweep dpo --data pairs.jsonl --grid beta=0.05,0.1,0.5 --grid seed=0,1,2 --by rewards/accuracies
    """
    from coalign.cli.results.runs import table
    from coalign.cli.running.run import command, true_status
    from coalign.platform.pipeline.chain import plan
    from coalign.platform.pipeline.description import read_pipeline
    from coalign.platform.pipeline.sweep import METHOD, SweepOptions, method_pipeline, plan_sweep, run_sweep
    from coalign.platform.pipeline.sweep_report import columns_of, rows_of

    values = _grid(grid)
    given: dict[str, Any] = {}
    if Path(method).suffix in (".yaml", ".yml"):
        if ctx.args:
            raise ConfigError(
                f"{ctx.args[0]}: a pipeline takes no options of a method.", hint="Write them into the file."
            )
        pipeline = read_pipeline(Path(method))
    else:
        own: Any = command(method)
        given = own.values(ctx.args)
        pipeline = method_pipeline(method, given, values)
    config = SweepOptions(
        file=Path(method),
        grid=values,
        by=by,
        lower=lower,
        cells=cells,
        hours=hours,
        seed=draw_seed,
        options=given,
    )
    folder = out or new_run_path(f"sweep-{Path(method).stem}")
    whole, cells_, stage = plan_sweep(pipeline, config)
    plan(whole, folder)  # everything is checked before the first run starts
    run = Run.start(folder, METHOD, config)
    click.echo(f"Run folder: {folder}\n{len(cells_)} choices, {len(whole.stages)} runs", err=True)
    with true_status(run, f"The same command with --out {folder} goes on."):
        points = run_sweep(pipeline, config, run, lambda text: click.echo(text, err=True))
    run.set_status(state="done", error=None)
    columns = columns_of(points, config.figure)
    rows = rows_of(run, points, stage, config.figure, lower)
    click.echo(table([dict(zip(columns, map(_shown, row), strict=True)) for row in rows]))
    click.echo(run.status()["headline"])
    click.echo(f"Report: {run.report}", err=True)


def _grid(texts: tuple[str, ...]) -> dict[str, list[Any]]:
    from coalign.core.yaml_text import parse_yaml

    found: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not values.strip():
            raise ConfigError(f"--grid: {text!r} is not usable, expected NAME=VALUE,VALUE,...")
        if name in found:
            raise ConfigError(f"--grid: {name} is given twice, expected all its values in one flag.")
        found[name] = [parse_yaml(one) for one in values.split(",") if one.strip()]
        if len({repr(one) for one in found[name]}) < len(found[name]):
            raise ConfigError(f"--grid: {text!r} has a value twice.")
    return found


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
