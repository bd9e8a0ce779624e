"""What a training is about to do: told before it starts, and how long it will take once a few steps are measured."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

from coalign.core.machine.measure import peak_memory_mb
from coalign.core.progress import duration
from coalign.core.runs import Run
from coalign.models.adapters import has_adapter, trainable_summary
from coalign.models.devices import describe_device, products_of
from coalign.models.files.places import told
from coalign.models.files.saving import saved_format
from coalign.models.options import ModelOptions
from coalign.report.format import number
from coalign.training.checkpoints import step_records
from coalign.training.examples import Prepared
from coalign.training.options import TrainingOptions
from coalign.training.processes import arrangement

MEASURED_STEPS = 5
MEASURED_SECONDS = 2.0
"""The estimate is made after so many steps, or so much time, whichever comes first; the first step is left out."""
WORTH_TELLING = 5.0
"""Seconds left under which nothing is said."""


@dataclass(frozen=True)
class Plan:
    """A training before it starts.

    Attributes:
        objective: its name.
        records, held_out: to train and to evaluate on.
        responses: scored in one pass over the training records; 0 where something else than responses is learnt from.
        prompt_tokens: each prompt counted once for all its responses.
        response_tokens: of all responses.
        truncated: prompts and responses that were cut to the length limits.
        dropped: records left out because their prompt leaves no room for a response.
        same_tokens: records whose compared responses are the same tokens.
        steps: optimizer steps in all.
        done: steps that an interrupted run has behind it.
        batch_size: records of an optimizer step, over accumulation and processes.
        learning_rate: the peak.
        learning_rate_from: who chose it; empty where the options always say it.
        schedule: of the learning rate.
        device: device and number format.
        valued_lengths: mean tokens of the better and of the worse responses; None where none are compared.
        adapter: only an adapter is trained.
        trained: how many parameters are trained.
        saved: the number format of the result, where it is not that of the training.
        sources: of a mix, source to its records and their tokens.
        samples: what is sampled in the course of the training; empty where nothing is.
        model: what is trained, with the date of a copy; empty where a program passed it.
        template: the chat template that was asked for in place of the model's own; empty where none was.
    """

    objective: str
    records: int
    held_out: int
    steps: int
    done: int
    batch_size: int
    learning_rate: float
    schedule: str
    device: str
    adapter: bool
    trained: str
    learning_rate_from: str = ""
    saved: str = ""
    responses: int = 0
    prompt_tokens: int = 0
    response_tokens: int = 0
    truncated: int = 0
    same_tokens: int = 0
    dropped: int = 0
    valued_lengths: tuple[float, float] | None = None
    sources: dict[str, tuple[int, int]] = field(default_factory=dict)
    samples: str = ""
    model: str = ""
    template: str = ""

    @property
    def response_length(self) -> float:
        """Mean tokens of a response."""
        return self.response_tokens / max(self.responses, 1)

    def lines(self) -> list[tuple[str, str]]:
        """Name and text of each line, as shown."""
        steps = f"{self.steps:,} of {self.batch_size} records"
        held_out = f", {self.held_out:,} held out" if self.held_out else ""
        lost = [
            f"{self.truncated:,} prompts or responses cut" if self.truncated else "",
            f"{self.same_tokens:,} records whose responses are the same tokens" if self.same_tokens else "",
            f"{self.dropped:,} records left out: their prompt leaves no room" if self.dropped else "",
        ]
        tokens = (
            f"{self.prompt_tokens:,} of prompts, {self.response_tokens:,} of {self.responses:,} responses"
        )
        reason = f" ({self.learning_rate_from})" if self.learning_rate_from else ""
        lines = [
            ("Objective", self.objective),
            ("Model", self.model),
            ("Chat template", self.template),
            ("Records", f"{self.records:,} to train{held_out}"),
            ("Tokens", tokens if self.responses else ""),
            *(
                ("" if place else "Sources", f"{tag}: {records:,} records, {tokens:,} tokens")
                for place, (tag, (records, tokens)) in enumerate(self.sources.items())
            ),
            ("Samples", self.samples),
            ("Length limits", "; ".join(filter(None, lost))),
            ("Steps", steps + (f", {self.done:,} done before" if self.done else "")),
            ("Learning rate", f"{self.learning_rate:g}{reason}, {self.schedule}"),
            ("Parameters", self.trained),
            ("Device", self.device),
            ("Saved in", self.saved),
        ]
        return [(name, text) for name, text in lines if text]


def module_plan(
    objective: str,
    records: int,
    held_out: int,
    arguments: TrainingArguments,
    model: nn.Module,
    *,
    checkpoint: Path | None = None,
) -> Plan:
    """The plan of any module's training.

    Args:
        arguments: what the options became, see `coalign.training.module_trainer.training_arguments`.
        checkpoint: that is continued.
    """
    from coalign.models.scoring.recomputed import is_gated

    weight = next(model.parameters())
    spared = ", cheap activations made again" if spares_activations(arguments) and is_gated(model) else ""
    return Plan(
        objective=objective,
        records=records,
        held_out=held_out,
        steps=optimizer_steps(records, arguments),
        done=int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0,
        batch_size=step_records(arguments),
        learning_rate=arguments.learning_rate,
        schedule=str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)),
        device=describe_device(weight.device, weight.dtype) + products_of(model) + spared,
        adapter=has_adapter(model),
        trained=trainable_summary(model),
        saved="" if has_adapter(model) else str(saved_format(model) or "").removeprefix("torch."),
    )


def spares_activations(arguments: TrainingArguments) -> bool:
    """Whether `recomputed_activations` are used: in one process, whose weights are whole in the backward pass too, where
    nothing is compiled and no layer is computed again as a whole.
    """
    whole = arguments.world_size == 1 and arguments.deepspeed_plugin is None
    return whole and not arguments.torch_compile and not arguments.gradient_checkpointing


def make_plan(
    objective: str,
    prepared: Prepared,
    held_out: int,
    options: TrainingOptions,
    arguments: TrainingArguments,
    model: nn.Module,
    *,
    checkpoint: Path | None = None,
) -> Plan:
    """The plan of a training on responses; arguments are those of `module_plan`."""
    plan = module_plan(objective, len(prepared.examples), held_out, arguments, model, checkpoint=checkpoint)
    default = f"default of {'an adapter' if plan.adapter else 'full fine-tuning'}"
    return replace(
        plan,
        learning_rate_from="given" if options.learning_rate else default,
        responses=prepared.responses,
        prompt_tokens=prepared.prompt_tokens,
        response_tokens=prepared.response_tokens,
        truncated=prepared.truncated_prompts + prepared.truncated_responses,
        same_tokens=prepared.same_tokens,
        dropped=len(prepared.dropped),
        valued_lengths=prepared.valued_lengths(),
        sources=prepared.by_source(),
        model=told(options.model, options.revision) if isinstance(options, ModelOptions) else "",
        template=(options.chat_template or "") if isinstance(options, ModelOptions) else "",
    )


def optimizer_steps(records: int, arguments: TrainingArguments) -> int:
    """Steps of the whole training; the last one of an epoch may hold fewer records."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    batches = math.ceil(records / (arguments.per_device_train_batch_size * arguments.world_size))
    return math.ceil(arguments.num_train_epochs * math.ceil(batches / arguments.gradient_accumulation_steps))


def show_plan(plan: Plan, run: Run, name: str, *, quiet: bool = False) -> None:
    """Print the plan to standard error, unless `quiet`, and log it as the event `plan`."""
    run.log("plan", stage=name, **asdict(plan))
    if not quiet:
        print_lines("Plan", plan.lines())


def print_lines(title: str, lines: list[tuple[str, str]]) -> None:
    """A list of names, with a title unless it is empty, and texts on standard error."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for one, text in lines:
        table.add_row(Text(f"  {one}", "dim"), Text(text))
    console = Console(stderr=True, highlight=False)
    if title:
        console.print(Text(title, "bold"))
    console.print(table)


class Together(TrainerCallback):
    """The plan's last line: what the processes have become once the model is prepared, as the event `processes`.

    It is printed where there is more than one process and the training is not `quiet`.
    """

    def __init__(self, run: Run, name: str, *, quiet: bool = False) -> None:
        self.run = run
        self.name = name
        self.quiet = quiet

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        text = arrangement(rest["model"])
        if not state.is_world_process_zero:
            return
        self.run.log("processes", stage=self.name, arrangement=text)
        if args.world_size > 1 and not self.quiet:
            limit = f"a process waits at most {duration(args.ddp_timeout)} for the others, then all end"
            print_lines("", [("Processes", text), ("Time limit", limit)])


class Estimate(TrainerCallback):
    """Tells how long the training will take, measured on its first steps, and what memory they took.

    The first step is not counted: it warms up caches and compiles.
    """

    def __init__(self, run: Run, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.run = run
        self.name = name
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._told = False

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        if self._told or not state.is_world_process_zero:
            return
        if self._first is None:
            self._first = (state.global_step, self._clock())
            return
        steps, seconds = state.global_step - self._first[0], self._clock() - self._first[1]
        if steps < MEASURED_STEPS and seconds < MEASURED_SECONDS:
            return
        self._told = True
        left = seconds / steps * (state.max_steps - state.global_step)
        if left < WORTH_TELLING:
            return
        peak = peak_bytes(args.device)
        self.run.log("estimate", stage=self.name, seconds_left=round(left, 1), peak_bytes=peak)
        text = f"About {duration(left)} left, peak memory {number(peak, 'bytes')}"
        print(f"{text} (measured on {steps} steps).", file=sys.stderr, flush=True)


def peak_bytes(device: torch.device) -> int:
    """Most memory taken so far: on a GPU by tensors, otherwise by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return round(peak_memory_mb() * 2**20)
