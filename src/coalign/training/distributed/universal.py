"""Checkpoints of DeepSpeed for another number of processes than wrote them, by DeepSpeed's own universal form.

Its converter (`deepspeed.checkpoint.ds_to_universal`) puts together of the parts of all processes what belongs to each
parameter: the weight and AdamW's two moments. An engine with `checkpoint: {load_universal: true}` cuts that anew.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from coalign.core.errors import ConfigError
from coalign.core.files import atomic_path, remove_stale, write_text
from coalign.models.quiet import without_message

PARTS = "*_optim_states.pt"
"""Files in a step's folder of a checkpoint that DeepSpeed writes, one a process."""
FOLDER = "universal"
"""Of a checkpoint, beside the folder of its parts."""
_MOMENTS = {"exp_avg", "exp_avg_sq"}
"""What the converter takes over of an optimizer, beside the number of its step; all else it drops without a word."""


def parts_of(checkpoint: Path) -> list[Path]:
    """What each process wrote under DeepSpeed; nothing for another checkpoint."""
    return sorted(checkpoint.glob(f"global_step*/{PARTS}"))


def in_parts_of_weights(checkpoint: Path) -> bool:
    """Whether a checkpoint that DeepSpeed wrote has the weights in parts too (ZeRO 3)."""
    return any(checkpoint.glob("global_step*/zero_pp_rank_*_model_states.pt"))


def convert(checkpoint: Path) -> None:
    """Write the universal form beside the parts, unless it is there. For one process; what fails leaves nothing behind.

    Raises:
        ConfigError: the optimizer has a state that would be lost, or the converter failed.
        CoalignError: the disk is full.
    """
    parts = parts_of(checkpoint)
    target = checkpoint / FOLDER
    hint = f"Continue with --processes {len(parts)}; the checkpoint is as it was."
    try:
        if not target.is_dir():
            remove_stale(checkpoint)
            _assert_moments(parts[0], hint)
            with atomic_path(target) as path:
                _run_converter(parts[0].parent, path)
        write_text(checkpoint / "latest_universal", FOLDER)
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"{checkpoint} of {len(parts)} processes could not be put together for another number: {error}",
            hint=hint,
        ) from error


def _run_converter(parts: Path, target: Path) -> None:
    """Raises RuntimeError with the last line that it wrote."""
    line = ["--input_folder", str(parts), "--output_folder", str(target), "--inject_missing_state"]
    ended = subprocess.run(
        [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *line],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if ended.returncode:
        last = ended.stderr.strip().rpartition("\n")[2] if ended.returncode > 0 else ""
        raise RuntimeError(last or f"the converter ended with exit code {ended.returncode}")


def _assert_moments(part: Path, hint: str) -> None:
    """Refuse an optimizer of which the converter would lose something."""
    written: Any = torch.load(part, map_location="cpu", weights_only=False, mmap=True)["optimizer_state_dict"]
    base = written.get("base_optimizer_state") or written["optimizer_state_dict"]
    kept = {name for state in base["state"].values() for name in state} - {"step"}
    if kept != _MOMENTS:
        found = " and ".join(sorted(kept)) or "nothing"
        raise ConfigError(
            f"{part.parent.parent} was written by an optimizer that keeps {found} of each weight, which DeepSpeed cannot "
            "share out for another number of processes: it does for AdamW.",
            hint=hint,
        )


@contextlib.contextmanager
def loads_universal(configuration: dict[str, Any]) -> Iterator[None]:
    """Engines that are made in the block read the universal form.

    Args:
        configuration: DeepSpeed's, of this process; after the block as it was.
    """
    before = dict(configuration)
    configuration["checkpoint"] = {**before.get("checkpoint", {}), "load_universal": True}
    try:
        with without_message("MPU is not provided", "DeepSpeed"):  # there is no tensor parallelism
            yield
    finally:
        del configuration["checkpoint"]
        if "checkpoint" in before:
            configuration["checkpoint"] = before["checkpoint"]


def complete(engine: Any, checkpoint: Path) -> None:
    """Take over what DeepSpeed's loading of the universal form leaves out (0.19.8): buffers; and under ZeRO 3 the options of
    all groups of the optimizer but the first, whose options (weight decay, rate) it gives to all, and a count of steps for
    each part of the weights, in place of one that every part moves on.

    Args:
        engine: `DeepSpeedEngine` that has loaded it.
    """
    optimizer = engine.optimizer.optimizer
    read = {"map_location": "cpu", "weights_only": False, "mmap": True}
    groups = torch.load(checkpoint / FOLDER / "zero" / "optimizer_state.pt", **read)["param_groups"]
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        group.update({name: value for name, value in saved.items() if name != "params"})
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()
    states = min((checkpoint / FOLDER).glob("*_model_states.pt"))
    weights = torch.load(states, **read)["module"]
    for name, buffer in engine.module.named_buffers():
        if name in weights:
            buffer.copy_(weights[name])
