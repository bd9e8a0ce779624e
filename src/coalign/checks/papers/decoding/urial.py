"""Check of `urial`: token shift in the world of villages; the form of answers to everyday questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from coalign.checks.arms import Measures, keep_items, kept_items, measure_arms
from coalign.checks.rules import decide, most_seeds, settled
from coalign.checks.worlds.prompts.everyday_questions import QUESTIONS
from coalign.checks.worlds.words.villages import StyledWorld, make_styled_world, right_facts
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.decoding.in_context.generator import InContextGenerator
from coalign.decoding.in_context.prefix import Style, load_style, prefix_of
from coalign.decoding.in_context.report import has_list, has_loop, has_offer
from coalign.decoding.in_context.token_shift import CLASSES, Shift, place_share
from coalign.decoding.in_context.token_shift_run import compare_answers
from coalign.decoding.urial import UrialOptions
from coalign.measures.statistics import mcnemar
from coalign.models.backends.open import open_transformers
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions
from coalign.models.types import Generator, Sampling

SHIFT, WITHOUT, WITH = "token shift", "without examples", "three examples"
LONGEST, NEW_TOKENS = 90, 80
EARLY, LATE = (0.0, 0.2), (0.5, 1.0)
"""Parts of an answer, by place: its first fifth and its second half."""
SHIFTED = str(CLASSES.index("shifted"))


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Tuning for a style shifts few positions, mostly early ones; and three examples give a base model's answers
    their form.

    The first part in a world of villages, where the base model's reading is known; the second with the default model
    without its chat template.

    Rule:
        Token shift is seen: in at least 4 of 5 seeds at most 25 % of all positions are shifted (so 75 % are unshifted
        or marginal), and the shifted share in the first fifth of the answers is at least 1.5 times that in their second
        half. Prompting is seen: the share of well-formed answers, mean over the orders of the examples, is above that
        without examples by 0.15 or more, and a two-sided sign test over queries (mean over the orders against without;
        ties left out) gives p < 0.05. Well-formed: ended by a stop text or the end token within 80 tokens, not empty,
        and no four words in a row three times. Seen: both. Mixed: one. Not seen: none.

    Setting:
        Token shift: 60 villages with five facts each. Base: transformer of 2 layers and width 64, 500 steps from
        scratch on articles, lists, letters and query pages with unstyled answers. Aligned: the same weights, 120 steps
        on queries about 40 of the villages, answered with an opening, a numbered list, a summary and an offer of help.
        200 queries about the other 20, greedy; 5 seeds. Prompting: SmolLM2-135M-Instruct without its chat template is a
        stand-in for a base model (it is tuned, and no untuned model of this size is at hand); 60 everyday questions,
        greedy, 80 new tokens, the same query block without a prefix and after system text and three short examples of
        our own (245 tokens) in three orders. What the rule does not read, lists and offers of help, is reported beside
        it.
    """
    orderings = min(seeds, 3)
    base = cache(lambda: open_transformers(ModelOptions(device="cpu")))

    def with_prefix(material: Prompting) -> InContextGenerator:
        return InContextGenerator(material.base, prefix_of(material.style), UrialOptions(style="brief"))

    def plain(material: Prompting) -> InContextGenerator:
        return InContextGenerator(material.base, "", UrialOptions())

    rows = measure_arms(run, seeds=seeds, prepare=make_styled_world, arms={SHIFT: shift_arm(run)})
    for name, make, count in ((WITHOUT, plain, 1), (WITH, with_prefix, orderings)):
        rows += measure_arms(
            run,
            seeds=count,
            prepare=lambda seed: Prompting(seed, base()),
            arms={name: answers_arm(run, name, make)},
        )
    shifts = [shift_figures(row["classes"]) for row in kept_items(run, SHIFT, seeds)]
    hits = {
        seed: one["shifted"] <= 0.25 and one["shifted, first fifth"] >= 1.5 * one["shifted, second half"]
        for seed, one in enumerate(shifts)
    }
    (before,) = (row["well_formed"] for row in kept_items(run, WITHOUT, 1))
    after = [row["well_formed"] for row in kept_items(run, WITH, orderings)]
    won, lost = signs(before, after)
    gain = settled(fmean(fmean(one) for one in after) - fmean(before))
    shift_seen, prompting_seen = most_seeds(hits), gain >= 0.15 and won > lost and mcnemar(won, lost) < 0.05
    return rows.verdict(
        check,
        outcome=decide(seen=shift_seen and prompting_seen, not_seen=not shift_seen and not prompting_seen),
        summary={
            "token shift": "seen" if shift_seen else "not seen",
            "seeds that hit": sum(hits.values()),
            **{f"positions: {name}": fmean(one[name] for one in shifts) for name in shifts[0]},
            "prompting": "seen" if prompting_seen else "not seen",
            "well-formed, three examples - without": gain,
            "queries won": won,
            "queries lost": lost,
            "p of the sign test": mcnemar(won, lost),
        },
    )


def shift_arm(run: Run) -> Callable[[StyledWorld], Measures]:
    """Greedy answers of the aligned model, both models reading them; the classes of all positions are kept."""

    def measure(world: StyledWorld) -> Measures:
        found: dict[int, list[Shift]] = {}
        base, aligned = (TransformersGenerator(one, world.tokenizer) for one in (world.base, world.aligned))
        compare_answers(
            base,
            aligned,
            [[{"role": "user", "content": one.text}] for one in world.queries],
            Sampling(max_new_tokens=LONGEST, temperature=0.0),
            on_answer=lambda index, _, shifts: found.update({index: shifts}),
        )
        answers = [found[index] for index in range(len(world.queries))]
        classes = ["".join(str(CLASSES.index(one.position_class)) for one in answer) for answer in answers]
        keep_items(run, SHIFT, world.seed, classes=classes)
        texts = [world.tokenizer.decode([one.token for one in answer]) for answer in answers]
        right = [
            right_facts(world.facts, one, str(text)) for one, text in zip(world.queries, texts, strict=True)
        ]
        return {**shift_figures(classes), "tokens": fmean(map(len, answers)), "right facts": fmean(right)}

    return measure


def shift_figures(answers: Sequence[str]) -> Measures:
    """Shares of positions, from one digit a position (its place in `CLASSES`): each class, and shifted ones among the
    first fifth and the second half of the answers.
    """
    every = "".join(answers)
    shares = {name: every.count(str(place)) / len(every) for place, name in enumerate(CLASSES)}
    shifted = [[one == SHIFTED for one in answer] for answer in answers]
    return {
        **shares,
        "shifted, first fifth": place_share(shifted, *EARLY),
        "shifted, second half": place_share(shifted, *LATE),
    }


@dataclass(frozen=True)
class Prompting:
    """A base model, and by its seed the order of three examples: each stands once in every place."""

    seed: int
    base: TransformersGenerator

    @property
    def style(self) -> Style:
        style = load_style("brief", 3)
        turn = self.seed % 3
        return Style(style.system, style.examples[turn:] + style.examples[:turn])


def answers_arm(
    run: Run, name: str, make: Callable[[Prompting], Generator], questions: Sequence[str] = QUESTIONS
) -> Callable[[Prompting], Measures]:
    """Greedy answers to everyday questions; what each came to is kept."""

    def measure(material: Prompting) -> Measures:
        prompts: list[Any] = list(questions)
        sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=0.0)
        found = [one[0] for one in make(material).generate(prompts, sampling, label=name)]
        texts = [one.text for one in found]
        closed = [one.finish_reason == "stop" for one in found]
        well_formed = [
            ended and bool(text) and not has_loop(text) for ended, text in zip(closed, texts, strict=True)
        ]
        keep_items(run, name, material.seed, well_formed=[int(one) for one in well_formed], texts=texts)
        return {
            "well-formed": fmean(well_formed),
            "ended": fmean(closed),
            "not empty": fmean(map(bool, texts)),
            "in a loop": fmean(map(has_loop, texts)),
            "with a list": fmean(map(has_list, texts)),
            "offers help": fmean(map(has_offer, texts)),
            "words": fmean(len(one.split()) for one in texts),
        }

    return measure


def signs(before: Sequence[float], after: Sequence[Sequence[float]]) -> tuple[int, int]:
    """(won, lost) items: those whose mean over several conditions is above, and below, the value before."""
    means = [fmean(values) for values in zip(*after, strict=True)]
    pairs = list(zip(before, means, strict=True))
    return sum(b < a for b, a in pairs), sum(b > a for b, a in pairs)
