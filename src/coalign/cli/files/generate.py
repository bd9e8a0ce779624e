"""`coalign generate`: responses to a file of prompts, continued where it stopped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coalign.cli.flags import (
    GroupedCommand,
    built,
    built_models,
    flags_of,
    method_values_of,
    with_methods,
)
from coalign.core.errors import ConfigError
from coalign.core.files import append_rows, read_rows, write_rows
from coalign.core.options import to_dict
from coalign.models.backends.options import BackendOptions
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import TRAINING, ModelOptions

if TYPE_CHECKING:
    from coalign.data.records import Messages, Record


FLAGS = [
    *flags_of(ModelOptions, leave_out=TRAINING),
    *flags_of(SamplingOptions, leave_out={"stop"}),
    *flags_of(BackendOptions),
]


@click.command(cls=GroupedCommand, params=FLAGS)
@click.option("--prompts", required=True, metavar="FILE|-", help="Prompts in any form that coalign reads.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.jsonl",
    help="Written whole, at the end.",
)
@click.option("--overwrite", is_flag=True, help="Replace --out.")
@with_methods("--method", "--align")
@click.option(
    "--reward",
    "rewards",
    multiple=True,
    metavar="NAME:ARGUMENTS@WEIGHT",
    help="Look for text with this reward: max_words:20, must_include:river,stone@2, model:PATH, judge:CRITERION. May be "
    "given several times. Without --method the method is deal, on an endpoint or vLLM best-of-n.",
)
@click.option(
    "--stop",
    multiple=True,
    help="Text that ends a response (\\n is a line break); may be given several times.",
)
@click.option("--prefill", metavar="TEXT", help="Begin every response with this text.")
@click.option(
    "--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Responses to each prompt."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--logprobs", is_flag=True, help="Also write the log-probability of every sampled token.")
@click.option(
    "--top-logprobs",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Also write so many of the most probable tokens at every place.",
)
@click.option(
    "--plain", is_flag=True, help="Continue plain-text prompts as they are, without the chat template."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Most samples in a batch.  [default: by device]"
)
def generate(
    prompts: str,
    out: Path,
    overwrite: bool,
    methods: tuple[str, ...],
    method_values: tuple[str, ...],
    rewards: tuple[str, ...],
    stop: tuple[str, ...],
    prefill: str | None,
    samples: int,
    seed: int,
    logprobs: bool,
    top_logprobs: int,
    plain: bool,
    batch_size: int | None,
    **given: Any,
) -> None:
    """Generate responses to a file of prompts.

    One row a prompt: id, prompt, responses, finish_reasons, tokens (null where an endpoint does not say). The same
    command continues after an interruption; finished rows wait in FILE.jsonl.partial.
    """
    from coalign.data.readers import read_records

    stops = [one.replace("\\n", "\n").replace("\\t", "\t") for one in stop]
    options = built(SamplingOptions, given, stop=stops)
    which, backend = built_models(given)
    if rewards and not methods:
        methods = ("deal" if backend.chosen_backend == "transformers" else "best-of-n",)
    values = method_values_of(methods, (*method_values, *(f"reward={one}" for one in rewards)))
    if out.exists() and not overwrite:
        raise ConfigError(f"--out: {out} exists.", hint="Name another file, or replace it with --overwrite.")
    records = read_records(prompts, kind="prompt").records
    if plain and not all(record.plain for record in records):
        raise ConfigError(
            "--plain: the prompts are messages.", hint="Give them as text, or leave --plain out."
        )
    if plain and prefill is not None:
        raise ConfigError("--prefill begins an assistant's turn, which --plain has not.")
    settings = {
        **to_dict(options), **_model_settings(which, backend), "samples": samples, "seed": seed,
        "logprobs": logprobs, "top_logprobs": top_logprobs, "plain": plain, "prefill": prefill,
        "methods": list(methods), "options": values, "batch_size": batch_size,
        "prompts": _digest([record.prompt for record in records]),
    }  # fmt: skip
    partial = start_partial(out, settings)

    from coalign.loops.rows import answer_rows, kept_rows
    from coalign.models.backends.open import describe_generator
    from coalign.models.methods import open_methods

    generator = open_methods(methods, values, which, backend, batch_size=batch_size)
    click.echo(" over ".join([*methods, describe_generator(generator, which.model)]), err=True)
    done = kept_rows(read_rows(partial), [one.id for one in records])
    if done:
        click.echo(f"Continuing: {len(done)} of {len(records)} prompts are done.", err=True)
    tokenizer = getattr(generator, "tokenizer", None)
    as_text = plain or (tokenizer is not None and not tokenizer.chat_template and not methods)
    rows = answer_rows(
        partial,
        records,
        lambda: generator,
        options.sampling(n=samples, seed=seed, logprobs=logprobs, top_logprobs=top_logprobs),
        label="Generating",
        asked=[_prompt(record, as_text, prefill) for record in records],
    )
    write_rows(out, ({name: value for name, value in row.items() if name != "index"} for row in rows))
    partial.unlink()
    stats = getattr(generator, "last_stats", None)
    if stats is not None:
        click.echo(
            f"{stats.samples} samples, {stats.tokens} tokens in {stats.seconds:.1f} s: "
            f"{stats.samples_per_second:.2f} samples/s, {stats.tokens_per_second:.0f} tokens/s",
            err=True,
        )
    click.echo(str(out))


def _model_settings(which: ModelOptions, backend: BackendOptions) -> dict[str, Any]:
    """What decides over the text: a run is continued with the same."""
    kind = backend.chosen_backend
    if kind == "endpoint":
        return {
            "backend": kind, "endpoint": backend.endpoint, "endpoint_model": backend.endpoint_model,
            "endpoint_prefill": backend.endpoint_prefill,
        }  # fmt: skip
    return {"backend": kind, "model": which.model, "revision": which.revision, "dtype": which.dtype}


def start_partial(out: Path, settings: dict[str, Any]) -> Path:
    """The file of finished rows beside the one they will be in: a line of settings, then one row a prompt.

    Raises:
        ConfigError: the rows there were made with other settings; the differing ones are named.
    """
    path = out.with_name(f"{out.name}.partial")
    rows = read_rows(path, repair=True)
    if not rows:
        append_rows(path, [{"settings": settings}])
        return path
    before = rows[0]["settings"]
    differing = [name for name in settings if settings[name] != before.get(name)]
    if differing:
        lines = [f"  {name}: {before.get(name)!r} there, {settings[name]!r} now" for name in differing]
        raise ConfigError(
            f"{path} was started with other settings:\n" + "\n".join(lines),
            hint="Give the same options to continue it, another --out, or delete it.",
        )
    return path


def _prompt(record: Record, plain: bool, prefill: str | None) -> Messages | str:
    if record.plain and plain and prefill is None:
        return "".join(one["content"] for one in record.prompt)
    if prefill is not None:
        return [*record.prompt, {"role": "assistant", "content": prefill}]
    return record.prompt


def _digest(prompts: list[Messages]) -> str:
    return hashlib.sha256(json.dumps(prompts, ensure_ascii=False).encode()).hexdigest()[:16]
