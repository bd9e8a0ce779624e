"""`coalign data`: look at data before anything is trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coalign.core.errors import CoalignError
from coalign.data.records import KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@click.group()
def data() -> None:
    """Look at data before anything is trained on it."""


@data.command()
@click.argument("source", metavar="FILE")
@click.option(
    "--model", metavar="ID", help="Count tokens of this model's tokenizer (an id, a folder, or 'default')."
)
@click.option(
    "--chat-template",
    metavar="FILE|NAME",
    help="Another chat template: a Jinja file, one of the tokenizer's own, or alpaca, chatml, gemma, llama-3, zephyr. "
    "Needs --model.",
)
@click.option(
    "--max-length", type=click.IntRange(min=1), help="Count what this many tokens would cut. Needs --model."
)
@click.option(
    "--max-prompt-length", type=click.IntRange(min=1), help="The same for prompts alone. Needs --model."
)
@click.option(
    "--kind", type=click.Choice(KINDS), help="What the file holds, when its columns allow more than one."
)
@click.option(
    "--split", default="train", show_default=True, help="Split of a data set of the hub or on disk."
)
@click.option("--limit", type=click.IntRange(min=1), help="Look only at the first rows.")
@click.option("--show", type=click.IntRange(min=0), default=3, show_default=True, help="Records to print.")
@click.option(
    "--on-bad-record",
    type=click.Choice(("fail", "skip")),
    default="fail",
    show_default=True,
    help="Skip leaves bad records out.",
)
@click.option(
    "--rejects",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With skip: bad records go here.  [default: FILE.rejects.jsonl in this folder]",
)
@click.option("--json", "as_json", is_flag=True, help="Print a machine-readable report only.")
def check(
    source: str,
    model: str | None,
    chat_template: str | None,
    max_length: int | None,
    max_prompt_length: int | None,
    kind: Any,
    split: str,
    limit: int | None,
    show: int,
    on_bad_record: str,
    rejects: Path | None,
    as_json: bool,
) -> None:
    """Say what FILE holds and everything that is wrong with it.

    FILE is a JSON Lines, JSON, CSV or Parquet file (text also as .gz or .zst), a folder written by `datasets`, a hub
    id, or - for JSON Lines on standard input. The exit code is 1 when it cannot be used as it is.
    """
    if model is None and (max_length or max_prompt_length):
        raise click.UsageError("--max-length and --max-prompt-length count tokens: give --model too.")
    if model is None and chat_template:
        raise click.UsageError("--chat-template is for a tokenizer: give --model too.")
    if rejects is not None and on_bad_record == "fail":
        raise click.UsageError("--rejects needs --on-bad-record skip.")
    from coalign.data.check import check_records
    from coalign.data.readers import scan_records

    skip = on_bad_record == "skip"
    if skip and rejects is None:
        rejects = Path(f"{'stdin' if source == '-' else Path(source).name}.rejects.jsonl")
    try:
        found = scan_records(source, kind=kind, split=split, rejects=rejects, limit=limit)
        report = check_records(
            found,
            _tokenizer(model, chat_template) if model else None,
            max_prompt_length=max_prompt_length,
            max_length=max_length,
            show=show,
            skip_bad=skip,
            label=None if as_json else "Tokenising",
        )
    except CoalignError as error:
        if not as_json:
            raise
        problems = [vars(problem) for problem in getattr(error, "problems", ())]
        _print_json(
            {
                "source": source,
                "usable": False,
                "error": error.message,
                "hint": error.hint,
                "problems": problems,
            }
        )
        raise SystemExit(error.exit_code) from error
    if as_json:
        _print_json(report.to_dict() | {"warnings": report.warnings()})
    else:
        from rich.console import Console

        from coalign.data.check_view import print_check

        print_check(report, Console(highlight=False))
    if not report.usable:
        raise SystemExit(1)


def _tokenizer(model: str, chat_template: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer alone: no weights are loaded or fetched."""
    from coalign.models.files.loading import load_tokenizer
    from coalign.models.options import ModelOptions

    return load_tokenizer(ModelOptions(model=model, chat_template=chat_template))


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
