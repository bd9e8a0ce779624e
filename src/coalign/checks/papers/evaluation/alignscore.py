"""Check of `alignscore`: splitting and unified training, in the world of facts about boxes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.tiny_models import seeded
from coalign.checks.worlds.facts import boxes
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.evaluation.factuality.functions import headed_scorer
from coalign.evaluation.factuality.model import PairClassifier, joint_sums, weigh
from coalign.evaluation.factuality.pair_scoring import PairEncoder
from coalign.evaluation.factuality.records import Task, TaskRecord, labelled_pair
from coalign.evaluation.factuality.scorer import ClaimScorer
from coalign.evaluation.factuality.training import PairCollator
from coalign.measures.detection import roc_auc

UNIFIED, NLI_ONLY, WHOLE = "unified, split", "NLI only, split", "unified, not split"
TASKS: tuple[Task, ...] = ("nli", "paraphrase", "qa", "sts")


Document = tuple[str, str, bool]
"""Document, claim, and whether the claim is supported."""


@dataclass(frozen=True)
class Learnt:
    """What the arms of the check share: documents with claims, and a model for each training set."""

    documents: list[Document]
    unified: PairClassifier
    nli_only: PairClassifier


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Splitting and unified training find changed facts in long documents, in a small world of facts.

    Rule:
        Seen: the area under the ROC curve with splitting is above that without by 0.05 or more in the mean, and below
        it in no seed. Not seen: by less than 0.02, or below it in a seed. Mixed: between. The gain of unified over
        NLI-only training is reported beside the rule, as there from 0.02 in the mean.

    Setting:
        Facts about 80 boxes with 12 values; an encoder with one attention between the texts, 128 tokens a pair, 88
        words a chunk (a quarter of the paper's lengths). Unified: 1000 pairs each of NLI, paraphrase, question
        answering and similarity; NLI only: its 1000; 300 steps of 32, AdamW 2e-3. 300 documents of 40 to 60 facts with
        claims of three sentences, one of them changed in half of the claims.
    """
    arms = {
        UNIFIED: lambda learnt: _measured(learnt.documents, learnt.unified, splits=True),
        NLI_ONLY: lambda learnt: _measured(learnt.documents, learnt.nli_only, splits=True),
        WHOLE: lambda learnt: _measured(learnt.documents, learnt.unified, splits=False),
    }
    rows = measure_arms(run, seeds=seeds, prepare=_learnt, arms=arms)
    gaps = rows.gaps("AUC", UNIFIED, WHOLE)
    splitting, never_worse = mean_of(gaps), min(gaps.values()) >= 0
    tasks = rows.gap("AUC", UNIFIED, NLI_ONLY)
    return rows.verdict(
        check,
        outcome=decide(seen=splitting >= 0.05 and never_worse, not_seen=splitting < 0.02 or not never_worse),
        summary={
            "AUC, split - not split": splitting,
            "AUC, unified - NLI only": tasks,
            "gain of unified training": "seen" if tasks >= 0.02 else "not seen",
            **{f"AUC, {arm}": rows.mean("AUC", arm) for arm in arms},
        },
    )


def _learnt(seed: int) -> Learnt:
    draw = random.Random(f"{seed}/pairs")
    records = [boxes.training_pair(task, draw) for task in TASKS for _ in range(1000)]
    return Learnt(
        boxes.documents(300, random.Random(f"{seed}/documents")),
        _trained(records, seed),
        _trained([one for one in records if one.task == "nli"], seed),
    )


def _trained(records: list[TaskRecord], seed: int, *, steps: int = 300, rate: float = 2e-3) -> PairClassifier:
    """Heads and encoder from random weights: the joint loss of batches of 32, the rate falling to 0."""
    model = seeded(lambda: PairClassifier(boxes.AligningEncoder()), seed).train()
    collate = PairCollator(PairEncoder(boxes.fact_tokenizer(), boxes.LIMIT))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    draw = random.Random(f"{seed}/order")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            batch = collate([(labelled_pair(draw.choice(records), draw), 0) for _ in range(32)])
            loss = weigh(*joint_sums(model(**batch["inputs"]), batch["pair_labels"]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def _measured(documents: list[Document], model: PairClassifier, *, splits: bool) -> Measures:
    function = headed_scorer(model, boxes.fact_tokenizer(), boxes.LIMIT)
    contexts, claims, labels = zip(*documents, strict=True)
    found = ClaimScorer(function, splits, boxes.WORDS_PER_CHUNK).score(contexts, claims)
    return {
        "AUC": roc_auc(labels, [one.score for one in found]),
        "pairs cut off": sum(one.truncated for one in found),
    }
