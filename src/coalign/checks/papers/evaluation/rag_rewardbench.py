"""Check of `rag-rewardbench`: rewards learnt from plain preferences, and a language model's likelihood, on answers from passages."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from coalign.checks.arms import Measured, Measures, keep_items, kept_items, measure_arms
from coalign.checks.rules import decide, most_seeds
from coalign.checks.worlds.records.stated_facts import StatedFact, stated_facts
from coalign.core.errors import DataError
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.passages import Passage
from coalign.evaluation.rag_rewardbench import pair_accuracy
from coalign.evaluation.retrieval.pairs import Category, Pair
from coalign.evaluation.retrieval.preferring import length_preferences, preference_credits
from coalign.evaluation.retrieval.scenarios import prompt_of
from coalign.judging.rewards.likelihood import LikelihoodReward, load_likelihood
from coalign.judging.rewards.mix import Draft
from coalign.measures.statistics import bootstrap_mean

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.models.embedding import SentenceEncoder

SCENARIOS: tuple[Category, ...] = ("citation", "abstain", "conflict")
QUESTIONS, SCORED = 60, 10
"""Questions of a seed, half of them to learn from; and how many of the others the language model scores."""
RIGHT = ("The answer is {}.", "It is {}, as the passages say.", "The passages name {} here.")
DECLINED = (
    "The passages leave it open.",
    "The passages do not answer this question.",
    "Nothing here tells that.",
)
LIKELIHOOD, GENERAL, RETRIEVAL = "likelihood", "head, general pairs", "head, retrieval pairs"


@dataclass(frozen=True)
class Split:
    """Pairs to learn from and to test on, four of each question: `helpful` and `SCENARIOS`."""

    seed: int
    training: list[Pair]
    test: list[Pair]


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Rewards that are good at plain preferences are worse where answers rest on passages, and training on such pairs helps.

    Rule:
        Drop: accuracy on plain pairs less the mean accuracy on citation, abstain and conflict pairs, in points, with a 95
        % bootstrap interval over the questions of all seeds. Seen: the drop is at least 10 with an interval above 0 for
        the head trained on plain pairs and for the language model's likelihood, and the head trained on retrieval pairs
        is better on the three by 10 points or more in at least 4 of 5 seeds. Otherwise not seen.

    Setting:
        Facts about drawn places, each stated in three wordings. Plain: the right answer against an answer to another question. Citation: the number of a passage that
        states the answer against that of one that does not. Abstain: four unrelated passages, an answer that says so
        against a confident one. Conflict: three supporting passages and a falsified one, the right against the falsified answer. Equal lengths within two
        words, three wordings. 60 questions a seed, 30 to learn from. Heads: Bradley-Terry on products of MiniLM
        embeddings of response, question and passages, 300 steps of Adam at 0.01. Likelihood: mean token log-probability
        under SmolLM2-135M-Instruct, on 10 of the test questions.
    """
    return _verdict(
        check,
        _measure(run, seeds, lambda seed: stated_facts(seed, QUESTIONS), supporting=3),
        run,
        seeds,
    )


def check_on_data(run: Run, *, seeds: int = 5, data: Path) -> Verdict:
    """The same on RGB's `en_fact.json`, where world knowledge can tell.

    Rule:
        As without data. Drop: accuracy on plain pairs less the mean accuracy on citation, abstain and conflict pairs. Seen:
        at least 10 points with a 95 % bootstrap interval over questions above 0 for the head trained on plain pairs and
        for the language model's likelihood, and the head trained on retrieval pairs is better on the three by 10 points
        or more in at least 4 of 5 seeds. Otherwise not seen.

    Setting:
        {data}: {n} questions with passages that state the answer, a falsified one, or neither; of a seed 60, 30 to learn
        from. Conflict: two supporting and two falsified passages. Else as without data.
    """
    facts = read_rgb(data)
    measured = _measure(
        run,
        seeds,
        lambda seed: random.Random(f"rgb {seed}").sample(facts, min(QUESTIONS, len(facts))),
        supporting=2,
    )
    return _verdict(check_on_data, measured, run, seeds, data=data.name, n=len(facts))


def read_rgb(path: Path) -> list[StatedFact]:
    """The questions of RGB's file of facts (`data/en_fact.json` of chen700564/RGB) that have enough passages.

    Args:
        path: the file, or a folder with it.

    Raises:
        DataError: not such a file.
    """
    file = path / "en_fact.json" if path.is_dir() else path
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        found = [
            StatedFact(row["query"], _first(row["answer"]), _first(row["fakeanswer"]), tuple(row["positive"]),
                       tuple(row["positive_wrong"]), tuple(row["negative"]))
            for row in rows
            if len(row["positive"]) > 1 and len(row["positive_wrong"]) > 1 and len(row["negative"]) > 3
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: not RGB's file of facts ({error}).",
            hint="It is data/en_fact.json of github.com/chen700564/RGB.",
        ) from error
    if len(found) < 2 * SCORED:
        raise DataError(
            f"{file}: {len(found)} questions with enough passages, expected at least {2 * SCORED}."
        )
    return found


def _first(value: Any) -> str:
    return str(_first(value[0]) if isinstance(value, list) else value)


def make_pairs(facts: Sequence[StatedFact], seed: int, *, supporting: int) -> list[Pair]:
    """Four pairs of each fact; of a conflict's four passages so many support the answer."""
    rng = random.Random(f"retrieval pairs {seed}")
    made = []
    for number, fact in enumerate(facts):
        stranger = facts[(number + 1) % len(facts)].answer
        wording = number % len(RIGHT)
        right, wrong, strange = (RIGHT[wording].format(one) for one in (fact.answer, fact.other, stranger))
        shown: dict[Category, list[str]] = {
            "helpful": [*fact.supporting[:3], *fact.unrelated[: 4 - len(fact.supporting[:3])]],
            "citation": [*fact.supporting[:2], *fact.unrelated[:2]],
            "abstain": [*fact.unrelated[:4]],
            "conflict": [*fact.supporting[:supporting], *fact.falsified[: 4 - supporting]],
        }
        for category, texts in shown.items():
            order = rng.sample(texts, len(texts))
            passages = tuple(Passage(str(place), one) for place, one in enumerate(order, 1))
            if category == "citation":
                cited = (
                    rng.choice([order.index(one) + 1 for one in part])
                    for part in (fact.supporting[:2], fact.unrelated[:2])
                )
                chosen, rejected = (f"{right[:-1]} [{one}]." for one in cited)
            else:
                chosen = DECLINED[wording] if category == "abstain" else right
                rejected = strange if category == "helpful" else wrong
            made.append(Pair(
                id=f"{number}-{category}", prompt=prompt_of(fact.question, passages), chosen=chosen, rejected=rejected,
                subset=category, category=category, references=passages,
            ))  # fmt: skip
    return made


def _measure(run: Run, seeds: int, facts: Any, *, supporting: int) -> Measured:
    def prepare(seed: int) -> Split:
        pairs = make_pairs(facts(seed), seed, supporting=supporting)
        half = 4 * (len(pairs) // 8)
        return Split(seed, pairs[:half], pairs[half:])

    arms = {
        "length": lambda split: _figures(length_preferences(split.test, "half").credits, split.test),
        "overlap": lambda split: _figures(_credits(_overlap, split.test), split.test),
        LIKELIHOOD: partial(_likelihood, run),
        GENERAL: partial(_head, run, GENERAL, ("helpful",)),
        RETRIEVAL: partial(_head, run, RETRIEVAL, ("helpful", *SCENARIOS)),
    }
    return measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)


def _verdict(check: Any, rows: Measured, run: Run, seeds: int, **found: Any) -> Verdict:
    drops = {}
    for arm in (GENERAL, LIKELIHOOD):
        kept = [one for row in kept_items(run, arm, seeds) for one in row["drops"]]
        drops[arm] = bootstrap_mean(kept, n=1000)
    gains = rows.gaps("retrieval", RETRIEVAL, GENERAL)
    seen = all(one.mean >= 0.1 and one.low > 0 for one in drops.values())
    return rows.verdict(
        check,
        outcome=decide(seen=seen and most_seeds({seed: one >= 0.1 for seed, one in gains.items()})),
        summary={
            **{f"drop, {arm}": one.mean for arm, one in drops.items()},
            **{f"drop, {arm}, interval, low": one.low for arm, one in drops.items()},
            "gain of training on retrieval pairs": fmean(gains.values()),
            **{f"{name}, {arm}": rows.mean(name, arm) for arm in ("length", "overlap", LIKELIHOOD, GENERAL, RETRIEVAL)
               for name in ("helpful", *SCENARIOS)},
        },
        **found,
    )  # fmt: skip


def _figures(credits: Sequence[float], pairs: Sequence[Pair]) -> Measures:
    names = [one.category for one in pairs]
    found = pair_accuracy(credits, names, {one: one for one in names}).per_category
    return {**found, "retrieval": fmean(found[one] for one in SCENARIOS)}


def _with_drops(run: Run, arm: str, seed: int, credits: Sequence[float], pairs: Sequence[Pair]) -> Measures:
    """The figures; each question's drop is kept."""
    drops = [credits[place] - fmean(credits[place + 1 : place + 4]) for place in range(0, len(credits), 4)]
    keep_items(run, arm, seed, drops=drops)
    return _figures(credits, pairs)


def _credits(score: Any, pairs: Sequence[Pair]) -> tuple[float, ...]:
    return preference_credits([score(one, one.chosen) - score(one, one.rejected) for one in pairs], "half")


def _overlap(pair: Pair, response: str) -> float:
    """Share of the response's words that are in the passages."""
    known = set(" ".join(one.text for one in pair.references).lower().split())
    words = response.lower().rstrip(".").split()
    return sum(one in known for one in words) / len(words)


def _likelihood(run: Run, split: Split) -> Measures:
    pairs = split.test[: 4 * SCORED]
    drafts = [
        Draft(place, one.prompt, text)
        for place, one in enumerate(pairs)
        for text in (one.chosen, one.rejected)
    ]
    values = _language_model().score(drafts)
    credits = preference_credits(
        [one - other for one, other in zip(values[::2], values[1::2], strict=True)], "half"
    )
    return _with_drops(run, LIKELIHOOD, split.seed, credits, pairs)


def _head(run: Run, arm: str, categories: Sequence[Category], split: Split) -> Measures:
    """A linear reward on embeddings, trained on the pairs of these categories, tested on all."""
    training = [one for one in split.training if one.category in categories]
    chosen, rejected = _features(training)
    head = torch.zeros(chosen.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([head], lr=0.01)
    for _ in range(300):
        loss = -torch.nn.functional.logsigmoid((chosen - rejected) @ head).mean() + 1e-3 * head.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        chosen, rejected = _features(split.test)
        credits = preference_credits(((chosen - rejected) @ head).tolist(), "half")
    return _with_drops(run, arm, split.seed, credits, split.test)


def _features(pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """[pairs, F] of the chosen and of the rejected response: its embedding, and its products with those of the question and of
    the passages (their mean), with the three cosines.
    """

    def embedded(texts: list[str]) -> Tensor:
        return _encoder().encode(texts)

    question = embedded(
        [one.prompt[-1]["content"].rpartition("Question: ")[2].removesuffix("\nAnswer:") for one in pairs]
    )
    flat = embedded([each.text for one in pairs for each in one.references]).split(
        [len(one.references) for one in pairs]
    )
    passages = torch.stack([one.mean(0) for one in flat])
    found = []
    for texts in ([one.chosen for one in pairs], [one.rejected for one in pairs]):
        response = embedded(texts)
        nearest = torch.stack([(one @ mine).max() for one, mine in zip(flat, response, strict=True)])
        cosines = torch.stack([(response * question).sum(-1), (response * passages).sum(-1), nearest], -1)
        scale = question.shape[1] ** 0.5  # products of unit vectors are of the order 1 / D
        found.append(
            torch.cat(
                [
                    response * scale,
                    response * question * scale**2,
                    response * passages * scale**2,
                    cosines * scale,
                ],
                -1,
            )
        )
    return found[0], found[1]


@cache
def _encoder() -> SentenceEncoder:
    from coalign.models.embedding import load_encoder

    return load_encoder(device="cpu")


@cache
def _language_model() -> LikelihoodReward:
    return load_likelihood("likelihood", {"path": "default", "reduction": "mean", "device": "cpu"})
