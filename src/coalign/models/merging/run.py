"""Merge checkpoints of one model into one: their mean, task arithmetic or Model Stock, in float32, tensor by tensor.

    coalign run merge --models runs/math --models runs/chat --base default

Models are folders, runs or hub ids; an adapter of any kind is folded into its base first. One tensor of each model and
one shard of the result are in memory at a time. The models must have one vocabulary and weights of one shape.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import ModelError
from coalign.core.files import atomic_path, write_json, write_rows
from coalign.core.progress import progress
from coalign.core.runs import Run
from coalign.models.files.defaults import disk_errors
from coalign.models.merging.arithmetic import linear, model_stock, task_arithmetic
from coalign.models.merging.options import TENSORS, Config
from coalign.models.merging.report import write_merge_report
from coalign.models.merging.stored import StoredWeights, stored_weights, write_weights
from coalign.models.options import ModelOptions

if TYPE_CHECKING:
    from torch import Tensor

SHARD = 5 * 10**9
"""Most bytes of a file of weights, as Hugging Face's libraries write them."""


def run(config: Config, run: Run) -> None:
    """Merge, and write `model/`, the figures of every tensor and a report."""
    if not run.model.exists() or not (run.artefacts / TENSORS).exists():
        merge_models(config, run.model, run.artefacts)
    write_merge_report(config, run)


def merge_models(config: Config, target: Path, work: Path) -> None:
    """Write the merged model to `target`, whole or not at all, and a row for each tensor to `work`.

    Rows have `name`, `size` (elements), `moved` (norm of W_i - W_0 over that of W_0, one a model; of the merged last) where
    there is a base, and `cosine` and `share` of Model Stock.

    Raises:
        ModelError: a model is not there, has another vocabulary or other tensors, or what is merged is not finite.
    """
    names = [*([config.base] if config.base else []), *config.models]
    _assert_same_tokens(names)
    folded = [work / f"folded-{index}" for index in range(len(names))]
    try:
        opened = [
            stored_weights(ModelOptions(model=name), folder)
            for name, folder in zip(names, folded, strict=True)
        ]
        _assert_same_tensors(opened)
        _write(config, opened, target, work)
    finally:
        for folder in folded:
            shutil.rmtree(folder, ignore_errors=True)


def _write(config: Config, opened: Sequence[StoredWeights], target: Path, work: Path) -> None:
    from coalign.models.files.loading import load_tokenizer

    first = opened[0]
    apart = max(
        opened, key=lambda one: len(one.names)
    )  # a head that one model has apart is apart in the result
    shapes = {name: apart.shape(name) for name in apart.names}
    rows: list[dict[str, Any]] = []

    def make(name: str) -> Tensor:
        made, row = merged_tensor(config, name, [one.read(name) for one in opened])
        rows.append({"name": name, "size": made.numel(), **row})
        return made

    dtype = _dtype(config, first)
    with atomic_path(target) as folder, disk_errors(target):
        folder.mkdir()
        with progress(len(shapes), "merging", "tensor") as bar:
            for _ in write_weights(shapes, make, folder, dtype, largest=SHARD):
                bar.advance()
        settings = copy.deepcopy(first.config)
        settings["dtype"] = str(dtype).removeprefix("torch.")
        settings.pop("torch_dtype", None)
        if apart.config.get("tie_word_embeddings") is False:
            settings["tie_word_embeddings"] = False
        write_json(folder / "config.json", settings)
        if first.generation is not None:
            write_json(
                folder / "generation_config.json", json.loads(first.generation.read_text(encoding="utf-8"))
            )
        load_tokenizer(ModelOptions(model=config.model)).save_pretrained(str(folder))
        write_rows(work / TENSORS, rows)


def merged_tensor(config: Config, name: str, tensors: Sequence[Tensor]) -> tuple[Tensor, dict[str, Any]]:
    """One tensor merged in float32, and what was measured of it.

    Args:
        tensors: that of the base first, where there is one.

    Raises:
        ModelError: buffers of whole numbers differ, or the result is not finite.
    """
    if not tensors[0].is_floating_point():
        if any(not torch.equal(tensors[0], one) for one in tensors[1:]):
            raise ModelError(
                f"{name} holds whole numbers that differ between the models: they cannot be merged."
            )
        return tensors[0], {}
    wide = [one.float() for one in tensors]
    row: dict[str, Any] = {}
    if config.method == "linear":
        made = linear(wide, config.weights or [1.0] * len(wide))
    else:
        base, *models = wide
        if config.method == "task-arithmetic":
            made = task_arithmetic(base, models, config.weights or [1.0] * len(models), config.scale)
        else:
            made, cosine, share = model_stock(base, models)
            row = {"cosine": cosine, "share": share}
        norm = max(float(base.norm()), 1e-12)
        row["moved"] = [float((one - base).norm()) / norm for one in (*models, made)]
    if not made.isfinite().all():
        raise ModelError(
            f"{name} is not finite once merged.", hint="Look at the models: one holds NaN or infinity."
        )
    return made, row


def _assert_same_tokens(names: Sequence[str]) -> None:
    from coalign.models.files.loading import load_tokenizer

    first, *others = [load_tokenizer(ModelOptions(model=name)).get_vocab() for name in names]
    for name, vocabulary in zip(names[1:], others, strict=True):
        differing = sorted(token for token, _ in {*first.items()} ^ {*vocabulary.items()})
        if differing:
            raise ModelError(
                f"{name} has another vocabulary than {names[0]}: {len({*differing})} tokens differ, such as "
                f"{differing[0]!r}.",
                hint="Models can be merged where a token has one number in all of them.",
            )


def _assert_same_tensors(opened: Sequence[StoredWeights]) -> None:
    first = opened[0]
    for other in opened[1:]:
        lacking = [name for name in first.names if name not in other]
        added = [name for name in other.names if name not in first]
        if lacking or added:
            problem = f"lacks {lacking[0]}" if lacking else f"has {added[0]}, which {first.name} lacks"
            raise ModelError(f"{other.name} {problem}: it is another architecture.")
        for name in {*first.names, *other.names}:
            if first.shape(name) != other.shape(name):
                raise ModelError(
                    f"{name} is {list(other.shape(name))} in {other.name} and {list(first.shape(name))} in "
                    f"{first.name}.",
                    hint="An embedding that was made larger must be of one size in all models.",
                )


def _dtype(config: Config, first: StoredWeights) -> torch.dtype:
    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    said = first.config.get("dtype") or first.config.get("torch_dtype")
    if isinstance(said, str) and hasattr(torch, said):
        return getattr(torch, said)
    return next(
        (one for one in map(first.read, first.names[:1]) if one.is_floating_point()), torch.zeros(1)
    ).dtype
