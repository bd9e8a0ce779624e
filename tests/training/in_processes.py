"""Trainings as any number of processes does them. Run as a module under a launcher it is one of two processes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from coalign.cli.running.run import execute, find
from coalign.core.files import append_rows
from coalign.core.options import build
from coalign.core.runs import Run, is_main_process
from coalign.models.files.saving import save_model
from coalign.training.distillation import Distillation, TokenExample
from coalign.training.distributed import sharding
from coalign.training.distributed.recipes import (
    Recipe,
    accelerate_configuration,
    by_deepspeed,
    deepspeed_configuration,
)
from coalign.training.modules import fit_module
from coalign.training.options import TrainingOptions
from coalign.training.processes import end_processes
from coalign.training.task import DivergedError
from coalign.training.trainer import ObjectiveTask
from tests.preference.tiny_runs import SMALL, pairs, save_tiny_model, write

STEP = {
    "optimizer": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.25, "max_steps": 1, "save_steps": 0,
    "schedule": "constant", "warmup_ratio": 0.0, "gradient_accumulation": 2,
}  # fmt: skip
LORA: dict[str, Any] = {"tuning": "lora"}
FULL: dict[str, Any] = {"tuning": "full", "show_answers": 0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", FULL),
    "dpo": ("dpo", {**LORA, "show_answers": 0}),
    "reward-model": ("reward-model", LORA),
    "recomputed": ("sft", {**FULL, "gradient_checkpointing": True, "eval_fraction": 0.2}),
    "live": ("dpo", {**LORA, "show_answers": 0, "reference_logps": "live"}),
}
"""Case to method and options."""
UNDER_DDP = ("sft", "dpo", "reward-model")
SEVERAL = {
    **FULL,
    "max_steps": 4,
    "save_steps": 2,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
}
"""Several steps with checkpoints between them, of an optimizer with two groups."""


def material(folder: Path) -> None:
    from tests.training import objectives

    save_tiny_model(folder / "tiny")
    write(folder / "rows.jsonl", pairs(12))
    write(folder / "more.jsonl", pairs(20))
    (folder / "objectives").mkdir()
    objectives.material(folder / "objectives")


def config_of(method: str, folder: Path, processes: int, **options: Any) -> Any:
    """Options of a step over eight of the records, however many processes share it."""
    given = {"model": str(folder / "tiny"), "data": [str(folder / "rows.jsonl")]}
    return build(find(method)[1].Config, {**SMALL, **STEP, "batch_size": 4 // processes, **given, **options})


def train(method: str, where: Path, folder: Path, processes: int, **options: Any) -> Run:
    """A run in `where`; `folder` has model and data."""
    config = config_of(method, folder, processes, **options)
    run = Run.start(where, method, config, seed=0)
    find(method)[1].run(config, run)
    return run


def train_case(name: str, folder: Path, recipe: str) -> Run:
    """A case in a folder of its own beside the data."""
    method, options = CASES[name]
    processes = 1 if recipe == "one" else 2
    return train(method, folder / f"{name}-{recipe}", folder, processes, **options)


def distil(where: Path, folder: Path, processes: int, **options: Any) -> Run:
    """A student learns from a fixed teacher; `folder` has its model."""
    from coalign.models.files.loading import load_for_training, load_tokenizer

    config = config_of("sft", folder, processes, **{**FULL, **options})
    run = Run.start(where, "sft", config, seed=0)
    torch.manual_seed(0)  # the adapter's first weights
    model, tokenizer = load_for_training(config), load_tokenizer(config)
    teacher: Any = load_for_training(dataclasses.replace(config, tuning="full"))
    with torch.no_grad():
        teacher.get_output_embeddings().weight.mul_(2.0)
    examples = [
        TokenExample(tokenizer(f"Number {number} follows.")["input_ids"], [True] * 32) for number in range(10)
    ]
    examples = [TokenExample(one.ids, one.trained[: len(one.ids)]) for one in examples]

    def loss(logits: Any, taught: Any, labels: Any, rows: Any) -> Any:
        return -(taught[0].softmax(-1) * logits.log_softmax(-1)).sum(-1)

    task = Distillation(loss, [lambda student, given: teacher(**given).logits])
    fit_module(model, task, examples, TrainingOptions.of(config), run)
    if is_main_process():
        save_model(model, tokenizer, run.model)
    return run


@contextlib.contextmanager
def under(recipe: str) -> Iterator[None]:
    """What `accelerate launch` says of a recipe, for one training of several in the same processes."""
    os.environ["ACCELERATE_USE_FSDP"] = str(recipe == "fsdp2").lower()
    yield


def slices_of_adapters(folder: Path) -> None:
    """Every rank writes a number of its own into its slice of each adapter: the model that is whole again has all of them."""
    from coalign.models.files.loading import load_for_training

    model: Any = load_for_training(config_of("sft", folder, 2, tuning="lora"))
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    with sharding.whole_again(model, sharded=True):
        fully_shard(model)
        cut = [one for name, one in model.named_parameters() if "lora_" in name]
        assert cut
        for one in cut:
            assert isinstance(one, DTensor)
            with torch.no_grad():
                one.to_local().fill_(rank + 1)
    for name, one in model.named_parameters():
        assert isinstance(one, nn.Parameter)
        assert not isinstance(one, DTensor)
        if "lora_" in name:
            pieces = torch.chunk(one.detach(), size)
            assert [set(piece.unique().tolist()) for piece in pieces] == [{1.0}, {2.0}], name
    assert type(model).__name__ == "PeftModelForCausalLM"


def diverge(folder: Path, recipe: str) -> None:
    """The loss of the second process is not a number; both processes say so."""
    loss = ObjectiveTask.loss

    def broken(self: Any, model: Any, batch: Any, state: Any) -> Any:
        output = loss(self, model, batch, state)
        if not is_main_process() and model.training:
            output.losses.mul_(float("nan"))
        return output

    ObjectiveTask.loss = broken  # type: ignore[method-assign]
    try:
        train("sft", folder / f"diverging-{recipe}", folder, 2, **FULL)
    except DivergedError as error:
        (folder / f"diverged-{recipe}-{os.environ['RANK']}").write_text(str(error))
    finally:
        ObjectiveTask.loss = loss  # type: ignore[method-assign]


def fail_in_the_second_process(folder: Path) -> None:
    """A training whose second process raises inside its first step, while the first waits for its gradients."""
    loss = ObjectiveTask.loss

    def failing(*given: Any) -> Any:
        if is_main_process():
            return loss(*given)
        (folder / "failed").write_text(str(time.time()))
        raise RuntimeError("only here")

    ObjectiveTask.loss = failing  # type: ignore[method-assign]
    execute("sft", find("sft")[1], config_of("sft", folder, 2, **FULL), folder / "failing")


@contextlib.contextmanager
def counted_references(folder: Path) -> Iterator[None]:
    """Which examples this process scores under a reference, and what it writes into the cache, a line each in a file of its own."""
    from coalign.training import reference

    score, write = reference._score, reference.atomic_path

    def note(**facts: Any) -> None:
        row = {"recipe": "fsdp2" if os.environ["ACCELERATE_USE_FSDP"] == "true" else "ddp", **facts}
        append_rows(folder / f"references-{os.environ['RANK']}.jsonl", [row])

    def scoring(examples: Any, *given: Any) -> Any:
        note(
            scored=[repr([(part.prompt_ids, part.response_ids) for part in one.contexts]) for one in examples]
        )
        return score(examples, *given)

    def writing(path: Path) -> Any:
        note(wrote=path.name)
        return write(path)

    reference._score, reference.atomic_path = scoring, writing
    try:
        yield
    finally:
        reference._score, reference.atomic_path = score, write


def start(folder: Path, recipe: Recipe) -> subprocess.CompletedProcess[str]:
    """Two gloo processes that each run `main`."""
    material(folder)
    return started("tests.training.in_processes", folder, recipe)


def started(
    module: str,
    folder: Path,
    recipe: Recipe,
    *more: str,
    timeout: float = 240,
    restarts: int = 0,
    processes: int = 2,
) -> subprocess.CompletedProcess[str]:
    """A module with these arguments in gloo processes, as `coalign launch` starts them."""
    configuration, zero = folder / "accelerate.yaml", folder / "deepspeed.json"
    configuration.write_text(
        yaml.safe_dump(accelerate_configuration(recipe, processes, deepspeed_file=str(zero)))
    )
    if by_deepspeed(recipe):
        zero.write_text(json.dumps(deepspeed_configuration(recipe)))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.path.join(os.getcwd(), "src")]),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "DS_ACCELERATOR": "cpu",
    }
    starter = ["-m", "coalign.training.distributed.starter", "--config_file", str(configuration)]
    if restarts:
        starter += ["--max_restarts", str(restarts), "--rdzv_backend", "c10d"]
        environment |= {"PET_RDZV_ENDPOINT": "localhost:0", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.run(
        [sys.executable, *starter, "-m", module, str(folder), recipe, *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def by_deepspeed_in_processes(folder: Path, recipe: Recipe) -> None:
    for name in CASES:
        train_case(name, folder, recipe)
    distil(folder / f"distilled-{recipe}", folder, 2)
    diverge(folder, recipe)
    run = several(folder, recipe)
    adapted = several(folder, recipe, name="adapted", tuning="lora")
    by_sgd = several(folder, recipe, name="sgd", optimizer="sgd")
    if is_main_process():
        for name in ("stopped", "to-1", "to-4"):
            stopped(run, folder / name)
        stopped(adapted, folder / "adapted-to-4")
        stopped(by_sgd, folder / "by-sgd")
    torch.distributed.barrier()
    again(folder, processes=2)


def main(folder: Path, recipe: Recipe) -> None:
    from tests.training import objectives

    if by_deepspeed(recipe):
        by_deepspeed_in_processes(folder, recipe)
        return
    os.environ["COALIGN_CACHE"] = str(folder / "cache")  # what is kept there is counted
    with under("ddp"):
        with counted_references(folder):
            for name in UNDER_DDP:
                train_case(name, folder, "ddp")
        several(folder, "ddp")
        diverge(folder, "ddp")
    with under("fsdp2"):
        with counted_references(folder):
            for name in CASES:
                train_case(name, folder, "fsdp2")
        distil(folder / "distilled-fsdp2", folder, 2)
        objectives.train_all(objectives.CHOSEN, folder / "objectives", 2)
        slices_of_adapters(folder)
        diverge(folder, "fsdp2")
        run = several(folder, "fsdp2")
        if is_main_process():
            stopped(run, folder / "stopped")
        torch.distributed.barrier()
    with under("ddp"):
        fail_in_the_second_process(folder)


def several(folder: Path, recipe: str, name: str = "several", processes: int = 2, **options: Any) -> Run:
    """Four steps over eighteen records, the third of which holds two of them, with checkpoints between."""
    processes = 1 if recipe == "one" else processes
    given = {**SEVERAL, "data": [str(folder / "more.jsonl")], **options}
    return train("sft", folder / f"{name}-{recipe}", folder, processes, **given)


def again(folder: Path, processes: int = 1, name: str = "stopped", written: int = 2, **options: Any) -> Run:
    """Goes on with what `stopped` left of as many processes as `written` says, under the same options."""
    assert int(os.environ.get("WORLD_SIZE", "1")) == processes
    config = {**SEVERAL, "data": [str(folder / "more.jsonl")], **options}
    return train("sft", folder / name, folder, written, **config)


def stopped(run: Run, folder: Path) -> None:
    """A copy of a run as it was after its second step."""
    shutil.copytree(run.path, folder)
    copy = Run(folder)
    shutil.rmtree(copy.checkpoints / "train" / "checkpoint-4")
    shutil.rmtree(copy.model)
    (copy.artefacts / "train.json").unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), cast(Recipe, sys.argv[2]))
    end_processes()
