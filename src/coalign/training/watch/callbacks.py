"""What a person sees while a model trains, and what the run folder keeps of it."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerState

from coalign.core.progress import Progress, progress
from coalign.core.runs import Run
from coalign.models.devices import share_cores

Logs = dict[str, float] | None
_SHOWN = {
    "loss": "loss",
    "reward": "reward",
    "entropy": "entropy",
    "clip/fraction": "clipped",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "internal/agreement": "agreement",
    "internal/kept": "kept",
    "kl/policy_reference": "log-ratio",
    "length/response": "length",
}


class ProgressBar(TrainerCallback):
    """A progress bar over optimizer steps with the loss and, where there are such, reward, entropy (nats a token),
    share of tokens at the clip, reward margin, accuracy, agreement of internal rewards and share of pairs kept by it,
    log-ratio to the reference (nats a response) and length (tokens a response).
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self._context: Any = None
        self._bar: Progress | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        if state.is_world_process_zero:
            self._context = progress(state.max_steps, self.label, unit="step")
            bar = self._bar = self._context.__enter__()
            bar.advance(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        share_cores()
        if self._bar:
            self._bar.advance(1)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Logs = None, **rest: Any) -> None:
        if self._bar and logs:
            shown = [
                f"{word} {logs[name]:.3g}" for name, word in _SHOWN.items() if _worth_showing(name, logs)
            ]
            if shown:
                self._bar.note("  ".join(shown))

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        self.close()

    def close(self) -> None:
        """Finish the bar, also after an error."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = self._bar = None


def _worth_showing(name: str, logs: dict[str, float]) -> bool:
    """A metric of which a batch says nothing (no pairs, for instance) is NaN; a loss that is NaN is news."""
    return name in logs and (name == "loss" or math.isfinite(logs[name]))


class RunEvents(TrainerCallback):
    """Writes every log line of the trainer into the run's event log."""

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Logs = None, **rest: Any) -> None:
        if state.is_world_process_zero and logs:
            self.run.log("train", stage=self.name, step=state.global_step, **logs)
