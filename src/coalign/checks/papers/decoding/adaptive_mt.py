"""Check of `adaptive-mt`: fuzzy matches beside random examples in the prompt, on given sentence pairs."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

from coalign.checks.arms import kept_values, measure_arms
from coalign.checks.rules import decide
from coalign.checks.worlds.prompts.translations import TranslationTask, measured
from coalign.core.errors import CoalignError
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.decoding.translation.files import Sentence, read_sentences
from coalign.decoding.translation.memory import TranslationMemory
from coalign.decoding.translation.translator import TranslationOptions, open_memory
from coalign.measures.statistics import paired_bootstrap
from coalign.models.backends.open import open_transformers
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions

CHECK_MEMORY, CHECK_SENTENCES = 1000, 16
ZERO_SHOT, RANDOM = "zero-shot", "2 at random"
FUZZY, REVERSED = "2 fuzzy matches", "2 fuzzy matches, best first"


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Two fuzzy matches in the prompt make the reference likelier than two examples drawn at random.

    Rule:
        Seen: a token of the reference is likelier after 2 fuzzy matches than after 2 random examples by 0.15 nats or
        more in the mean over sentences, the 95 % interval of a bootstrap over all sentences is above 0, and every seed
        has the same sign. Not seen: the interval holds 0 or is below. Mixed: between.

    Setting:
        TICO-19, English to Spanish: a memory of 1000 pairs by seed, 16 of its sentences of 40 to 160 characters, each
        with the others as memory; SmolLM2-135M-Instruct in float32 as a plain language model, all-MiniLM-L6-v2. Greedy
        translations of 4 sentences a seed, 40 tokens, are scored and decide nothing.

    Raises:
        CoalignError: something is not measured yet: that takes data.
    """
    return check_on_data(run, seeds=seeds, data=None)


def check_on_data(run: Run, *, seeds: int = 5, data: Path | None) -> Verdict:
    """The same with the data to measure on.

    Args:
        data: English and Spanish sentences of one domain, tab-separated: TICO-19 (tico-19.github.io), which is not
            part of coalign.

    Raises:
        CoalignError: no data, and something is not measured yet.
    """

    @cache
    def material() -> tuple[list[Sentence], TranslationMemory, TransformersGenerator]:
        if data is None:
            raise CoalignError(
                "This check reads English-Spanish sentence pairs of one domain, which are not part of coalign.",
                hint="Fetch TICO-19 (https://tico-19.github.io) and give it as source, tab, target: --data tico.tsv",
            )
        everything = read_sentences([data], ("en", "es"), targets=True)
        options = TranslationOptions(encoder="default-encoder")
        memory = open_memory(options, [one.unit for one in everything])
        return everything, memory, open_transformers(ModelOptions(device="cpu", dtype="float32"))

    def prepare(seed: int) -> TranslationTask:
        everything, memory, generator = material()
        draw = random.Random(f"translation memory {seed}")
        chosen = draw.sample(range(len(everything)), min(CHECK_MEMORY, len(everything)))
        sentences = [everything[one] for one in chosen]
        short = [place for place, one in enumerate(sentences) if 40 <= len(one.source) <= 160]
        return TranslationTask(seed, sentences, short[:CHECK_SENTENCES], memory.vectors()[chosen], generator)

    prompts: dict[str, Callable[[TranslationTask, int], str]] = {
        ZERO_SHOT: lambda task, one: task.prompt(one, []),
        RANDOM: lambda task, one: task.prompt(one, task.drawn(one)),
        FUZZY: lambda task, one: task.prompt(one, task.nearest(one)),
        REVERSED: lambda task, one: task.prompt(one, task.nearest(one), best_last=False),
    }
    arms = {name: partial(measured, run, name, prompt) for name, prompt in prompts.items()}
    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    fuzzy, drawn = (kept_values(run, name, seeds, "nll") for name in (FUZZY, RANDOM))
    gain = paired_bootstrap(fuzzy, drawn)
    gaps = rows.gaps("nats per token", RANDOM, FUZZY)
    same_sign = all(one > 0 for one in gaps.values())
    similarity = kept_values(run, FUZZY, seeds, "similarity")
    return rows.verdict(
        check,
        outcome=decide(seen=gain.mean >= 0.15 and gain.low > 0 and same_sign, not_seen=not gain.low > 0),
        summary={
            "sentences": gain.n,
            "nats per token, random - fuzzy": gain.mean,
            "its interval, low": gain.low,
            "its interval, high": gain.high,
            "seeds with a gain": sum(one > 0 for one in gaps.values()),
            "nats per token, zero-shot - fuzzy": rows.gap("nats per token", ZERO_SHOT, FUZZY),
            "nats per token, best first - best last": rows.gap("nats per token", REVERSED, FUZZY),
            "correlation of gain and similarity": float(
                np.corrcoef(similarity, np.subtract(drawn, fuzzy))[0, 1]
            ),
            "chrF++, fuzzy - random": rows.gap("chrF++", FUZZY, RANDOM),
        },
    )
