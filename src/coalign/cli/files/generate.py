"""`coalign generate`: responses to a file of prompts, continued where it stopped."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coalign.cli.files.output import SHARD_ROWS, Output
from coalign.cli.flags import command, method_values_of, with_declining, with_methods
from coalign.core.engines.options import EngineOptions
from coalign.core.errors import ConfigError
from coalign.core.options import Count, CountOrZero, Seed, option, options_of, required
from coalign.models.backends.options import BackendOptions, assert_spreadable
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.models.tools.options import ToolOptions

if TYPE_CHECKING:
    from coalign.data.records import Messages, Record


@dataclass(kw_only=True)
class Request(ModelOptions, SamplingOptions, BackendOptions, ToolOptions, EngineOptions):
    """What is generated, with what, and where it goes."""

    __group__ = "General"

    prompts: str = required("file of prompts in any form that coalign reads, or - for standard input")
    out: Path = required(
        "file of the responses, written whole, at the end: JSON Lines, or by its name Parquet (.parquet) or a WebDataset tar (.tar)"
    )
    shard_rows: Count | None = option(None, SHARD_ROWS)
    overwrite: bool = option(False, "replace --out")
    reward: list[str] = option(
        [],
        "look for text with this reward, NAME:ARGUMENTS@WEIGHT: max_words:20, must_include:river,stone@2, model:PATH, "
        "judge:CRITERION; may be given several times. Without --method the method is deal, on an endpoint or vLLM "
        "best-of-n",
        split=False,
    )
    decline_below: float | None = option(
        None, "decline where the --reward of an answer is lower: the method selective, around every other"
    )
    stop: list[str] = option(
        [], "text that ends a response (\\n is a line break); may be given several times", split=False
    )
    prefill: str = option("", "begin every response with this text")
    samples: Count = option(1, "responses to each prompt")
    seed: Seed = option(0, "seed of the sampling")
    logprobs: bool = option(False, "also write the log-probability of every sampled token")
    top_logprobs: CountOrZero = option(0, "also write so many of the most probable tokens at every place")
    json_schema: Path | None = option(
        None, "file of a JSON schema that every response must fit (extra `grammar`)"
    )
    plain: bool = option(False, "continue plain-text prompts as they are, without the chat template")
    batch_size: Count | None = option(None, "most samples in a batch; by default as the device allows")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stop = [one.replace("\\n", "\n").replace("\\t", "\t") for one in self.stop]
        alone = ("prefill", "plain", "logprobs", "top_logprobs", "json_schema")
        without = [one for one in alone if getattr(self, one)]
        if self.engine == "ray":
            assert_spreadable(self)
            if self.tools:
                raise ConfigError("--engine ray does not go with --tools, which take several turns.")
        if self.tools and without:
            raise ConfigError(
                f"--{without[0].replace('_', '-')} does not go with --tools, which take several turns."
            )


@command(Request)
@with_methods("--method", "--align")
def generate(asked: Request, methods: tuple[str, ...], method_values: tuple[str, ...]) -> None:
    """Generate responses to a file of prompts.

    One row a prompt: id, prompt, responses, finish_reasons, tokens (null where an endpoint does not say), and images
    where the prompt shows pictures, which an image-text-to-text model or an endpoint sees (not with --tools). The same
    command continues after an interruption; finished rows wait in FILE.jsonl.partial.
    """
    from coalign.data.checking.usable import picture_hashes
    from coalign.data.readers import read_records

    if asked.decline_below is not None:
        methods, method_values = with_declining(methods, method_values, asked.decline_below, asked.reward)
    else:
        if asked.reward and not methods:
            methods = ("deal" if asked.chosen_backend == "transformers" else "best-of-n",)
        method_values = (*method_values, *(f"reward={one}" for one in asked.reward))
    values = method_values_of(methods, method_values)
    out, prefill = asked.out, asked.prefill or None
    output = Output(out, asked.shard_rows, asked.overwrite)
    spread = asked.engine == "ray"
    records = read_records(asked.prompts, kind="prompt", pictures=not asked.tools, many=spread).records
    shown = picture_hashes(records)
    if asked.plain and not all(record.plain for record in records):
        raise ConfigError(
            "--plain: the prompts are messages.", hint="Give them as text, or leave --plain out."
        )
    if asked.plain and prefill is not None:
        raise ConfigError("--prefill begins an assistant's turn, which --plain has not.")
    from coalign.models.backends.open import identity_of

    grammar = None
    if asked.json_schema is not None:
        from coalign.models.grammars.schemas import read_schema

        grammar = read_schema(asked.json_schema)
    wanted = ("samples", "seed", "logprobs", "top_logprobs", "plain", "batch_size")
    settings = {
        **{one.name: getattr(asked, one.name) for one in options_of(SamplingOptions)}, **_model_settings(asked),
        **{name: getattr(asked, name) for name in wanted}, "prefill": prefill,
        **({one.name: getattr(asked, one.name) for one in options_of(ToolOptions)} if asked.tools else {}),
        **({"json_schema": grammar.schema} if grammar else {}), "methods": list(methods), "options": values, "identity": identity_of(asked, asked), "prompts": _digest(records, shown),
    }  # fmt: skip
    partial = output.partial
    output.begin(settings)
    toolbox = asked.open_tools() if asked.tools else None

    from coalign.core.engines.spool import View
    from coalign.loops.rows import answer_file, answer_rows, trajectory_rows
    from coalign.models.backends.open import describe_generator
    from coalign.models.methods import open_methods

    opened = functools.partial(open_methods, methods, values, asked, batch_size=asked.batch_size)
    if spread:
        from coalign.models.backends.workers import SpreadGenerator

        generator = SpreadGenerator(opened, asked, asked)
    else:
        generator = opened()
    click.echo(" over ".join([*methods, describe_generator(generator, asked.model)]), err=True)
    output.rows([one.id for one in records], "prompt")
    sampling = asked.sampling(
        n=asked.samples,
        seed=asked.seed,
        logprobs=asked.logprobs,
        top_logprobs=asked.top_logprobs,
        grammar=grammar,
    )
    if toolbox is not None:
        from coalign.models.tools.agent import Agent

        agent = Agent(generator, toolbox, max_steps=asked.max_steps)
        click.echo(f"With {', '.join(toolbox.names)}: {agent.prompts.description}.", err=True)
        rows = trajectory_rows(partial, records, agent, sampling)
        toolbox.close()
    else:
        tokenizer = getattr(generator, "tokenizer", None)
        as_text = asked.plain or (tokenizer is not None and not tokenizer.chat_template and not methods)
        given = View(records, functools.partial(_prompt, plain=as_text, prefill=prefill))
        how: dict[str, Any] = {"asked": given if spread else list(given), "label": "Generating"}
        answer = answer_file if spread else answer_rows
        rows = answer(partial, records, lambda: generator, sampling, **how)
    told = output.write(rows, len(rows))
    stats = getattr(generator, "last_stats", None)
    if stats is not None and toolbox is None:
        click.echo(
            f"{stats.samples} samples, {stats.tokens} tokens in {stats.seconds:.1f} s: "
            f"{stats.samples_per_second:.2f} samples/s, {stats.tokens_per_second:.0f} tokens/s",
            err=True,
        )
    click.echo(told)


def _model_settings(asked: Request) -> dict[str, Any]:
    """What decides over the text: a run is continued with the same."""
    kind = asked.chosen_backend
    endpoint = ("endpoint", "endpoint_model", "endpoint_prefill")
    names = endpoint if kind == "endpoint" else ("model", "revision", "dtype", "chat_template")
    return {"backend": kind, **{name: getattr(asked, name) for name in names}}


def _prompt(record: Record, plain: bool, prefill: str | None) -> Messages | str:
    from coalign.data.media.conversations import showing

    if record.plain and plain and prefill is None and not record.pictures:
        return "".join(one["content"] for one in record.prompt)
    prompt = showing(record.prompt, record.pictures)
    return prompt if prefill is None else [*prompt, {"role": "assistant", "content": prefill}]


def _digest(records: Sequence[Record], shown: Sequence[Sequence[str]]) -> str:
    """A hash of the prompts as one JSON list, and of their pictures where there are some."""
    made, before = hashlib.sha256(), "["
    for record, seen in zip(records, shown, strict=True):
        prompt = [record.prompt, seen] if seen else record.prompt
        made.update(f"{before}{json.dumps(prompt, ensure_ascii=False)}".encode())
        before = ", "
    made.update(b"]")
    return made.hexdigest()[:16]
