"""`coalign generate`: responses to a file of prompts, continued where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from coalign.cli.flags import flag, parse
from coalign.core.errors import ConfigError
from coalign.core.files import append_rows, read_rows, write_rows
from coalign.core.options import build, options_of, to_dict
from coalign.models.sampling_options import SamplingOptions

if TYPE_CHECKING:
    from coalign.data.records import Messages, Record
    from coalign.models.types import Generation


FLAGS = [one for one in options_of(SamplingOptions) if one.name != "stop"]


@click.command(params=[flag(one) for one in FLAGS])
@click.option(
    "--model", default="default", show_default=True, help="`default`, hub id, model folder or run folder."
)
@click.option("--revision", help="Branch, tag or commit on the hub.")
@click.option("--prompts", required=True, metavar="FILE|-", help="Prompts in any form that coalign reads.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.jsonl",
    help="Written whole, at the end.",
)
@click.option("--overwrite", is_flag=True, help="Replace --out.")
@click.option(
    "--stop",
    multiple=True,
    help="Text that ends a response (\\n is a line break); may be given several times.",
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Responses to each prompt."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--logprobs", is_flag=True, help="Also write the log-probability of every sampled token.")
@click.option(
    "--plain", is_flag=True, help="Continue plain-text prompts as they are, without the chat template."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:<n> or mps.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Most samples in a batch.  [default: by device]"
)
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that the model's repository brings.")
def generate(
    model: str,
    revision: str | None,
    prompts: str,
    out: Path,
    overwrite: bool,
    stop: tuple[str, ...],
    samples: int,
    seed: int,
    logprobs: bool,
    plain: bool,
    device: str,
    dtype: str,
    batch_size: int | None,
    trust_remote_code: bool,
    **given: Any,
) -> None:
    """Generate responses to a file of prompts.

    One row a prompt: id, prompt, responses, finish_reasons, tokens. The same command continues after an
    interruption; finished rows wait in FILE.jsonl.partial.
    """
    from coalign.data.readers import read_records

    flags = {one.name: parse(one, given[one.name]) for one in FLAGS if given[one.name] is not None}
    flags["stop"] = [one.replace("\\n", "\n").replace("\\t", "\t") for one in stop]
    options = build(SamplingOptions, flags)
    if out.exists() and not overwrite:
        raise ConfigError(f"--out: {out} exists.", hint="Name another file, or replace it with --overwrite.")
    records = read_records(prompts, kind="prompt").records
    if plain and not all(record.plain for record in records):
        raise ConfigError(
            "--plain: the prompts are messages.", hint="Give them as text, or leave --plain out."
        )
    settings = {
        **to_dict(options), "model": model, "revision": revision, "samples": samples, "seed": seed,
        "logprobs": logprobs, "plain": plain, "dtype": dtype, "batch_size": batch_size,
        "prompts": _digest([record.prompt for record in records]),
    }  # fmt: skip
    partial = Partial.open(out, settings)

    from coalign.models.devices import describe_device
    from coalign.models.generation import TransformersGenerator
    from coalign.models.loading import load_model, load_tokenizer
    from coalign.models.options import ModelOptions

    which = ModelOptions(
        model=model,
        revision=revision,
        device=device,
        dtype=cast(Any, dtype),
        trust_remote_code=trust_remote_code,  # type: ignore[arg-type]
    )
    tokenizer = load_tokenizer(model, revision=revision, trust_remote_code=trust_remote_code)
    policy = load_model(which, training=False)
    click.echo(f"{model} on {describe_device(policy.device, policy.dtype)}", err=True)
    if partial.done:
        click.echo(f"Continuing: {len(partial.done)} of {len(records)} prompts are done.", err=True)
    generator = TransformersGenerator(policy, tokenizer, batch_size=batch_size)
    generator.generate(
        [_prompt(record, plain or not tokenizer.chat_template) for record in records],
        options.sampling(n=samples, seed=seed, logprobs=logprobs),
        done=partial.done,
        on_batch=lambda batch: partial.append(row(index, records[index], batch[index]) for index in batch),
    )
    partial.finish()
    stats = generator.last_stats
    click.echo(
        f"{stats.samples} samples, {stats.tokens} tokens in {stats.seconds:.1f} s: "
        f"{stats.samples_per_second:.2f} samples/s, {stats.tokens_per_second:.0f} tokens/s",
        err=True,
    )
    click.echo(str(out))


@dataclass
class Partial:
    """Finished rows beside the file they will be in: a line of settings, then one row a prompt, with its index."""

    out: Path
    path: Path
    done: set[int]

    @classmethod
    def open(cls, out: Path, settings: dict[str, Any]) -> Partial:
        """Start, or continue with the same settings.

        Raises:
            ConfigError: the rows there were made with other settings; the differing ones are named.
        """
        path = out.with_name(f"{out.name}.partial")
        rows = read_rows(path, repair=True)
        if not rows:
            append_rows(path, [{"settings": settings}])
            return cls(out, path, set())
        before = rows[0]["settings"]
        differing = [name for name in settings if settings[name] != before.get(name)]
        if differing:
            lines = [f"  {name}: {before.get(name)!r} there, {settings[name]!r} now" for name in differing]
            raise ConfigError(
                f"{path} was started with other settings:\n" + "\n".join(lines),
                hint="Give the same options to continue it, another --out, or delete it.",
            )
        return cls(out, path, {one["index"] for one in rows[1:]})

    def append(self, rows: Any) -> None:
        append_rows(self.path, rows)

    def finish(self) -> None:
        """Write the whole file, in the order of the prompts, and remove the partial one."""
        rows = {one.pop("index"): one for one in read_rows(self.path)[1:]}
        write_rows(self.out, (rows[index] for index in sorted(rows)))
        self.path.unlink()


def row(index: int, record: Record, samples: Sequence[Generation]) -> dict[str, Any]:
    """What the file holds for one prompt, and its index."""
    made: dict[str, Any] = {
        "index": index,
        "id": record.id,
        "prompt": record.prompt,
        "responses": [one.text for one in samples],
        "finish_reasons": [one.finish_reason for one in samples],
        "tokens": [len(one.token_ids) for one in samples],
    }
    if samples[0].logprobs is not None:
        made["logprobs"] = [one.logprobs for one in samples]
    return made


def _prompt(record: Record, plain: bool) -> Messages | str:
    if record.plain and plain:
        return "".join(one["content"] for one in record.prompt)
    return record.prompt


def _digest(prompts: list[Messages]) -> str:
    return hashlib.sha256(json.dumps(prompts, ensure_ascii=False).encode()).hexdigest()[:16]
