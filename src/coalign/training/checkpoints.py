"""What trainers share about checkpoints and order: only whole checkpoints count, and the order of records depends on
seed and epoch alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import Sampler

from coalign.core.errors import ConfigError
from coalign.core.files import write_json
from coalign.core.runs import is_main_process
from coalign.models.quiet import without_message

if TYPE_CHECKING:
    from transformers import TrainingArguments

STEP = "step.json"
"""In a checkpoint: the records of an optimizer step, over accumulation and processes."""
COMPLETE = "complete"
"""Marker file of a checkpoint that was written to its end."""


class WholeCheckpoints:
    """Part of a `transformers.Trainer`, before it in the bases: marks a checkpoint once it is whole.

    A kill while one is written leaves it without the mark, and it is not resumed from.
    """

    args: Any
    state: Any
    accelerator: Any

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Checkpoints within a second of each other are put in order by their numbers, as they should be.
        with without_message("mtime may not be reliable", "transformers.trainer_utils"):
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        self.accelerator.wait_for_everyone()  # each process writes a part
        if self.args.should_save:
            folder = Path(self.args.output_dir or ".") / f"checkpoint-{self.state.global_step}"
            self.save_more(folder)
            write_json(folder / STEP, {"records": step_records(self.args)})
            (folder / COMPLETE).touch()

    def save_more(self, folder: Path) -> None:
        """Write what a trainer keeps besides, before the mark."""


class EpochShuffle(Sampler[int]):
    """A permutation of `size` indices for every epoch, drawn from (seed, epoch)."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) % 2**63)
        return iter(torch.randperm(self.size, generator=generator).tolist())


class SortedGroups(EpochShuffle):
    """Items of like length together: sorted, cut into groups, and the groups shuffled in every epoch (LongAlign, arXiv 2401.18058,
    section 3.2, which drops what fills no group; here the longest of the epoch come last, in a smaller one).

    Args:
        lengths: of the items.
        group: items of one forward pass, over all processes.
    """

    def __init__(self, lengths: Sequence[int], group: int, seed: int) -> None:
        super().__init__(len(lengths), seed)
        self.lengths = lengths
        self.group = group

    def __iter__(self) -> Iterator[int]:
        # Shuffled first: what is equally long does not meet the same neighbours in every epoch.
        rows = sorted(super().__iter__(), key=self.lengths.__getitem__)
        whole = self.size // self.group
        draw = torch.Generator().manual_seed(hash((self.seed, self.epoch, self.group)) % 2**63)
        starts = [self.group * one for one in torch.randperm(whole, generator=draw).tolist()]
        return iter(
            [row for start in (*starts, self.group * whole) for row in rows[start : start + self.group]]
        )


class KeyedShuffle(EpochShuffle):
    """`EpochShuffle` whose items say their epoch: item `epoch * size + index`. So what a data set draws for an example
    (a noise, a mask, a caption) depends on seed, epoch and example alone, and not on where a run was cut.
    """

    def __iter__(self) -> Iterator[int]:
        offset = self.epoch * self.size
        return (offset + index for index in super().__iter__())


class Keys:
    """The items of a training whose task makes its examples from the keys of a `KeyedShuffle`."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: int) -> int:
        return key


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, None if there is none."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def resume_point(folder: Path) -> Path | None:
    """The newest whole checkpoint; half-written ones are removed, by the first process."""
    for path in folder.glob("checkpoint-*") if is_main_process() else ():
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)
    return last_checkpoint(folder)


def step_records(arguments: TrainingArguments) -> int:
    """Records of an optimizer step, over accumulation and processes."""
    micro_batch = arguments.per_device_train_batch_size * arguments.world_size
    return micro_batch * arguments.gradient_accumulation_steps


def keep_step(arguments: TrainingArguments, checkpoint: Path | None) -> None:
    """Let the steps of a training that goes on hold as many records as those of its checkpoint, however many processes share
    them now: by its accumulation, else by smaller batches.

    Raises:
        ConfigError: the processes cannot share these records evenly.
    """
    if checkpoint is None or not (checkpoint / STEP).exists():  # of earlier versions
        return
    records = json.loads((checkpoint / STEP).read_text(encoding="utf-8"))["records"]
    if records == step_records(arguments):
        return
    if records % arguments.world_size:
        raise ConfigError(
            f"The steps of {checkpoint} hold {records} records, which {arguments.world_size} processes cannot share evenly.",
            hint="Start a number of processes that divides them.",
        )
    share = records // arguments.world_size
    batch = max(size for size in range(1, arguments.per_device_train_batch_size + 1) if share % size == 0)
    arguments.per_device_train_batch_size = batch
    arguments.gradient_accumulation_steps = share // batch
