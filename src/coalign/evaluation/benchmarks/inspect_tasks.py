"""Tasks of inspect_ai on a model that our own loader has loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.extras import require
from coalign.evaluation.benchmarks.measures import Measure, Outcome, measured

EXTRA = "inspect"
PREFIX = "inspect:"
AT_ONCE = 32
"""Items that are asked together."""
MOST_TOKENS = 512
"""Of an answer, where the task does not say; of a small context at most half."""


def is_inspect(name: str) -> bool:
    """Whether a name of `--tasks` is one of inspect_ai: `inspect:NAME`, `file.py` or `file.py@NAME`."""
    return name.startswith(PREFIX) or name.partition("@")[0].endswith(".py")


def check(name: str) -> None:
    """Refuse what cannot be run before a model is loaded.

    Raises:
        MissingExtraError: inspect_ai is not installed.
        ConfigError: there is no such file.
    """
    require("inspect_ai", EXTRA)
    file = name.removeprefix(PREFIX).partition("@")[0]
    if file.endswith(".py") and not Path(file).is_file():
        raise ConfigError(f"--tasks: {file}: no such file.")


def evaluate(
    generator: Any, name: str, *, label: str, logs: Path, limit: int | None, system: str | None, seed: int
) -> Outcome:
    """A task on a model.

    Args:
        generator: answers conversations (`coalign.models.types.Generator`).
        label: what the log calls the model.
        logs: folder of inspect_ai's own logs, which its viewer reads.
        system: put before every conversation that has no system message.

    Raises:
        CoalignError: the task failed, or needs tools.
    """
    library = require("inspect_ai", EXTRA)
    (log,) = library.eval(
        name.removeprefix(PREFIX),
        model=_model(generator, label, system),
        limit=limit,
        seed=seed,
        log_dir=str(logs),
        display="none",
        max_samples=AT_ONCE,
    )
    if log.status != "success" or log.results is None:
        said = log.error.message if log.error else f"it ended as {log.status}"
        raise CoalignError(
            f"{name}: {' '.join(said.split())[:400]}", hint=f"inspect_ai's log: {log.location}"
        )
    if not log.samples:
        log = require("inspect_ai.log", EXTRA).read_eval_log(log.location)
    rows = [_row(log.eval.task, one) for one in log.samples]
    return Outcome(list(_measures(log, rows)), rows, f"inspect_ai {library.__version__}")


def _model(generator: Any, label: str, system: str | None) -> Any:
    parts: Any = require("inspect_ai.model", EXTRA)
    from coalign.models.types import Sampling

    room = getattr(generator, "context", None)
    most = min(MOST_TOKENS, room // 2) if room else MOST_TOKENS

    asked = _Together(generator)

    class Local(parts.ModelAPI):
        """Our generator behind inspect_ai's interface."""

        def max_connections(self) -> int:
            return AT_ONCE

        async def generate(self, input: Any, tools: Any, tool_choice: Any, config: Any) -> Any:
            if tools:
                raise ValueError("tasks with tools are not run on a local model")
            messages = [{"role": one.role, "content": one.text} for one in input]
            if system and messages[0]["role"] != "system":
                messages = [{"role": "system", "content": system}, *messages]
            sampling = Sampling(
                max_new_tokens=config.max_tokens or most,
                temperature=config.temperature or 0.0,
                top_p=config.top_p or 1.0,
                top_k=config.top_k or 0,
                n=config.num_choices or 1,
                seed=config.seed or 0,
                stop=tuple(config.stop_seqs or ()),
            )
            choices = [
                parts.ChatCompletionChoice(
                    message=parts.ChatMessageAssistant(content=one.text, model=label, source="generate"),
                    stop_reason="max_tokens" if one.finish_reason == "length" else "stop",
                )
                for one in await asked.answer(messages, sampling)
            ]
            return parts.ModelOutput(model=label, choices=choices)

    parts.modelapi(name="coalign")(Local)
    return parts.get_model(f"coalign/{label}", memoize=False)


class _Together:
    """Conversations that are asked for at the same time are answered in one batch, off the event loop."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator
        self.waiting: list[tuple[Any, Any, asyncio.Future[Any]]] = []
        self.worker: asyncio.Task[None] | None = None

    async def answer(self, messages: Any, sampling: Any) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append((messages, sampling, future))
        if self.worker is None or self.worker.done():
            self.worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        await asyncio.sleep(0.01)  # whoever starts with the first
        while self.waiting:
            sampling = self.waiting[0][1]
            batch = [one for one in self.waiting if one[1] == sampling]
            self.waiting = [one for one in self.waiting if one[1] != sampling]
            try:
                found = await asyncio.to_thread(self.generator.generate, [one[0] for one in batch], sampling)
            except Exception as error:  # each of them is told
                found = [error] * len(batch)
            for (_, _, future), said in zip(batch, found, strict=True):
                if future.done():
                    continue
                if isinstance(said, Exception):
                    future.set_exception(said)
                else:
                    future.set_result(said)


def _row(task: str, sample: Any) -> dict[str, Any]:
    as_number = require("inspect_ai.scorer", EXTRA).value_to_float()
    scores = sample.scores or {}
    return {
        "task": task,
        "id": f"{sample.id}/{sample.epoch}",
        "prompt": sample.input if isinstance(sample.input, str) else sample.input[-1].text,
        "target": str(sample.target),
        "answers": [sample.output.completion],
        "values": {
            name: float(as_number(one.value))
            for name, one in scores.items()
            if not isinstance(one.value, dict)
        },
    }


def _measures(log: Any, rows: list[dict[str, Any]]) -> Iterator[Measure]:
    for score in log.results.scores:
        error = score.metrics.get("stderr")
        items = {row["id"]: row["values"][score.name] for row in rows if score.name in row["values"]}
        for name, metric in score.metrics.items():
            if name != "stderr":
                yield measured(
                    log.eval.task,
                    f"{score.name}/{name}",
                    metric.value,
                    error.value if error and name in ("accuracy", "mean") else None,
                    n=len(rows),
                    better="higher",
                    items=items,
                )
