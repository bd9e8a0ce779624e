"""`coalign data`: look at data before anything is trained on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coalign.cli.advice import FileGroup
from coalign.cli.counts import COUNT, COUNT_OR_ZERO
from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.files import dump_json
from coalign.data.records import KINDS, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@click.group(cls=FileGroup)
def data() -> None:
    """Look at data before anything is trained on it."""


@data.command()
@click.argument("sources", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--model", metavar="ID", help="Count tokens of this model's tokenizer (an id, a folder, or 'default')."
)
@click.option(
    "--chat-template",
    metavar="FILE|NAME",
    help="Another chat template: a Jinja file, one of the tokenizer's own, or alpaca, chatml, gemma, llama-3, zephyr. "
    "Needs --model.",
)
@click.option("--max-length", type=COUNT, help="Count what this many tokens would cut. Needs --model.")
@click.option("--max-prompt-length", type=COUNT, help="The same for prompts alone. Needs --model.")
@click.option(
    "--kind", type=click.Choice(KINDS), help="What the file holds, when its columns allow more than one."
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=COLUMN",
    help="Take a column under a name that records have, such as prompt=question; may be given several times.",
)
@click.option(
    "--split",
    default="train",
    show_default=True,
    help="Split of a data set of the hub or on disk, or of a folder whose files are named by splits.",
)
@click.option("--limit", type=COUNT, help="Look only at the first rows of each FILE.")
@click.option("--show", type=COUNT_OR_ZERO, default=3, show_default=True, help="Records to print.")
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
@click.option(
    "--against",
    multiple=True,
    metavar="FILE",
    help="Evaluation data: say which of it FILE has, in the same words or nearly. A data set's split is `test` here; "
    "FILE,split=NAME chooses another.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Of pictures and clips, and of records with pictures: write the findings with thumbnails as an HTML page.",
)
@click.option(
    "--max-pixels",
    type=COUNT,
    help="Of pictures and clips: refuse larger ones by their header.  [default: 89478485]",
)
@click.option("--json", "as_json", is_flag=True, help="Print a machine-readable report only.")
def check(sources: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Say what FILE holds and everything that is wrong with it.

    FILE is a JSON Lines, JSON, CSV or Parquet file (text also as .gz or .zst), a folder or a glob of such files, a
    folder written by `datasets`, a hub id, or - for JSON Lines on standard input. Several are a mix, as `--data` takes
    it: FILE,weight=2,max=1000,tag=NAME. Pictures and clips with captions or labels (a column `image` or `video`, a folder
    of them, WebDataset shards) are decoded, every one. The exit code is 1 when it cannot be used as it is.
    """
    if options["model"] is None and (options["max_length"] or options["max_prompt_length"]):
        raise click.UsageError("--max-length and --max-prompt-length count tokens: give --model too.")
    if options["model"] is None and options["chat_template"]:
        raise click.UsageError("--chat-template is for a tokenizer: give --model too.")
    if options["rejects"] is not None and options["on_bad_record"] == "fail":
        raise click.UsageError("--rejects needs --on-bad-record skip.")
    try:
        usable = _check(sources, as_json, **options)
    except CoalignError as error:
        if not as_json:
            raise
        problems = [vars(problem) for problem in getattr(error, "problems", ())]
        _print_json(
            {
                "source": ", ".join(sources),
                "usable": False,
                "error": error.message,
                "hint": error.hint,
                "problems": problems,
            }
        )
        raise SystemExit(error.exit_code) from error
    if not usable:
        raise SystemExit(1)


def _check(
    texts: Sequence[str],
    as_json: bool,
    *,
    model: str | None,
    chat_template: str | None,
    max_length: int | None,
    max_prompt_length: int | None,
    kind: Any,
    columns: Sequence[str],
    split: str,
    limit: int | None,
    show: int,
    on_bad_record: str,
    rejects: Path | None,
    against: Sequence[str],
    report: Path | None,
    max_pixels: int | None,
) -> bool:
    """Check every source and print what was found; whether all can be used."""
    from rich.console import Console

    from coalign.cli.files.media import TEXT_ALONE, all_media, check_all, media_columns
    from coalign.core.files import write_rows
    from coalign.data.checking.check import check_records
    from coalign.data.checking.check_mix import check_mix
    from coalign.data.checking.check_view import print_check, print_mix
    from coalign.data.media.check_view import write_record_report
    from coalign.data.readers import scan_records
    from coalign.data.sources import canonical_columns, sources_of

    given, skip = locals(), on_bad_record == "skip"
    parts = media_columns(columns)
    try:
        sources, mapping = sources_of(texts), {} if parts else canonical_columns(columns, "--column") or {}
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if kind is None and all_media(sources, split, parts):
        usable, found = check_all(
            sources,
            as_json,
            split=split,
            limit=limit,
            skip=skip,
            columns=parts,
            report=report,
            max_pixels=max_pixels,
            given={name: given[name] for name in TEXT_ALONE},
        )
        if as_json:
            _print_json(found[0] if len(found) == 1 else {"usable": usable, "sources": found})
        return usable
    if max_pixels is not None:
        raise ConfigError(
            "--max-pixels has an effect on pictures and clips with captions alone; leave it out"
        )
    console = Console(highlight=False)
    tokenizer = _tokenizer(model, chat_template) if model else None
    evaluated = _evaluated(against, limit)
    reports, found = [], []
    for source in sources:
        name = "stdin" if source.path == "-" else re.sub(r"[*?\[\]]+", "_", Path(source.path).name)
        own = Path(f"{name}.rejects.jsonl")
        found.append(
            scan_records(
                source.path,
                kind=source.kind or kind,
                split=source.split or split,
                rejects=own if skip and rejects is None else None,
                limit=limit,
                columns=source.columns or mapping,
                tag=source.tag,
            )
        )
        bad = [row for one in found for row in one.bad]
        if rejects is not None and bad:
            write_rows(rejects, bad)
            found[-1] = replace(found[-1], rejects=rejects)
        reports.append(
            check_records(
                found[-1],
                tokenizer,
                max_prompt_length=max_prompt_length,
                max_length=max_length,
                show=show,
                skip_bad=skip,
                label=None if as_json else "Tokenising",
                against=evaluated,
            )
        )
        if not as_json:
            print_check(reports[-1], console)
    if report is not None:
        if not any(one.shown[0] for one in reports):
            raise ConfigError("--report shows pictures, and no record has any; leave it out")
        write_record_report(found, reports, report)
    usable = all(one.usable for one in reports)
    plain = [one.to_dict() | {"warnings": one.warnings()} for one in reports]
    if len(sources) == 1:
        if as_json:
            _print_json(plain[0])
        return usable
    mix = check_mix(sources, found)
    usable = usable and mix.usable
    if as_json:
        told = {**asdict(mix), "warnings": mix.warnings()}
        _print_json({"usable": usable, "mix": told, "sources": plain})
    else:
        print_mix(mix, console)
    return usable


def _evaluated(texts: Sequence[str], limit: int | None) -> dict[str, list[Record]]:
    """Records to evaluate on, by file; of what is no record of a kind with responses the prompts."""
    from coalign.data.readers import read_records
    from coalign.data.sources import sources_of

    found = {}
    for text in texts:
        (source,) = sources_of(text)
        reading: Any = {
            "split": source.split or "test",
            "limit": limit,
            "columns": source.columns,
            "text_alone": False,
        }
        try:
            records = read_records(source.path, kind=source.kind, **reading).records
        except DataError:
            if source.kind is not None:
                raise
            records = read_records(source.path, kind="prompt", **reading).records
        found[source.path] = records
    return found


def _tokenizer(model: str, chat_template: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer alone: no weights are loaded or fetched."""
    from coalign.models.files.loading import load_tokenizer
    from coalign.models.options import ModelOptions

    return load_tokenizer(ModelOptions(model=model, chat_template=chat_template))


def _print_json(value: dict[str, Any]) -> None:
    click.echo(dump_json(value, indent=2))
