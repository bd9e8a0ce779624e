"""Standard tasks on one or several models: every model is loaded once, what is done stays done, one table comes out.

coalign eval default runs/dpo --tasks arc_easy,hellaswag --limit 500
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from coalign.core.errors import ConfigError, RunError
from coalign.core.files import write_json, write_rows
from coalign.core.runs import Run
from coalign.evaluation.benchmarks import inspect_tasks
from coalign.evaluation.benchmarks.harness import Harness
from coalign.evaluation.benchmarks.measures import Measure, Outcome
from coalign.evaluation.benchmarks.options import Config
from coalign.evaluation.benchmarks.report import write_report
from coalign.models.files.identity import model_identity
from coalign.models.files.places import locate, short_name, told
from coalign.models.options import ModelOptions
from coalign.training.distributed.leading import led

logger = logging.getLogger(__name__)


@led
def run(config: Config, run: Run) -> None:
    """Evaluate every model on every task, and write `results.json`, the items of each task and the report.

    A task that is done is not asked again; inside a task of lm-evaluation-harness every answer is kept as it comes.

    Raises:
        ConfigError: a task that does not exist.
        ModelError: a model that cannot be loaded.
        CoalignError: data that cannot be had, a task that fails.
        RunError: the folder was started with another model under the same name.
    """
    harness = _checked(config)
    names = labels(config.models)
    found: list[list[Measure]] = []
    versions: set[str] = set()
    for number, (model, name) in enumerate(zip(config.models, names, strict=True)):
        folder = run.artefacts / f"model-{number}"
        _same_model(folder, config, model)
        missing = [one for one in config.tasks if not _results(folder, one).exists()]
        if missing:
            _evaluate(config, harness, config.model(model), name, folder, missing)
        kept = [json.loads(_results(folder, one).read_text(encoding="utf-8")) for one in config.tasks]
        versions |= {one["version"] for one in kept}
        found.append([Measure(**row) for one in kept for row in one["measures"]])
        run.log("evaluated", model=model, tasks=len(missing))
    write_report(run, config, names, found, sorted(versions))


def labels(models: Sequence[str]) -> list[str]:
    """Short names by which models are told apart, and the given ones where the short ones are the same."""
    short = [short_name(one) for one in models]
    return list(models) if len({*short}) < len(short) else short


def _checked(config: Config) -> Harness | None:
    """What can be refused before anything is loaded."""
    for model in config.models:
        locate(model)
    of_inspect = [one for one in config.tasks if inspect_tasks.is_inspect(one)]
    for one in of_inspect:
        inspect_tasks.check(one)
    others = [one for one in config.tasks if one not in of_inspect]
    if not others:
        alone = {"include_path": config.include_path, "num_fewshot": config.num_fewshot}
        for name, value in alone.items():
            if value is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{flag} has no effect without a task of lm-evaluation-harness.")
        return None
    harness = Harness(config.include_path)
    harness.check(others)
    return harness


def _same_model(folder: Path, config: Config, model: str) -> None:
    file, now = folder / "model.json", model_identity(config.model(model))
    if not file.exists():
        write_json(file, {"model": model, "identity": now, "told": told(model)})
    elif json.loads(file.read_text(encoding="utf-8"))["identity"] != now:
        raise RunError(f"{model} is not the model that the run was started with.", hint="Give another --out.")


def _evaluate(
    config: Config,
    harness: Harness | None,
    options: ModelOptions,
    name: str,
    folder: Path,
    tasks: Sequence[str],
) -> None:
    from coalign.models.files.loading import load_model, load_tokenizer
    from coalign.models.generation.generator import TransformersGenerator

    loaded, tokenizer = load_model(options, training=False), load_tokenizer(options)
    if config.apply_chat_template and not tokenizer.chat_template:
        raise ConfigError(f"{name} has no chat template.", hint="--chat-template gives one.")
    asked = harness.model(loaded, tokenizer, config.batch_size) if harness else None
    for task in tasks:
        logger.info("%s: %s", name, task)
        if inspect_tasks.is_inspect(task):
            outcome = inspect_tasks.evaluate(
                TransformersGenerator(loaded, tokenizer),
                task,
                label=re.sub(r"[^\w.-]", "-", name),
                logs=folder / "logs",
                limit=config.limit,
                system=config.system_instruction,
                seed=config.seed,
            )
        else:
            assert harness is not None
            outcome = harness.evaluate(
                asked,
                task,
                cache=folder / "answers",
                limit=config.limit,
                num_fewshot=config.num_fewshot,
                apply_chat_template=config.apply_chat_template,
                system_instruction=config.system_instruction,
                random_seed=config.seed,
                numpy_random_seed=config.seed,
                torch_random_seed=config.seed,
                fewshot_random_seed=config.seed,
            )
        _keep(folder, task, outcome)


def _keep(folder: Path, task: str, outcome: Outcome) -> None:
    results = _results(folder, task)
    write_rows(results.with_suffix(".items.jsonl"), outcome.rows)
    measures = [one.to_dict() for one in outcome.measures]
    write_json(results, {"task": task, "version": outcome.version, "measures": measures})


def _results(folder: Path, task: str) -> Path:
    """The file of a task's figures, which is written last; names that are paths are told apart by a digest."""
    plain = re.sub(r"[^\w.-]", "-", task)[-80:].lstrip(".-")
    digest = "" if plain == task else f"-{hashlib.sha256(task.encode()).hexdigest()[:8]}"
    return folder / f"{plain}{digest}.json"
