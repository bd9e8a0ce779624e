"""`coalign export MODEL`: one folder that any tool loads, or a repository on the hub."""

from __future__ import annotations

from pathlib import Path

import click

from coalign.cli.flags import GroupedCommand
from coalign.core.errors import ConfigError


@click.command(cls=GroupedCommand)
@click.argument("model", metavar="MODEL")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="A new folder.",
)
@click.option("--adapter", is_flag=True, help="The adapter alone, not folded into its base.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Number format of the weights; auto: that of the base.",
)
@click.option("--revision", help="Branch, tag or commit of a model on the hub.")
@click.option(
    "--push",
    metavar="REPO",
    help="Upload the folder to this repository of the hub, which is made where it is not there.",
)
@click.option("--private", is_flag=True, help="With --push: only for you.")
def export(
    model: str, out: Path, adapter: bool, dtype: str, revision: str | None, push: str | None, private: bool
) -> None:
    """Write a run's model, an adapter or any model to a folder in Hugging Face layout: safetensors, tokenizer, model card.

    An adapter is folded into its base, so that vLLM, llama.cpp's converter and plain Transformers take the folder as it is.
    """
    from coalign.models.files.exporting import base_elsewhere, export
    from coalign.models.files.exporting import push as upload
    from coalign.models.options import ModelOptions

    if private and push is None:
        raise ConfigError("--private has no effect without --push.")
    if out.exists():
        raise ConfigError(f"--out: {out} exists.", hint="Name another folder.")
    options = ModelOptions(model=model, revision=revision, save_dtype=dtype)  # pyright: ignore[reportArgumentType]
    base = base_elsewhere(options) if adapter else None
    if push is not None and base is not None:
        raise ConfigError(
            f"The adapter's base is {base}, a folder that nobody else has.",
            hint="Push the base first and train on it, or export without --adapter.",
        )
    folder = export(options, out, adapter=adapter)
    size = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    click.echo(f"{folder}: {size / 1e6:.1f} MB", err=True)
    if push is not None:
        click.echo(upload(folder, push, private=private))
    elif base is not None:
        click.echo(f"The adapter's base is {base}: whoever loads it needs that folder.", err=True)
