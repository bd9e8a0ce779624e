"""The arms of a check, measured under several seeds: one row an arm and seed, kept as soon as it is known."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from coalign.checks.rules import gaps_between, mean_of
from coalign.core.catalogue import get
from coalign.core.errors import CoalignError
from coalign.core.files import append_rows, read_rows
from coalign.core.progress import progress
from coalign.core.runs import Run
from coalign.core.verdict import CheckOutcome, Verdict

T = TypeVar("T")
Measures = dict[str, float]
Arm = Callable[[T], Measures]
"""From what the arms of a seed share to metrics."""
ITEMS = "items.jsonl"
"""Artefact with the rows of `keep_items`."""


@dataclass(frozen=True)
class Measured:
    """What the arms of a check came to, and the figures of it that rules read.

    Attributes:
        rows: {"arm", "seed", metric: value, ...} by seed, arms in their order.
    """

    run: Run
    rows: list[dict[str, Any]]

    def __add__(self, other: Measured) -> Measured:
        """Also the rows of other arms of the same check."""
        return Measured(self.run, self.rows + other.rows)

    def values(self, metric: str, arms: str | Sequence[str]) -> dict[int, float]:
        """Seed to the metric of an arm, or to its mean over several arms (a grid), seeds in ascending order.

        Raises:
            ValueError: an arm was not measured, or not under every seed of the others.
        """
        names = [arms] if isinstance(arms, str) else list(arms)
        found: dict[str, dict[int, float]] = {name: {} for name in names}
        for row in self.rows:
            if row["arm"] in found:
                found[row["arm"]][row["seed"]] = float(row[metric])
        seeds = {seed for by_seed in found.values() for seed in by_seed}
        for name, by_seed in found.items():
            if not by_seed or seeds - by_seed.keys():
                raise ValueError(
                    f"arm {name!r} lacks the seeds {sorted(seeds - by_seed.keys()) or 'of any row'}"
                )
        return {seed: statistics.fmean(found[name][seed] for name in names) for seed in sorted(seeds)}

    def gaps(self, metric: str, arms: str | Sequence[str], against: str | Sequence[str]) -> dict[int, float]:
        """Seed to the metric of `arms` minus that of `against`, settled.

        Raises:
            ValueError: the two sides were not measured under the same seeds.
        """
        ours, theirs = self.values(metric, arms), self.values(metric, against)
        if ours.keys() != theirs.keys():
            raise ValueError(
                f"{arms} has the seeds {list(ours)} and {against} {list(theirs)}, expected the same"
            )
        return gaps_between(ours, theirs)

    def mean(self, metric: str, arms: str | Sequence[str]) -> float:
        """Mean of `values` over the seeds."""
        return mean_of(self.values(metric, arms))

    def gap(self, metric: str, arms: str | Sequence[str], against: str | Sequence[str]) -> float:
        """Mean of `gaps` over the seeds."""
        return mean_of(self.gaps(metric, arms, against))

    def verdict(
        self,
        check: Callable[..., Verdict],
        *,
        outcome: CheckOutcome,
        summary: dict[str, Any],
        tried: Sequence[str] = (),
        **found: object,
    ) -> Verdict:
        """The verdict on a system's claim; its parts are described in `core.verdict`.

        Args:
            check: the function that decides; its module is named as the system, its docstring says rule and setting.
            found: what only the run knows of them, see `stated`.
        """
        slug = check.__module__.rpartition(".")[2].replace("_", "-")
        return Verdict(
            slug=slug,
            outcome=outcome,
            claim=get(slug).claim,
            **stated(check, **found),
            measures=self.rows,
            summary=summary,
            tried=list(tried),
            seconds=seconds_spent(self.run),
        )


def stated(check: Callable[..., Verdict], **found: object) -> dict[str, str]:
    """The texts of the sections `Rule:` and `Setting:` in a check's docstring, on one line, as "rule" and "setting".

    Args:
        found: name to what stands for `{name}` in them.

    Raises:
        KeyError: nothing is found for a name.
        ValueError: a section is missing.
    """
    texts: dict[str, str] = {}
    for title in ("Rule", "Setting"):
        section = re.search(rf"^{title}:((?:\n+ .+)+)", inspect.getdoc(check) or "", re.MULTILINE)
        if section is None:
            raise ValueError(f"{check.__module__}.{check.__qualname__}: its docstring has no section {title}")
        texts[title.lower()] = " ".join(section[1].split()).format_map(found)
    return texts


def measure_arms(
    run: Run, *, seeds: int, prepare: Callable[[int], T], arms: Mapping[str, Arm[T]]
) -> Measured:
    """Measure every arm under the seeds 0 .. seeds - 1.

    Rows are appended to `artefacts/measures.jsonl` one by one; those that are there already are not measured again,
    so a check that was killed goes on. An arm must depend on what `prepare` gives and on nothing else: no random
    state shared with other arms, no change of the material.

    Args:
        prepare: makes what the arms of a seed share (world, base model, data); called for a seed with missing rows.
        arms: name to a function from the material to the metrics.

    Raises:
        CoalignError: a metric is not a finite number.
    """
    path = run.artefacts / "measures.jsonl"
    done = {(row["seed"], row["arm"]): row for row in read_rows(path, repair=True)}
    wanted = [(seed, name) for seed in range(seeds) for name in arms]
    with one_thread(), progress(len(wanted), "Checking", "arm") as bar:
        bar.advance(sum(key in done for key in wanted))
        for seed in range(seeds):
            missing = [name for name in arms if (seed, name) not in done]
            if not missing:
                continue
            bar.note(f"seed {seed}: preparing")
            with _timed(run, seed, "preparation"):
                material = prepare(seed)
            for name in missing:
                bar.note(f"seed {seed}: {name}")
                with _timed(run, seed, name):
                    measures = {key: round(value, 6) for key, value in arms[name](material).items()}
                row = {"arm": name, "seed": seed, **measures}
                _assert_finite(row)
                append_rows(path, [row])
                done[seed, name] = row
                bar.advance()
    return Measured(run, [done[key] for key in wanted])


def keep_items(run: Run, arm: str, seed: int, **values: Any) -> None:
    """Keep what an arm found item by item, for intervals over items; it is published with the verdict."""
    append_rows(run.artefacts / ITEMS, [{"arm": arm, "seed": seed, **values}])


def kept_items(run: Run, arm: str, seeds: int) -> list[dict[str, Any]]:
    """What `keep_items` kept of an arm, by seed; the last counts, should an arm have been measured twice."""
    kept = {row["seed"]: row for row in read_rows(run.artefacts / ITEMS, repair=True) if row["arm"] == arm}
    return [kept[seed] for seed in range(seeds)]


def kept_values(run: Run, arm: str, seeds: int, name: str) -> list[Any]:
    """One list of `kept_items`, item by item through all seeds."""
    return [value for row in kept_items(run, arm, seeds) for value in row[name]]


def seconds_spent(run: Run) -> float:
    """Processor time of a check, that before an interruption included. One thread works, so it is the wall time of a
    machine with nothing else to do.
    """
    return round(sum(event["seconds"] for event in run.events("measured")), 1)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Tiny models: more threads cost more than they give, and sums come out alike however many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _timed(run: Run, seed: int, what: str) -> Iterator[None]:
    started = time.process_time()
    yield
    run.log("measured", seed=seed, what=what, seconds=round(time.process_time() - started, 2))


def _assert_finite(row: Mapping[str, Any]) -> None:
    bad = [name for name, value in row.items() if name != "arm" and not math.isfinite(value)]
    if bad:
        raise CoalignError(
            f"seed {row['seed']}, {row['arm']}: {', '.join(bad)} is not a finite number.",
            hint="Its training diverged; the rows before it are kept.",
        )
