"""URIAL: a base model answers like an assistant after a constant prompt with a few restyled examples; no training.

The Unlocking Spell on Base LLMs: Rethinking Alignment via In-Context Learning (arXiv 2312.01552).

    coalign run urial --prompts prompts.jsonl --model BASE
    coalign run urial --analysis token-shift --prompts prompts.jsonl --model BASE --aligned-model CHAT

Prompting: system text, k examples in a constant style and the conversation, as blocks between fences; the answer ends
where the model would invent the next query. The texts are our own in the spirit of the published ones; `--style`
takes others. Token shift: the aligned model answers, both models read the answer, and every position is unshifted,
marginal or shifted by the rank of its token under the base model.

Differences from the published code: a stop text cuts an answer where it first occurs, not by its characters; the
divergence of a position is over the whole vocabulary (that over two short lists is `token_shift.list_similarities`);
a long conversation loses its oldest turns and never the examples; one pass per answer takes the place of one per
token. `--legacy-spacing` gives the first version's line breaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from coalign.core.options import Count, Seed, option, required
from coalign.core.runs import Run
from coalign.decoding.in_context.generator import InContextGenerator, InContextOptions, make_prefix
from coalign.decoding.in_context.prefix import Style
from coalign.decoding.in_context.ratings import RatingOptions, open_judge, rate_answers, safety_flags
from coalign.loops.rows import answer_rows
from coalign.models.backends.open import open_generator
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.methods import Method, MethodModels
from coalign.models.types import Generator
from coalign.training.distributed.leading import led


@dataclass(kw_only=True)
class UrialOptions(InContextOptions):
    """What stands before a conversation, and how answers are read."""

    __group__ = "Prompt"


def wrap(options: UrialOptions, inner: Generator) -> InContextGenerator:
    """The method around a generator."""
    return InContextGenerator(inner, make_prefix(options), options)


METHOD = Method(
    "urial", "a base model answers as an assistant by in-context examples", UrialOptions, wrap=wrap
)


@dataclass(kw_only=True)
class Config(UrialOptions, SamplingOptions, RatingOptions, MethodModels):
    """Options of `coalign run urial`."""

    __group__ = "Method"

    prompts: Path = required("file of prompts, in any form that coalign reads")
    analysis: Literal["answers", "token-shift"] = option(
        "answers",
        "answer the prompts, or compare the base model with a model aligned from it, token by token",
    )
    aligned_model: str | None = option(
        None, "for token-shift: the aligned model; a hub id, a model folder, a run folder or `default`"
    )
    max_new_tokens: Count = option(
        512, "most tokens of one answer", source="our choice; official scripts 2048"
    )
    temperature: float = option(
        0.0, "divides the logits; 0 takes the most probable token", source="official code"
    )
    compare: bool = option(False, "answer every prompt without system text and examples, too")
    seed: Seed = option(0, "of sampling")

    def __post_init__(self) -> None:
        super().__post_init__()
        shift = self.analysis == "token-shift"
        if shift != (self.aligned_model is not None):
            raise ValueError("analysis: token-shift needs aligned_model, and nothing else takes it")
        if shift and (self.compare or self.judge_model or self.chosen_backend == "endpoint"):
            raise ValueError("analysis: token-shift takes no compare, judge_model or endpoint")
        if shift:
            self.refuse(UrialOptions, "with analysis: token-shift")
        if self.temperature < 0:
            raise ValueError(f"temperature: {self.temperature}, expected 0 or more")


@led
def run(config: Config, run: Run) -> None:
    """Answer every prompt, or analyse the token shift; rows are kept as soon as they are there."""
    from coalign.data.readers import read_records

    records = read_records(str(config.prompts), kind="prompt").records
    if config.analysis == "token-shift":
        from coalign.decoding.in_context.token_shift_run import run_token_shift

        run_token_shift(config, run, records)
        return
    from coalign.decoding.in_context.report import write_answers_report

    harmful = safety_flags(records, config.safety_column) if config.judge_model else []
    prefix = make_prefix(config)
    inner = open_generator(config, config)
    arms = {**({"without-examples": ""} if config.compare else {}), "answers": prefix}
    rows = {
        name: answer_rows(
            run.artefacts / f"{name}.jsonl",
            records,
            partial(InContextGenerator, inner, text, config),
            config.sampling(seed=config.seed),
            label=f"Answering ({name})",
            beside={"generator": f"urial ({config.style})" if text else "base model"},
        )
        for name, text in arms.items()
    }
    ratings = None
    if config.judge_model:
        ratings = rate_answers(
            run,
            open_judge(run, config, config.device),
            rows,
            harmful,
            may_skip=config.judge_readout == "text",
            max_failures=config.max_failures,
        )
    write_answers_report(run, config, records, rows, ratings)


__all__ = ["METHOD", "Config", "InContextGenerator", "Style", "UrialOptions", "run", "wrap"]
