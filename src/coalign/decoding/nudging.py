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

from coalign.checks.arms import measure_arms, seconds_spent
from coalign.checks.rules import decide, mean_of, most_seeds, paired_gaps, values_of
from coalign.checks.system_arms.guided_arms import alone, begun, ensembled, nudged
from coalign.checks.worlds.addition_world import make_world
from coalign.core.catalogue import get
from coalign.core.errors import ConfigError
from coalign.core.files import append_rows, read_rows, write_rows
from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, option, options_of, required
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.decoding.collaboration.guided import BASE, NUDGING, Guided, Settings, guide, nudged_words
from coalign.decoding.collaboration.mixtures import (
    ENSEMBLE_TOP,
    PLAIN,
    PROXY_TOP,
    ensemble,
    mix,
    proxy_tuning,
)
from coalign.decoding.collaboration.report import write_guided_report
from coalign.decoding.collaboration.speakers import Length, Talk
from coalign.decoding.collaboration.two_models import TwoModels, open_models
from coalign.decoding.collaboration.two_prompts import PromptOptions
from coalign.decoding.in_context.token_shift import assert_same_tokens
from coalign.measures.statistics import mcnemar
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.methods import Method, MethodModels
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling


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
    )
    base_chunk_tokens: Count = option(16, "tokens of one turn of the base model", source="official code")
    nudging_chunk_tokens: Count = option(
        16, "tokens that the aligned model proposes at a time", source="official code"
    )
    max_rounds: Count = option(150, "an answer ends after so many turns", source="official code")
    nudging_temperature: NonNegative | None = option(
        None, "temperature of the aligned model; by default that of the base model"
    )
    combine: Literal["nudging", "ensemble", "proxy-tuning"] = option(
        "nudging", "nudging, or a baseline that mixes the models' distributions token by token"
    )
    plain_model: str | None = option(
        None, "the small model before its alignment, for proxy-tuning", source="required by proxy-tuning"
    )

    def __post_init__(self) -> None:
        if (self.combine == "proxy-tuning") != (self.plain_model is not None):
            raise ValueError("combine: proxy-tuning needs plain_model, and nothing else takes it")
        if self.combine != "nudging":
            defaults = {one.name: one.default for one in options_of(NudgingOptions)}
            for name in ("gamma", "nudging_chunk_tokens", "max_rounds", "nudging_temperature"):
                if getattr(self, name) != defaults[name]:
                    raise ValueError(f"{name} has no effect with combine: {self.combine}; leave it out")


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
    seed: int = option(0, "of sampling")
    rows: Count | None = option(None, "answers written at a time; by default as memory allows")

    def __post_init__(self) -> None:
        NudgingOptions.__post_init__(self)
        MethodModels.__post_init__(self)


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
        choose, sides = (
            (ensemble, (BASE, NUDGING))
            if options.combine == "ensemble"
            else (proxy_tuning, (BASE, NUDGING, PLAIN))
        )
        return mix(
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
    aligned = {one.name: getattr(models, one.name) for one in options_of(ModelOptions)}
    aligned |= {"model": options.nudging_model, "revision": options.nudging_revision}
    opened = open_models(
        models,
        models,
        ModelOptions(**aligned),
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
    tops = {"nudging": 0, "ensemble": ENSEMBLE_TOP, "proxy-tuning": PROXY_TOP}
    temperature = options.nudging_temperature
    return TwoModels(
        models=opened,
        make=partial(make_talk, options),
        prompts=options,
        temperatures={} if temperature is None else {NUDGING: temperature},
        alternatives=tops[options.combine],
        batch_size=rows,
    )


METHOD = Method(
    "nudging",
    "a small aligned model puts in words where the base model is uncertain",
    NudgingOptions,
    build=make_generator,
)


def run(config: Config, run: Run) -> None:
    """Answer every prompt; rows in `artefacts/answers.jsonl`, one as soon as it is there."""
    from coalign.data.readers import read_records

    records = read_records(str(config.prompts), kind="prompt").records
    path = run.artefacts / "answers.jsonl"
    done = {row["index"] for row in read_rows(path, repair=True)}
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
    generator.write(
        [record.prompt for record in records],
        sampling,
        done=done,
        on_answer=lambda found: append_rows(
            path, (answer_row(index, records[index], mine, generator.length) for index, mine in found.items())
        ),
        label="Answering",
    )
    rows = sorted(read_rows(path), key=lambda row: row["index"])
    write_rows(path, rows)
    write_guided_report(run, config, rows)


def answer_row(index: int, record: Any, answers: list[Guided], length: Length) -> dict[str, Any]:
    """What the file holds for one prompt: the first answer in full, further samples beside it."""
    made = [_answer(one, length) for one in answers]
    more = {"samples": made[1:]} if len(made) > 1 else {}
    return {"index": index, "id": record.id, "prompt": record.prompt, **made[0], **more}


def _answer(answer: Guided, length: Length) -> dict[str, Any]:
    """`tokens` and `nudge_tokens` are counted piece by piece, so that they add up; the last nudge, which ends the
    answer, counts in neither `nudge_words` nor `nudge_tokens`."""
    words, share = nudged_words(answer.text, answer.nudges)
    nudges = [length(one) for one in answer.nudges]
    closing = nudges[-1] if answer.turns and not answer.turns[-1].ended else 0
    return {
        "answer": answer.text,
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


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """A base model that can add, nudged by a small one that knows how answers look, beats both, in a world of sums.

    The base model with the first words of an answer is reported and has no part in the rule.
    """
    arms = {
        "base": partial(alone, "base"),
        "base, answer begun": begun,
        "aligned": partial(alone, "aligned"),
        "nudged": nudged,
        "ensemble": ensembled,
    }
    rows = measure_arms(run, seeds=seeds, prepare=make_world, arms=arms)
    accuracy = {arm: values_of(rows, "accuracy", arm) for arm in arms}
    better = "base" if mean_of(accuracy["base"]) >= mean_of(accuracy["aligned"]) else "aligned"
    gaps = {
        seed: accuracy["nudged"][seed] - max(accuracy["base"][seed], accuracy["aligned"][seed])
        for seed in accuracy["nudged"]
    }
    won, lost = (
        round(sum(values_of(rows, f"{what} against {better}", "nudged").values())) for what in ("won", "lost")
    )
    p = mcnemar(won, lost)
    ratio = mean_of(values_of(rows, "nudge ratio", "nudged"))
    unsure, sure = (
        mean_of(values_of(rows, f"models differ, {where}", "nudged")) for where in ("below 0.3", "above 0.8")
    )
    hits = {seed: gap >= 0.05 for seed, gap in gaps.items()}
    return Verdict(
        slug="nudging",
        outcome=decide(seen=most_seeds(hits) and p < 0.05 and ratio < 0.5),
        claim=get("nudging").claim,
        rule="Seen: the nudged answers' accuracy is above that of both models alone by 0.05 or more in at least 4 of 5 "
        "seeds, McNemar's exact test against the better of the two (by mean accuracy), pooled over seeds, gives p < "
        "0.05, and the mean share of nudged words is below 0.5. Otherwise not seen.",
        setting="Sums of two numbers of two digits, worked out in words. Base: transformer of 3 layers and width 96, 700 steps "
        "on documents in which a question is followed by a solution in one of 8 x 3 x 3 x 5 ways of writing or, as often, by "
        "unrelated text, which begins with one of 4 words, so that it never answers by itself. Aligned: 1 layer and width 32, 500 steps on answers in one way of "
        "writing. One vocabulary of words. 300 held-out questions, greedy, gamma 0.4, at most 60 tokens; an answer's number "
        'is what follows "The answer is", else its last number. Mended after its first run, under the same rule: there the '
        "base model answered by itself and was right on every question, and the aligned model (2 layers) on 96 %, so that no "
        "arm could be better by 0.05.",
        measures=rows,
        summary={
            "seeds that hit": sum(hits.values()),
            "accuracy, nudged - better of both": mean_of(gaps),
            "better alone": better,
            "pooled p": p,
            "nudged words": ratio,
            "accuracy, nudged - ensemble": mean_of(paired_gaps(rows, "accuracy", "nudged", "ensemble")),
            "accuracy, nudged - base with its answer begun": mean_of(
                paired_gaps(rows, "accuracy", "nudged", "base, answer begun")
            ),
            "models differ where the base is below 0.3": unsure,
            "models differ where the base is above 0.8": sure,
        },
        tried=[
            (
                "The world before it was mended, in which the base model answers by itself: accuracy of the base model "
                "1.000, aligned 0.960, nudged 0.972, ensemble 1.000, with 10 % of the words nudged (not seen)."
            ),
            (
                "Proposals of the aligned model of 8, 4 and 2 tokens in place of 16, seed 0: accuracy 0.667, 1.000 and 1.000 "
                "against 0.500. Where a proposal holds the end of the answer it is taken whole, here with the number."
            ),
        ],
        seconds=seconds_spent(run),
    )


__all__ = ["METHOD", "Config", "NudgingOptions", "check", "make_generator", "run"]
