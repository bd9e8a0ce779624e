"""`coalign launch`: a run in several processes of this machine."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import Any

import click
import yaml

from coalign.core.errors import ConfigError
from coalign.core.extras import assert_version, is_installed, require
from coalign.core.runs import new_run_path
from coalign.training.distributed.recipes import (
    RECIPES,
    Recipe,
    accelerate_configuration,
    by_deepspeed,
    deepspeed_configuration,
)


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--processes",
    type=click.IntRange(1),
    required=True,
    metavar="N",
    help="Processes; on GPUs one for each. 1 is for zero2 and zero3, to go on with what several wrote.",
)
@click.option(
    "--recipe",
    type=click.Choice(RECIPES),
    default="ddp",
    show_default=True,
    help="ddp: each process holds the whole model. fsdp2, and zero3 by DeepSpeed: weights, gradients and optimizer are in "
    "parts, one on each; zero2: gradients and optimizer.",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Start all processes again so often after one has failed; the run goes on at its last checkpoint.",
)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print the configuration of accelerate and the command, start nothing.",
)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- run METHOD ...")
def launch(
    processes: int, recipe: Recipe, max_restarts: int, print_config: bool, words: tuple[str, ...]
) -> None:
    """Start `coalign run METHOD ...` in N processes of this machine, through `accelerate launch`.

    Each process takes its share of every step. A step holds --batch-size records of every process: divide it by N for the
    steps of one process. On a CPU each process works with the threads that OMP_NUM_THREADS says, by default one.

    Example: coalign launch --recipe fsdp2 --processes 2 -- run dpo --data pairs.jsonl --batch-size 4 --out runs/pairs
    """
    from coalign.cli.running.run import command
    from coalign.core.cache import cache_root
    from coalign.core.files import write_json, write_text
    from coalign.core.options import build

    if processes == 1 and not by_deepspeed(recipe):
        raise click.BadParameter(
            f"1 under {recipe} is `coalign run` without a launcher, expected at least 2.",
            param_hint="'--processes'",
        )
    first, *rest = words
    if first != "run" or not rest:
        raise ConfigError(f"{first}: launch starts `run METHOD ...`, expected that after `--`.")
    method, *given = rest
    own: Any = command(method)
    config = build(own.config_class, own.values(given))  # refused here once, and not by every process
    _assert_recipe(config, method, recipe)
    kind = _device(config, processes)
    if own.make_context(method, [*given]).params["out"] is None:
        given += ["--out", str(new_run_path(method))]  # one folder for all processes
    folder = cache_root() / "launch"
    file = folder / f"{recipe}-{processes}.yaml"
    zero = folder / f"{recipe}.json"
    settings = yaml.safe_dump(
        accelerate_configuration(recipe, processes, deepspeed_file=str(zero.absolute())), sort_keys=False
    )
    line = [sys.executable, "-m", "coalign.training.distributed.starter", "--config_file", str(file)]
    if max_restarts:
        line += ["--max_restarts", str(max_restarts), "--rdzv_backend", "c10d"]
    line += ["-m", "coalign", "run", method, *given]
    if print_config:
        click.echo(settings, nl=False)
        if by_deepspeed(recipe):
            click.echo(f"# {zero}: {json.dumps(deepspeed_configuration(recipe))}")
        click.echo(
            f"# {_spelled(_for_processes(kind, max_restarts))}accelerate launch {shlex.join(line[3:])}"
        )
        return
    if by_deepspeed(recipe) and not is_installed("deepspeed"):
        require("deepspeed", "deepspeed")  # says how to install it
    for name in ("torch", "accelerate", *(["deepspeed"] if by_deepspeed(recipe) else [])):
        assert_version(name)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, settings)
    if by_deepspeed(recipe):
        write_json(zero, deepspeed_configuration(recipe))
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **_for_processes(kind, max_restarts)}
    sys.stdout.flush()
    if os.name == "posix":  # signals then reach the launcher itself, which ends its processes
        os.execve(sys.executable, line, environment)
    sys.exit(subprocess.call(line, env=environment))


def _assert_recipe(config: Any, method: str, recipe: Recipe) -> None:
    """Refuse parts of a model that has to be whole, before any process starts.

    Raises:
        ConfigError: the method samples from the model that is in training.
    """
    from coalign.loops.online_options import OnlineOptions

    if recipe != "ddp" and isinstance(config, OnlineOptions):
        raise ConfigError(
            f"--recipe {recipe}: {method} samples from the model while it is in training, which needs it whole in every process.",
            hint="Use --recipe ddp.",
        )


def _for_processes(kind: str, max_restarts: int) -> dict[str, str]:
    """What the launcher's environment says besides its configuration."""
    made = {"ACCELERATE_USE_CPU": "true", "DS_ACCELERATOR": "cpu"} if kind == "cpu" else {}
    if max_restarts:
        # Any free port; and a store of its own for every start, which else finds the addresses of the one before.
        made |= {"PET_RDZV_ENDPOINT": "localhost:0", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return made


def _spelled(environment: dict[str, str]) -> str:
    return "".join(f"{name}={value} " for name, value in environment.items())


def _device(config: Any, processes: int) -> str:
    """`cpu` or `cuda`: what the run will work on.

    Raises:
        ConfigError: each process needs a GPU of its own, and there are fewer or one is named for all; or it is an Apple
            GPU, which processes cannot share.
    """
    import torch

    from coalign.models.devices import pick_device

    name = getattr(config, "device", "auto")
    kind = pick_device(name).type
    if kind == "mps":
        raise ConfigError("--processes: there is one Apple GPU.", hint="Give the run --device cpu.")
    if kind == "cuda" and ":" in name:
        raise ConfigError(f"--device {name} is one GPU for all processes, expected cuda or auto.")
    if kind == "cuda" and processes > torch.cuda.device_count():
        raise ConfigError(
            f"--processes: {processes}, expected at most {torch.cuda.device_count()}, one for each GPU.",
        )
    return kind
