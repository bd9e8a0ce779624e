"""`coalign reproduce`: the claims of papers at desk scale, each by a rule that was fixed beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coalign.checks.options import DEFAULT_SEEDS, CheckOptions
from coalign.cli.counts import COUNT
from coalign.cli.running.run import true_status
from coalign.core import options
from coalign.core.catalogue import get, select
from coalign.core.errors import CoalignError, ConfigError
from coalign.core.files import read_rows, write_json
from coalign.core.runs import Run, list_runs, new_run_path
from coalign.core.system import load_check
from coalign.core.verdict import Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES = {"seen": "bold green", "not seen": "bold red", "mixed": "bold yellow"}


@click.command()
@click.argument("slugs", nargs=-1, metavar="SLUG...")
@click.option("--all", "everything", is_flag=True, help="Every available system.")
@click.option(
    "--seeds",
    type=COUNT,
    default=DEFAULT_SEEDS,
    show_default=True,
    help="How many seeds, counted from 0.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for the verdicts, SLUG.json each. By default docs/results in a checkout, for a check with the default "
    "seeds and data.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="Records in place of the check's own, for checks that read some: a file, or the folder that a check names.",
)
def reproduce(
    slugs: tuple[str, ...], everything: bool, seeds: int, out: Path | None, data: Path | None
) -> None:
    """Check whether the effect that a paper claims shows in a small world: seen, not seen or mixed.

    A check works in a run folder under ./runs. One that was stopped goes on when the same command is given again.
    """
    config = CheckOptions(seeds=seeds, data=None if data is None else str(data))
    systems = {slug: load_check(slug) for slug in _wanted(slugs, everything)}
    for slug, system in systems.items():
        _assert_takes_data(slug, system, config)
    failed = [slug for slug, system in systems.items() if not _reproduced(slug, system, config, out)]
    if failed:
        raise CoalignError(f"{len(failed)} of {len(systems)} checks could not be done: {', '.join(failed)}.")


def run_check(slug: str, system: Any, config: CheckOptions) -> tuple[Verdict, Run]:
    """Run a check in a new run folder, or in the one where it was stopped, and leave `verdict.json` there."""
    name = f"reproduce-{slug}"
    run = Run.start(_unfinished(name, config) or new_run_path(name), name, config, seed=0)
    click.echo(f"Run folder: {run.path}", err=True)
    check = system.check if config.data is None else partial(system.check_on_data, data=Path(config.data))
    with true_status(run, "The same command goes on where it was."):
        verdict: Verdict = check(run, seeds=config.seeds)
    verdict.save(run.path / "verdict.json")
    run.set_status(state="done", headline=f"{verdict.outcome}: {verdict.claim}", error=None)
    return verdict, run


def rendered(verdict: Verdict) -> RenderableType:
    """Measures by arm (mean ± standard deviation over the seeds), the figures of the rule, rule and verdict."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from coalign.checks.rules import by_arm

    arms = by_arm(verdict.measures)
    metrics = list(dict.fromkeys(metric for values in arms.values() for metric in values))
    measures = Table(box=None, padding=(0, 2), header_style="dim")
    measures.add_column("arm")
    for metric in metrics:
        measures.add_column(metric, justify="right")
    for arm, values in arms.items():
        measures.add_row(Text(arm), *(_spread(*values[one]) if one in values else "" for one in metrics))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("claim", Text(verdict.claim))
    facts.add_row("world", Text(verdict.setting))
    facts.add_row("rule", Text(verdict.rule))
    for label, value in verdict.summary.items():
        facts.add_row(Text(label), _figure(value))
    for line in verdict.tried:
        facts.add_row("tried", Text(line))
    head = Text.assemble(
        (verdict.slug, "bold"),
        "  ",
        (verdict.outcome, STYLES[verdict.outcome]),
        f"  ({verdict.seconds:.0f} s)",
    )
    seeds = len({row["seed"] for row in verdict.measures})
    note = Text(f"mean ± standard deviation over {seeds} seed{'s' if seeds > 1 else ''}", "dim")
    return Group(Text(), head, Text(), Padding(Group(measures, note, Text(), facts), (0, 0, 0, 2)), Text())


def publish(verdict: Verdict, run: Run, folder: Path) -> Path:
    """Write the verdict with the versions that it was reached with to `folder`."""
    environment = run.environment()
    versions = {"python": environment["python"], **environment["packages"]}
    kept = {name: version for name, version in versions.items() if version is not None}
    path = folder / f"{verdict.slug}.json"
    from coalign.checks.arms import ITEMS

    items = read_rows(run.artefacts / ITEMS)
    write_json(path, {**asdict(verdict), **({"items": items} if items else {}), "versions": kept})
    return path


def _reproduced(slug: str, system: Any, config: CheckOptions, out: Path | None) -> bool:
    """Check, show, publish; False where the check could not be done, so that others still are."""
    from rich.console import Console

    try:
        verdict, run = run_check(slug, system, config)
    except CoalignError as error:
        click.echo(f"{slug}: {error}", err=True)
        return False
    Console().print(rendered(verdict))
    folder = _results_folder(out, config)
    written = publish(verdict, run, folder) if folder else run.path / "verdict.json"
    click.echo(f"Verdict: {written}", err=True)
    if folder is not None and out is None:
        click.echo("`python docs/gen_results.py` brings the tables up to date.", err=True)
    return True


def _wanted(slugs: Sequence[str], everything: bool) -> list[str]:
    if everything and slugs:
        raise ConfigError("--all and named systems exclude each other.", hint="Give one of the two.")
    if not everything and not slugs:
        raise ConfigError(
            "Nothing to check.", hint="Name a system (`coalign methods --available`), or give --all."
        )
    if everything:
        return [entry.slug for entry in select(available=True) if entry.checked]
    found = [get(slug) for slug in dict.fromkeys(slugs)]
    unchecked = [entry.slug for entry in found if entry.available and not entry.checked]
    if unchecked:
        raise ConfigError(f"{', '.join(unchecked)}: runs, but has no check of its claim yet.")
    return list(dict.fromkeys(entry.slug for entry in found))


def _assert_takes_data(slug: str, system: Any, config: CheckOptions) -> None:
    if config.data is not None and not hasattr(system, "check_on_data"):
        raise ConfigError(f"--data: the check of {slug} reads no records: it makes its own world.")


def _unfinished(name: str, config: CheckOptions) -> Path | None:
    """The latest stopped run of the same check with the same options."""
    wanted = options.to_dict(config)
    found = None
    for run in list_runs(Path("runs")):
        try:
            stopped = run.status()["method"] == name and run.state in ("interrupted", "failed")
            found = run.path if stopped and run.config() == wanted else found
        except (CoalignError, KeyError):
            continue
    return found


def _results_folder(out: Path | None, config: CheckOptions) -> Path | None:
    """Where verdicts are published: `out`, or `docs/results` in a checkout for the check as its rule is written."""
    checkout = Path("src/coalign").is_dir() and Path("docs").is_dir()
    if out is None and checkout and config == CheckOptions():
        return Path("docs/results")
    return out


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.3f} ± {deviation:.3f}"


def _figure(value: Any) -> str:
    return f"{value:+.3f}" if isinstance(value, float) else str(value)
