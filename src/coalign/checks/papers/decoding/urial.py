"""Check of `urial`: token shift in the world of villages; the form of answers to everyday questions."""

from __future__ import annotations

from functools import cache
from statistics import fmean

from coalign.checks.arms import kept_items, measure_arms
from coalign.checks.papers.decoding import urial_arms
from coalign.checks.rules import decide, most_seeds
from coalign.checks.worlds.words.villages import make_styled_world
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.decoding.in_context.generator import InContextGenerator
from coalign.decoding.in_context.prefix import prefix_of
from coalign.decoding.urial import UrialOptions
from coalign.measures.statistics import mcnemar
from coalign.models.backends.open import open_transformers
from coalign.models.options import ModelOptions


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

    def with_prefix(material: urial_arms.Prompting) -> InContextGenerator:
        return InContextGenerator(material.base, prefix_of(material.style), UrialOptions(style="brief"))

    def plain(material: urial_arms.Prompting) -> InContextGenerator:
        return InContextGenerator(material.base, "", UrialOptions())

    rows = measure_arms(
        run, seeds=seeds, prepare=make_styled_world, arms={urial_arms.SHIFT: urial_arms.shift_arm(run)}
    )
    for name, make, count in ((urial_arms.WITHOUT, plain, 1), (urial_arms.WITH, with_prefix, orderings)):
        rows += measure_arms(
            run,
            seeds=count,
            prepare=lambda seed: urial_arms.Prompting(seed, base()),
            arms={name: urial_arms.answers_arm(run, name, make)},
        )
    shifts = [urial_arms.shift_figures(row["classes"]) for row in kept_items(run, urial_arms.SHIFT, seeds)]
    hits = {
        seed: one["shifted"] <= 0.25 and one["shifted, first fifth"] >= 1.5 * one["shifted, second half"]
        for seed, one in enumerate(shifts)
    }
    (before,) = (row["well_formed"] for row in kept_items(run, urial_arms.WITHOUT, 1))
    after = [row["well_formed"] for row in kept_items(run, urial_arms.WITH, orderings)]
    won, lost = urial_arms.signs(before, after)
    gain = fmean(fmean(one) for one in after) - fmean(before)
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
