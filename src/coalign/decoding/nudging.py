"""Nudging: a small aligned model puts in words where a large base model is uncertain; nothing is trained.

Nudging: Inference-time Alignment of LLMs via Guided Decoding (arXiv 2410.09300).

    coalign run nudging --prompts prompts.jsonl --model BASE --nudging-model SMALL

The base model writes while its largest next-token probability is at least gamma. Where it is below, the small model
speaks until the base model is certain again or agrees with the next word. Texts, not tokens, are exchanged, so the two
may have different tokenizers. The loop, its guards and its order are those of the published code (`decoding.guided`);
the aligned model decides where the answer ends.

Differences from the published code, none of which changes a greedy answer: both models keep their caches, all words
of a chunk are put before the base model in one pass, and many answers are written at a time. Lengths are counted in
tokens of the base model, not of another vendor's tokenizer; a character that takes several tokens is kept whole.
`--combine` runs the baselines `ensemble` and `proxy-tuning` instead, for models with one vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import ConfigError
from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, Seed, option, required
from coalign.core.runs import Run
from coalign.decoding.collaboration import mixtures
from coalign.decoding.collaboration.guided import BASE, NUDGING, Guided, Settings, guide, nudged_words
from coalign.decoding.collaboration.report import write_guided_report
from coalign.decoding.collaboration.speakers import Length, Talk
from coalign.decoding.collaboration.two_models import TwoModels, open_models
from coalign.decoding.collaboration.two_prompts import PromptOptions
from coalign.decoding.in_context.token_shift import assert_same_tokens
from coalign.loops.rows import Keep, fill_rows
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.methods import Method, MethodModels
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.training.distributed.leading import led

BASELINES = {
    "ensemble": (mixtures.ensemble, (BASE, NUDGING), mixtures.ENSEMBLE_TOP),
    "proxy-tuning": (mixtures.proxy_tuning, (BASE, NUDGING, mixtures.PLAIN), mixtures.PROXY_TOP),
}
"""How each chooses a token, among which models, and how many of their most probable tokens it looks at."""


@dataclass(kw_only=True)
class NudgingOptions(PromptOptions):
    """The small aligned model and how it steps in."""

    __group__ = "Nudging"

    nudging_model: str = required("small aligned model: a hub id, a model folder, a run folder or `default`")
    nudging_revision: str | None = option(None, "its branch, tag or commit on the hub")
    nudging_endpoint: str | None = option(
        None, "server of the aligned model; --nudging-model is its name there"
    )
    gamma: NonNegative = option(
        0.4,
        "the base model is uncertain below this probability",
        source="paper: 0.4 for Llama 2 and OLMo, 0.3 for Gemma 2",
        only_with={"combine": "nudging"},
    )
    base_chunk_tokens: Count = option(16, "tokens of one turn of the base model", source="official code")
    nudging_chunk_tokens: Count = option(
        16,
        "tokens that the aligned model proposes at a time",
        source="official code",
        only_with={"combine": "nudging"},
    )
    max_rounds: Count = option(
        150, "an answer ends after so many turns", source="official code", only_with={"combine": "nudging"}
    )
    nudging_temperature: NonNegative | None = option(
        None,
        "temperature of the aligned model; by default that of the base model",
        only_with={"combine": "nudging"},
    )
    combine: Literal["nudging", "ensemble", "proxy-tuning"] = option(
        "nudging", "nudging, or a baseline that mixes the models' distributions token by token"
    )
    plain_model: str | None = option(
        None, "the small model before its alignment, for proxy-tuning", source="required by proxy-tuning"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.combine == "proxy-tuning") != (self.plain_model is not None):
            raise ValueError("combine: proxy-tuning needs plain_model, and nothing else takes it")


@dataclass(kw_only=True)
class Config(NudgingOptions, MethodModels):
    """Options of `coalign run nudging`."""

    __group__ = "Method"

    prompts: Path = required("file of prompts, in any form that coalign reads")
    max_new_tokens: Count = option(512, "an answer ends at this length", source="official code")
    temperature: NonNegative = option(
        0.0, "divides the logits; 0 takes the most probable token", source="paper"
    )
    top_p: Fraction = option(0.9, "sample from the tokens that together reach this", source="official code")
    top_k: CountOrZero = option(0, "sample from this many most probable tokens; 0 means all")
    stop: list[str] = option([], "texts that end an answer; they are not part of it")
    samples: Count = option(1, "answers to each prompt")
    seed: Seed = option(0, "of sampling")
    rows: Count | None = option(None, "answers written at a time; by default as memory allows")


def make_talk(options: NudgingOptions, sampling: Sampling, length: Length, remote: bool) -> Talk[Guided]:
    """The method on one answer.

    Raises:
        ConfigError: a temperature for a baseline, which takes the most probable token of its mixture.
    """
    if options.combine != "nudging":
        if sampling.temperature > 0:
            raise ConfigError(
                f"temperature: {options.combine} takes the most probable token of its mixture; expected 0."
            )
        choose, sides, _ = BASELINES[options.combine]
        return mixtures.mix(
            choose, sides, length, max_length=sampling.max_new_tokens, chunk_tokens=options.base_chunk_tokens
        )
    settings = Settings(
        gamma=options.gamma,
        base_tokens=options.base_chunk_tokens,
        nudging_tokens=options.nudging_chunk_tokens,
        max_length=sampling.max_new_tokens,
        max_rounds=options.max_rounds,
        stop=sampling.stop,
        # A server is paid by the token and the first word is usually the last: few words first, then more.
        window=1 if remote else 0,
        window_growth=2,
    )
    return guide(settings, length)


def make_generator(options: NudgingOptions, models: MethodModels, *, rows: int | None = None) -> TwoModels:
    """Both models, opened, as one generator.

    Raises:
        ModelError: a baseline over models on this machine with different tokenizers.
    """
    opened = open_models(
        models,
        models,
        ModelOptions.of(models, model=options.nudging_model, revision=options.nudging_revision),
        options.nudging_endpoint,
        options.nudging_model,
        options.plain_model,
    )
    local = [one.tokenizer for one in opened.values() if isinstance(one, TransformersGenerator)]
    if options.combine != "nudging":
        for other in local[1:]:
            assert_same_tokens(
                local[0], other, hint=f"{options.combine} mixes distributions over one vocabulary."
            )
    temperature = options.nudging_temperature
    return TwoModels(
        models=opened,
        make=partial(make_talk, options),
        prompts=options,
        temperatures={} if temperature is None else {NUDGING: temperature},
        alternatives=BASELINES[options.combine][2] if options.combine in BASELINES else 0,
        batch_size=rows,
    )


METHOD = Method(
    "nudging",
    "a small aligned model puts in words where the base model is uncertain",
    NudgingOptions,
    build=make_generator,
)


@led
def run(config: Config, run: Run) -> None:
    """Answer every prompt; rows in `artefacts/answers.jsonl`, one as soon as it is there."""
    from coalign.data.readers import read_records

    records = read_records(str(config.prompts), kind="prompt").records
    generator = make_generator(config, config, rows=config.rows)
    run.log("models", what=generator.description)
    if config.combine != "nudging" and config.stop:
        raise ConfigError(f"stop: has no effect with combine: {config.combine}.")
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        n=config.samples,
        seed=config.seed,
        stop=tuple(config.stop),
    )

    def work(done: list[int], keep: Keep) -> None:
        generator.write(
            [record.prompt for record in records],
            sampling,
            done=done,
            on_batch=lambda found: keep(
                {index: answer_row(records[index], mine, generator.length) for index, mine in found.items()}
            ),
            label="Answering",
        )

    rows = fill_rows(run.artefacts / "answers.jsonl", [one.id for one in records], work)
    write_guided_report(run, config, rows)


def answer_row(record: Any, answers: list[Guided], length: Length) -> dict[str, Any]:
    """What the file holds for one prompt: how the first answer came about, that of further `samples` beside it."""
    made = [_facts(one, length) for one in answers]
    row = {
        "prompt": record.prompt,
        "responses": [one.text for one in answers],
        "finish_reasons": [one.finish_reason for one in answers],
        "tokens": [one.pop("tokens") for one in made],
    }
    return {**row, **made[0], **({"samples": made[1:]} if len(made) > 1 else {})}


def _facts(answer: Guided, length: Length) -> dict[str, Any]:
    """`tokens` and `nudge_tokens` are counted piece by piece, so that they add up; the last nudge, which ends the
    answer, counts in neither `nudge_words` nor `nudge_tokens`.
    """
    words, share = nudged_words(answer.text, answer.nudges)
    nudges = [length(one) for one in answer.nudges]
    closing = nudges[-1] if answer.turns and not answer.turns[-1].ended else 0
    return {
        "nudges": answer.nudges,
        "rounds": answer.rounds,
        "ends": [one.ended for one in answer.turns],
        "stop_reason": answer.stop_reason,
        "nudge_words": words,
        "nudge_ratio": share,
        "tokens": sum(nudges) + sum(length(one.base) for one in answer.turns),
        "nudge_tokens": sum(nudges) - closing,
        "spans": [list(one) for one in answer.spans()],
    }


__all__ = ["METHOD", "Config", "NudgingOptions", "make_generator", "run"]
