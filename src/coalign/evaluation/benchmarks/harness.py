"""Tasks of lm-evaluation-harness (EleutherAI) on a model that our own loader has loaded."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.extras import require
from coalign.core.names import suggest
from coalign.data.files.hub import hub_problem, offline
from coalign.evaluation.benchmarks.measures import Measure, Outcome, measured
from coalign.models.files.failures import first_line

EXTRA = "lm-eval"
RESAMPLES = 1000
"""Bootstrap of the library for metrics whose standard error has no formula."""


class Harness:
    """The library with its tasks and those of a folder.

    Args:
        include: a folder of task files (YAML), which may read local data.

    Raises:
        MissingExtraError: lm-evaluation-harness is not installed.
        ConfigError: there is no such folder.
    """

    def __init__(self, include: str | None) -> None:
        if include is not None and not Path(include).is_dir():
            raise ConfigError(f"--include-path: {include} is no folder.")
        self.library = require("lm_eval", EXTRA)
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self.tasks = require("lm_eval.tasks", EXTRA).TaskManager(include_path=include)

    def check(self, names: Sequence[str]) -> None:
        """Find tasks and their data before a model is loaded.

        Raises:
            ConfigError: there is no such task.
            CoalignError: its data cannot be had.
        """
        known = set(self.tasks.all_tasks)
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"--tasks: lm-evaluation-harness has no {name!r}.",
                    hint=suggest(
                        name,
                        sorted(known),
                        "`lm_eval ls tasks` lists them; --include-path adds a folder of yours.",
                    ),
                )
        for name in names:
            with _told(name):
                self.tasks.load([name])

    def model(self, loaded: Any, tokenizer: Any, batch_size: int) -> Any:
        """A loaded model as the library asks it."""
        kind = require("lm_eval.models.huggingface", EXTRA).HFLM
        return kind(pretrained=loaded, tokenizer=tokenizer, batch_size=batch_size)

    def evaluate(self, model: Any, name: str, *, cache: Path, **settings: Any) -> Outcome:
        """A task, or a group of tasks, on a model of `model`.

        Args:
            cache: beginning of the name of a database in which every answer is kept as soon as it is there.
            settings: `limit`, `num_fewshot`, `apply_chat_template`, `system_instruction`, seeds, as the library has them.

        Raises:
            CoalignError: the library refuses, or data cannot be had.
        """
        with _told(name):
            found = self.library.simple_evaluate(
                model,
                tasks=[name],
                task_manager=self.tasks,
                use_cache=str(cache),
                bootstrap_iters=RESAMPLES,
                **settings,
            )
        rows = [_row(task, one) for task, samples in found["samples"].items() for one in samples]
        return Outcome(list(_measures(found, rows)), rows, f"lm_eval {found['lm_eval_version']}")


@contextlib.contextmanager
def _told(task: str) -> Iterator[None]:
    """What the library raises about a task, in one line; where the hub cannot be reached, its cache is taken at once."""
    try:
        with contextlib.nullcontext() if hub_problem() is None else offline():
            yield
    except CoalignError:
        raise
    except ConnectionError as error:
        raise CoalignError(
            f"{task}: its data are on the hub, which cannot be reached, and not in the cache ({first_line(error)}).",
            hint="Run it once with a connection, or give a task over local data by --include-path.",
        ) from error
    except (OSError, ValueError, LookupError, TypeError, ImportError) as error:
        raise CoalignError(f"{task}: {first_line(error)}") from error


def _row(task: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    named = sample["filter"]
    values = {
        _metric(name, named): float(sample[name])
        for name in sample["metrics"]
        if isinstance(sample.get(name), int | float)
    }
    return {
        "task": task,
        "id": f"{sample['doc_id']}:{sample['doc_hash'][:12]}",
        "prompt": sample["arguments"][0][0] if sample["arguments"] else "",
        "target": str(sample["target"]),
        "answers": sample["filtered_resps"],
        "values": values,
    }


def _metric(name: str, filter_: str) -> str:
    return name if filter_ == "none" else f"{name} ({filter_})"


def _measures(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[Measure]:
    groups = found.get("groups") or {}
    for task, figures in {**found["results"], **groups}.items():
        tasks = _leaves(task, found.get("group_subtasks") or {})
        directions = found["higher_is_better"].get(task) or {}
        for name, value in figures.items():
            metric, comma, named = name.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            label = _metric(metric, named)
            items = {
                f"{row['task']}/{row['id']}": row["values"][label]
                for row in rows
                if row["task"] in tasks and label in row["values"]
            }
            higher = directions.get(metric)
            yield measured(
                task,
                label,
                value,
                figures.get(f"{metric}_stderr,{named}"),
                n=figures.get("sample_len") or len(items) or None,
                better="neither" if higher is None else "higher" if higher else "lower",
                items=items,
            )


def _leaves(task: str, groups: Mapping[str, Sequence[str]]) -> set[str]:
    below = groups.get(task) or ()
    return {leaf for one in below for leaf in _leaves(one, groups)} if below else {task}
