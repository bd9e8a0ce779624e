"""Check of `portia`: order bias of a small judge, on pairs of a full and a thin answer."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np

from coalign.checks.arms import Measures, keep_items, kept_values, measure_arms
from coalign.checks.rules import decide, most_seeds
from coalign.checks.worlds.prompts.answer_pairs import answer_pairs
from coalign.checks.worlds.texts import ASSETS
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Message
from coalign.evaluation.portia import split_and_merge
from coalign.evaluation.position_bias.parts import in_parts
from coalign.judging.order_bias import OrderValues, bias_difference, bias_share, order_values, paired_gain
from coalign.judging.protocol import JudgeItem

PAIRS_A_SEED = 16


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Aligned parts make the verdicts of a small language model depend less on the order of the answers.

    The judge is the default model (SmolLM2-135M-Instruct), its verdict the difference of the log-probabilities of A and
    B, less that for empty answers.

    Rule:
        Over all pairs of all seeds. Seen: PORTIA's consistency is above the plain prompt's by 5 points or more with p <
        0.05 (one-sided bootstrap over pairs) and not below it in at least 4 of 5 seeds; or its bias share is lower by
        0.05 or more with a 95 % bootstrap interval below 0, and lower in at least 4 of 5 seeds. Not seen: consistency
        is lower, or within 2 points with the bias share within 0.02. Mixed: between.

    Setting:
        Judge: SmolLM2-135M-Instruct, d = log P(A) - log P(B) of the first token of its reply, less d for empty answers.
        16 pairs a seed of a full and a thin answer of four sentences; k = 3. Bias share: mean |d12 + d21| / (mean |d12
        + d21| + mean |d12 - d21|), d21 with the answers swapped.
    """
    names = ("plain", "equal parts", "PORTIA", "parts, not in turn")
    arms = {name: partial(_judged, run, name) for name in names}
    rows = measure_arms(run, seeds=seeds, prepare=int, arms=arms)
    pairs = {name: np.array(kept_values(run, name, seeds, "values")) for name in arms}
    gain = paired_gain(pairs["plain"][:, 2], pairs["PORTIA"][:, 2])
    bias = bias_difference(pairs["plain"], pairs["PORTIA"])
    gaps = rows.gaps("bias share", "PORTIA", "plain")
    rates = rows.gaps("consistent", "PORTIA", "plain")
    by_rate = (
        gain.mean >= 0.05
        and (gain.p_value or 0.0) < 0.05
        and most_seeds({s: g >= 0 for s, g in rates.items()})
    )
    by_bias = bias.mean <= -0.05 and bias.high < 0 and most_seeds({s: g < 0 for s, g in gaps.items()})
    near = abs(gain.mean) <= 0.02 and abs(bias.mean) <= 0.02
    return rows.verdict(
        check,
        outcome=decide(
            seen=by_rate or by_bias, not_seen=not (by_rate or by_bias) and (near or gain.mean < 0)
        ),
        summary={
            "pairs": len(pairs["plain"]),
            "consistency, PORTIA - plain": gain.mean,
            "p": gain.p_value,
            "bias share, PORTIA - plain": bias.mean,
            "interval, low": bias.low,
            "interval, high": bias.high,
            "bias share, parts not in turn - plain": rows.gap("bias share", "parts, not in turn", "plain"),
            "right where consistent, plain": _right(pairs["plain"]),
            "right where consistent, PORTIA": _right(pairs["PORTIA"]),
        },
    )


def _judged(run: Run, arm: str, seed: int) -> Measures:
    """Judge the pairs of a seed; what each came to is kept."""
    from coalign.judging.language_judge import LanguageModelJudge
    from coalign.judging.store import Deferred, ReplyStore
    from coalign.models.backends.open import open_transformers
    from coalign.models.options import ModelOptions

    name = (
        "blocks.j2" if arm == "parts, not in turn" else "turns.j2"
    )  # the control: the same parts, not in turn
    template = Path(shutil.copyfile(ASSETS / f"pair_{name}", run.artefacts / name))
    items = [
        JudgeItem(
            id=f"{seed}-{place}",
            prompt=[Message(role="user", content=one.question)],
            responses=one.answers,
            extra={"better": one.better},
        )
        for place, one in enumerate(answer_pairs(seed, PAIRS_A_SEED))
    ]
    with ReplyStore(run.artefacts / "replies.jsonl") as store:
        judge = LanguageModelJudge(
            Deferred(lambda: open_transformers(ModelOptions(device="cpu"))),
            name="default",
            store=store,
            template=template,
            readout="logprobs",
            calibrate=True,
        )
        if arm == "PORTIA":
            found = [one.comparison for one in split_and_merge(judge, items)]
        elif arm == "plain":
            found = judge.compare(items)
        else:
            found = judge.compare([in_parts(item, 3, semantic=False)[0] for item in items])
    better = [("first", "second")[item.extra["better"]] for item in items]
    right = [float(one.outcome == full) for one, full in zip(found, better, strict=True)]
    values = np.array([[*order_values(one), full] for one, full in zip(found, right, strict=True)])
    keep_items(run, arm, seed, values=values.tolist())
    return {
        "consistent": float(values[:, 2].mean()),
        "bias share": bias_share(values),
        "for the first": float(np.mean([one.shown_choice == "first" for c in found for one in c.opinions])),
        "right where consistent": _right(values),
    }


def _right(values: OrderValues) -> float:
    """Share of the full answer among consistent verdicts; 0 where there are none."""
    return float(values[:, 3].sum() / max(values[:, 2].sum(), 1.0))
