"""What the processes of a group tell each other beside their work: where each is, and that it is still there.

A process that waits in a collective operation learns nothing of the others: where one of them left its loop it waits until
the group's time limit. A thread of each process therefore writes its state into the group's store, and reads the others'
once its own work stands still.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerState

from coalign.core.errors import CoalignError
from coalign.core.progress import duration
from coalign.training.processes import group_store

PERIOD = 1.0
"""Seconds between two signs of life."""
PATIENCE = 5.0
"""Seconds without a step of its own after which a process looks at the others."""
SILENCE = 60.0
"""Seconds without a sign of life after which a process counts as gone."""
TOLD_EVERY = 60.0
"""Seconds between two lines about a process that the others wait for."""
TRAINING = "trains"


class GroupError(CoalignError):
    """A process of the group is gone, or left its loop before the others."""


class Store(Protocol):
    """What is used of `torch.distributed.Store`."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...


class GroupWatch(TrainerCallback):
    """Watches over a group of processes while they train.

    Args:
        store: that all processes share.
        rank, size: of this process, and how many there are.
        limit: seconds that a process waits for the others, as the lines about a wait say.
        tell: takes a line about a long wait.
        end: takes why the group cannot go on; called by the thread while the process's own work stands still, so it has to
            end the process.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        *,
        limit: float,
        tell: Callable[[str], None],
        end: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.rank, self.size, self.limit = store, rank, size, limit
        self._tell, self._end, self._clock = tell, end, clock
        self._step, self._doing = 0, TRAINING
        self._moved = self._told = clock()
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        self._step, self._moved = state.global_step, self._clock()
        self._publish()
        self._thread = threading.Thread(target=self._watch, name="group-watch", daemon=True)
        self._thread.start()

    def on_substep_end(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        self._moved = self._clock()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        self._step, self._moved = state.global_step, self._clock()

    def on_epoch_end(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        """Where a process alone stops, it says so here: logs and checkpoints at the end of an epoch are operations of all."""
        if control.should_training_stop and state.global_step < state.max_steps:
            self.leave(early=True)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        self.leave(early=state.global_step < state.max_steps)

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """The block does something that the others may have to wait for ("writes a checkpoint")."""
        before, self._doing, self._moved = self._doing, what, self._clock()
        try:
            yield
        finally:
            self._doing, self._moved = before, self._clock()

    def leave(self, *, early: bool = False) -> None:
        """Say that this process leaves its loop, `early` before its last step; and watch no longer."""
        if not self._stop.is_set():
            self._stop.set()
            with contextlib.suppress(RuntimeError):  # the store may be gone
                self._publish(left="early" if early else "done")

    def look(self) -> None:
        """What the thread does once a period."""
        self._publish()
        now = self._clock()
        if now - self._moved < PATIENCE:
            return
        reason = self.gone() if self._doing == TRAINING else None
        if reason and not self._stop.is_set():
            self._end(reason)
        elif self.rank == 0 and now - self._told >= TOLD_EVERY:
            for rank, state in self._others():
                if state["doing"] != TRAINING and state["for"] >= TOLD_EVERY:
                    self._told = now
                    self._tell(
                        f"Process {rank} {state['doing']} since {duration(state['for'])}; the others wait, at most "
                        f"{duration(self.limit)}."
                    )

    def gone(self) -> str | None:
        """Which process is missing, and where; None where all are there."""
        for rank, state in self._others():
            if state["left"] == "early" and state["step"] <= self._step:
                return (
                    f"Process {rank} left its loop after step {state['step']}, before the last one, and process "
                    f"{self.rank} waits for it after step {self._step}."
                )
            if state["silent"] >= SILENCE and not state["left"]:
                return (
                    f"Process {rank} has given no sign for {duration(state['silent'])}, last after step {state['step']}; "
                    f"process {self.rank} waits for it after step {self._step}."
                )
        return None

    def _publish(self, left: str = "") -> None:
        now = self._clock()
        state = {"step": self._step, "doing": self._doing, "for": round(now - self._moved), "left": left}
        self.store.set(str(self.rank), json.dumps({**state, "sign": now}))

    def _others(self) -> Iterator[tuple[int, dict[str, Any]]]:
        now = self._clock()
        for rank in range(self.size):
            if rank == self.rank or not self.store.check([str(rank)]):
                continue
            text = self.store.get(str(rank))
            if rank not in self._seen or self._seen[rank][0] != text:
                self._seen[rank] = (text, now)
            yield rank, {**json.loads(text), "silent": now - self._seen[rank][1]}

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD):
            try:
                self.look()
            except RuntimeError:  # the store went with its process; the launcher ends the others
                return


def watch_group(args: Any, name: str) -> GroupWatch | None:
    """The watch over the group of this process, None where there is none.

    Args:
        args: `transformers.TrainingArguments`.
        name: of the training among those of the run.
    """
    import torch.distributed as dist

    if args.world_size < 2 or not dist.is_initialized():
        return None
    number = _trainings.get(name, 0)
    _trainings[name] = number + 1
    return GroupWatch(
        group_store(f"{name}/{number}"),
        args.process_index,
        args.world_size,
        limit=args.ddp_timeout,
        tell=_say,
        end=_end_process,
    )


_trainings: dict[str, int] = {}
"""How many trainings of a name this process has watched: the same in every process."""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _end_process(text: str) -> None:
    """The only way out of an operation that waits for another process; the launcher then ends the others."""
    _say(f"Error: {text}")
    os._exit(1)
