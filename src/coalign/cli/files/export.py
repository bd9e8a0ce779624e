"""`coalign export MODEL`: one folder that any tool loads, a GGUF file, or a repository on the hub."""

from __future__ import annotations

import re
from pathlib import Path

import click

from coalign.cli.flags import GroupedCommand
from coalign.core.errors import ConfigError

_SIZE = re.compile(r"\d+(\.\d+)?[KMGT]B", re.IGNORECASE)


@click.command(cls=GroupedCommand)
@click.argument("model", metavar="MODEL")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="A new folder; with --format gguf also a new file NAME.gguf.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["safetensors", "gguf"]),
    default="safetensors",
    show_default=True,
    help="Hugging Face layout, or one file for llama.cpp, Ollama, LM Studio (extra gguf).",
)
@click.option(
    "--outtype",
    type=click.Choice(["f32", "f16", "bf16", "q8_0"]),
    metavar="[f32|f16|bf16|q8_0]",  # as it is written, which the group's dashes would change
    help="With --format gguf: number format of the matrices.  [default: f16]",
)
@click.option("--adapter", is_flag=True, help="The adapter alone, not folded into its base.")
@click.option("--records", is_flag=True, help="The records that a run made, with a data card, and no model.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="With --format safetensors: number format of the weights; auto: that of the base.",
)
@click.option(
    "--max-shard-size",
    metavar="SIZE",
    help="With --format safetensors: largest file of weights, such as 2GB.",
)
@click.option("--chat-template", help="Another chat template, as coalign run has it.")
@click.option("--revision", help="Branch, tag or commit of a model on the hub.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that the model's repository brings.")
@click.option(
    "--push",
    metavar="REPO",
    help="Upload the folder to this repository of the hub, which is made where it is not there.",
)
@click.option("--private", is_flag=True, help="With --push: only for you.")
def export(
    model: str,
    out: Path,
    format_: str,
    outtype: str | None,
    adapter: bool,
    records: bool,
    dtype: str,
    max_shard_size: str | None,
    chat_template: str | None,
    revision: str | None,
    trust_remote_code: bool,
    push: str | None,
    private: bool,
) -> None:
    """Write a run's model, an adapter or any model to a folder: safetensors, tokenizer, model card and the card of its data; or to a GGUF file.

    An adapter is folded into its base, so that vLLM, Transformers and llama.cpp take the result as it is.
    """
    from coalign.models.files.exporting import (
        GGUF,
        assert_pushable,
        base_elsewhere,
        export_gguf,
        export_records,
    )
    from coalign.models.files.exporting import export as export_model
    from coalign.models.files.exporting import push as upload
    from coalign.models.options import ModelOptions

    gguf = format_ == "gguf"
    file = gguf and out.suffix == GGUF
    given = {
        "--outtype": outtype is not None,
        "--dtype": dtype != "auto",
        "--max-shard-size": max_shard_size is not None,
        "--adapter": adapter,
        "--format gguf": gguf,
        "--chat-template": chat_template is not None,
        "--revision": revision is not None,
        "--trust-remote-code": trust_remote_code,
    }
    without = {
        "with --records": set(given) if records else set(),
        "with --format gguf": {"--dtype", "--max-shard-size"} if gguf else set(),
        "without --format gguf": set() if gguf else {"--outtype"},
        "on an adapter, which stays as it is": {"--chat-template"} if adapter else set(),
    }
    for why, names in without.items():
        for name in given:
            if given[name] and name in names:
                raise ConfigError(f"{name} has no effect {why}.")
    if private and push is None:
        raise ConfigError("--private has no effect without --push.")
    if push is not None and file:
        raise ConfigError(
            "--push uploads a folder, and --out names a file.", hint="Give a folder, which gets a card too."
        )
    if max_shard_size is not None and not _SIZE.fullmatch(max_shard_size):
        raise ConfigError(f"--max-shard-size: {max_shard_size!r} is no size, expected such as 500MB or 2GB.")
    if out.exists():
        raise ConfigError(f"--out: {out} exists.", hint="Name another folder.")
    if push is not None:
        assert_pushable(push)
    if records:
        made = export_records(model, out)
        _told(made)
        if push is not None:
            click.echo(upload(made, push, private=private, kind="dataset"))
        return
    options = ModelOptions(
        model=model,
        revision=revision,
        save_dtype=dtype,  # pyright: ignore[reportArgumentType]
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    base = base_elsewhere(options) if adapter else None
    if push is not None and base is not None:
        raise ConfigError(
            f"The adapter's base is {base}, a folder that nobody else has.",
            hint="Push the base first and train on it, or export without --adapter.",
        )
    if gguf:
        made = export_gguf(options, out, outtype or "f16", adapter=adapter)  # pyright: ignore[reportArgumentType]
    else:
        made = export_model(options, out, adapter=adapter, max_shard_size=max_shard_size)
    _told(made)
    if push is not None:
        click.echo(upload(made, push, private=private))
    elif base is not None:
        click.echo(f"The adapter's base is {base}: whoever loads it needs that folder.", err=True)


def _told(made: Path) -> None:
    files = made.rglob("*") if made.is_dir() else [made]
    size = sum(one.stat().st_size for one in files if one.is_file())
    click.echo(f"{made}: {size / 1e6:.1f} MB", err=True)
