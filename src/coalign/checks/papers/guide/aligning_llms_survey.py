"""Check of `aligning-llms-survey`: a small judge prefers a place, and asking it in both orders makes it err less."""

from __future__ import annotations

import random
from functools import partial

from coalign.checks.arms import Measures, keep_items, kept_values, measure_arms
from coalign.checks.rules import decide, gaps_between, mean_of, most_seeds
from coalign.checks.worlds.prompts.answer_pairs import answer_pairs
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Message
from coalign.guide.judges.probe import error_probe, order_probe
from coalign.judging.protocol import Choice, JudgeItem
from coalign.measures.statistics import mcnemar

PAIRS_A_SEED = 24


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """A language model as a judge prefers a place, and verdicts on which both orders agree are wrong less often.

    Rule:
        Seen: over all pairs of all seeds, those that go to one place in both orders go to the same one more often than
        chance allows (p < 0.05, two-sided, exact), and the error among pairs on which both orders agree is below that of
        a single order in the mean and in at least 4 of 5 seeds. Not seen: no preference (p of 0.05 or more), or an error
        that is not lower in the mean. Mixed: between.

    Setting:
        Judge: SmolLM2-135M-Instruct, asked for one letter, the likelier of A and B as the first token of its reply. 24
        pairs a seed of an answer of four sentences and the same answer with its words shuffled, which of them stands
        first drawn.
    """
    rows = measure_arms(run, seeds=seeds, prepare=int, arms={"judge": partial(_probed, run)})
    places = kept_values(run, "judge", seeds, "places")
    first, second = sum(one == 1 for one in places), sum(one == 2 for one in places)
    p_value = mcnemar(first, second)
    single, both = rows.values("error, one order", "judge"), rows.values("error, both orders", "judge")
    gaps = gaps_between(both, single)
    prefers, better = p_value < 0.05, mean_of(gaps) < 0
    return rows.verdict(
        check,
        outcome=decide(
            seen=prefers and better and most_seeds({seed: gap < 0 for seed, gap in gaps.items()}),
            not_seen=not prefers or not better,
        ),
        summary={
            "pairs": len(places),
            "verdicts that turn with the order": rows.mean("turned", "judge"),
            "to the first place in both orders": first,
            "to the second": second,
            "p": p_value,
            "error, one order": mean_of(single),
            "error, both orders agree": mean_of(both),
            "pairs on which both agree": rows.mean("kept", "judge"),
        },
    )


def pairs_of(seed: int, count: int) -> list[tuple[JudgeItem, Choice]]:
    """An answer and the same words in a drawn order, with which of them is the answer."""
    rng = random.Random(f"shuffled words {seed}")
    found: list[tuple[JudgeItem, Choice]] = []
    for place, one in enumerate(answer_pairs(seed, count)):
        good = one.answers[one.better]
        words = good.split()
        rng.shuffle(words)
        first = rng.random() < 0.5
        responses = (good, " ".join(words)) if first else (" ".join(words), good)
        prompt = [Message(role="user", content=one.question)]
        item = JudgeItem(id=f"{seed}-{place}", prompt=prompt, responses=responses)
        found.append((item, "first" if first else "second"))
    return found


def _probed(run: Run, seed: int) -> Measures:
    from coalign.judging.language_judge import LanguageModelJudge
    from coalign.judging.store import Deferred, ReplyStore
    from coalign.models.backends.open import open_transformers
    from coalign.models.options import ModelOptions

    items, better = zip(*pairs_of(seed, PAIRS_A_SEED), strict=True)
    with ReplyStore(run.artefacts / "replies.jsonl") as store:
        judge = LanguageModelJudge(
            Deferred(lambda: open_transformers(ModelOptions(device="cpu"))),
            name="default",
            store=store,
            form="choice",
            readout="logprobs",
        )
        found = judge.compare(list(items))
    shown = [[opinion.shown_choice for opinion in one.opinions] for one in found]
    places = [1 if one == ["first"] * 2 else 2 if one == ["second"] * 2 else 0 for one in shown]
    keep_items(run, "judge", seed, places=places)
    errors = error_probe(found, [(one,) for one in better]) or {}
    both = errors["both_orders"]
    return {
        "turned": order_probe(found)["turned"]["mean"],
        "error, one order": errors["one_order"],
        # Where no pair is kept there is nothing to be right about: a coin's error.
        "error, both orders": 0.5 if both is None else both,
        "kept": errors["kept"],
    }
