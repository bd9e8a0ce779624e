"""What checks on given records train on and measure: rankings, human negatives, quoted criticism, scored replies.

Everything is short, so that three seeds take minutes on one core: few records of few tokens, one a step, an adapter
on the default model (`checks/text_training.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor, nn

from coalign.checks import real_text
from coalign.checks.arms import Measures
from coalign.checks.real_text import mean_logps, open_model, short, text_logps
from coalign.checks.text_training import sampled
from coalign.core.errors import DataError
from coalign.data.encoding import encode_response
from coalign.data.records import (
    Demonstration,
    Judgment,
    Messages,
    Preference,
    PromptRecord,
    Ranking,
    Record,
)
from coalign.preference.critiques.judgments import is_appropriate, judgment_contexts
from coalign.preference.data.anchors import anchor, human_negatives
from coalign.preference.data.goal_conditioning import Placement, Scale, goal_placement, with_goal
from coalign.training.losses.listwise import ranking_accuracies

QUOTED = re.compile(r"[\"“]([^\"“”]{3,200})[\"”]")
PRAISED = re.compile(r"\b(should|would|could|correct|corrected|revised|itself is)\b", re.IGNORECASE)
"""Words before a quotation in its sentence that make it a better answer, or a part that is fine."""
SENTENCE = re.compile(r"[.!?]\s")


def share_in_order(groups: Sequence[Ranking], model: nn.Module | None = None) -> float:
    """Share of pairs of a better and a worse response that log-probabilities averaged over tokens order rightly, mean
    over the rankings.

    Args:
        model: by default the default model.
    """
    scores = torch.tensor([one for row in mean_logps(groups, model) for one in row])
    values = torch.tensor([one for group in groups for one in group.scores])
    owners = torch.tensor([row for row, group in enumerate(groups) for _ in group.scores])
    return float(ranking_accuracies(scores, values, owners).nanmean())


@dataclass(frozen=True)
class NegativeText:
    """Pairs, and their rejected responses beside samples of the default model.

    Attributes:
        rankings: the samples (score 1) and the rejected response (score 0, last) to each prompt.
        before: for each ranking the summed log-probabilities of its responses under the default model.
    """

    seed: int
    pairs: list[Preference]
    rankings: list[Ranking]
    before: list[list[float]]

    @property
    def rejected(self) -> list[Demonstration]:
        """The rejected responses alone."""
        return [
            Demonstration(prompt=one.prompt, completion=one.rejected, plain=one.plain) for one in self.pairs
        ]


def negative_text(
    pairs: Sequence[Preference], seed: int, *, prompts: int = 20, samples: int = 3, tokens: int = 160
) -> NegativeText:
    """`prompts` short pairs and `samples` samples of 24 tokens to each of their prompts.

    Raises:
        DataError: too few pairs are short, or no sample is usable.
    """
    taken = short(pairs, prompts, seed, tokens=tokens)
    own = sampled([one.prompt for one in taken], samples, max_new_tokens=24, seed=seed)
    anchored = anchor(human_negatives(taken), own)
    if not anchored.records:
        raise DataError(
            "No sample of the default model is usable: all are empty or equal to the rejected response.",
            anchored.dropped,
        )
    return NegativeText(seed, taken, anchored.records, _sums(anchored.records))


def negative_measures(
    material: NegativeText, model: nn.Module | None, margins: Callable[[Tensor, Tensor], Tensor]
) -> Measures:
    """Mean margin of self-samples over the negative, and cross-entropy of the chosen responses in nats a token.

    Args:
        model: None for the default model.
        margins: ([R] mean log-ratio of the self-samples, [R] log-ratio of the negative) to margins.
    """
    after = material.before if model is None else _sums(material.rankings, model)
    ratios = [
        [new - old for new, old in zip(row, known, strict=True)]
        for row, known in zip(after, material.before, strict=True)
    ]
    found = margins(
        torch.tensor([fmean(row[:-1]) for row in ratios]), torch.tensor([row[-1] for row in ratios])
    )
    chosen = torch.cat([row[0] for row in text_logps(material.pairs, model)])
    return {"margin": float(found.mean()), "nll, chosen": -float(chosen.mean())}


def _sums(rankings: Sequence[Ranking], model: nn.Module | None = None) -> list[list[float]]:
    return [[float(one.sum()) for one in row] for row in text_logps(rankings, model)]


def quoted_spans(answer: str, judgment: str) -> list[tuple[int, int]]:
    """Characters of the answer that the judgment quotes as wrong: our reading of free text.

    Text in double quotes counts where it stands in the answer as whole words, unless words before it in its sentence
    name it a better answer ("the correct answer should be ...").
    """
    spans: list[tuple[int, int]] = []
    for quotation in QUOTED.finditer(judgment):
        before = judgment[: quotation.start()]
        sentence = SENTENCE.split(before)[-1]
        text = quotation.group(1).strip(" .,;:")
        if len(text) < 3 or PRAISED.search(re.sub(QUOTED, "", sentence)):
            continue
        spans += [one.span() for one in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", answer)]
    return sorted(set(spans))


@dataclass(frozen=True)
class QuotedText:
    """Judged answers to train on, and others whose judgments quote them, with a mask of the quoted tokens."""

    seed: int
    training: list[Judgment]
    quoted: list[Judgment]
    masks: list[Tensor]


def criticised(records: Sequence[Judgment]) -> list[Judgment]:
    """The criticised answers; a judge's failure written in its place (`$ERROR$`) is no criticism."""
    return [one for one in records if not is_appropriate(one) and one.judgment.strip("$ ").upper() != "ERROR"]


def quoted_text(
    records: Sequence[Judgment], seed: int, *, training: int = 40, measured: int = 12, tokens: int = 400
) -> QuotedText:
    """Short criticised answers: those that are quoted to measure on, others to train on.

    Raises:
        DataError: there are not so many.
    """
    quoting = [one for one in records if quoted_spans(one.completion, one.judgment)]
    others = [one for one in records if not quoted_spans(one.completion, one.judgment)]
    taken = short(quoting, measured, seed, tokens=tokens, contexts=judgment_contexts)
    learned = short(others, training, seed, tokens=tokens, contexts=judgment_contexts)
    return QuotedText(seed, learned, taken, [_quoted_tokens(one) for one in taken])


def _quoted_tokens(record: Judgment) -> Tensor:
    """[N] true for the tokens of the answer (end of turn included) that touch a quoted character."""
    tokenizer = open_model(real_text.MODEL)[1]
    ids = encode_response(tokenizer, record.prompt, record.completion, plain=record.plain)
    ends = [len(tokenizer.decode(ids[: place + 1])) for place in range(len(ids))]
    spans = quoted_spans(record.completion, record.judgment)
    starts = [0, *ends[:-1]]
    return torch.tensor(
        [
            any(start < last and end > first for first, last in spans)
            for start, end in zip(starts, ends, strict=True)
        ]
    )


def quoted_measures(
    material: QuotedText, model: nn.Module | None, detect: Callable[[Tensor, Tensor], Tensor]
) -> Measures:
    """Inside and outside of what the judgments quote: mean of log(p with the judgment / p without) over tokens, and
    share of tokens that `detect` finds.

    Args:
        detect: ([N] log-probabilities with the judgment, [N] without) to [N] booleans.
    """
    rows = text_logps([one for record in material.quoted for one in judgment_contexts(record)], model)
    plain, judged = (torch.cat([row[0] for row in rows[place::2]]) for place in (0, 1))
    inside, found = torch.cat(material.masks), detect(judged, plain).double()
    ratios = judged - plain
    return {
        "log-ratio, quoted": float(ratios[inside].mean()),
        "log-ratio, not quoted": float(ratios[~inside].mean()),
        "found, quoted": float(found[inside].mean()),
        "found, not quoted": float(found[~inside].mean()),
    }


SCALE = Scale(1, 10)
GOALS = LOW, HIGH = 2, 9
"""Between which the scores of samples are compared."""


def plainness(text: str) -> int:
    """A score from 1 to 10 for short words: 10 up to 3.5 letters a word on average, 3 less for every letter more."""
    words = re.findall(r"[^\W\d_]+", text)
    if not words:
        return 1
    return round(min(10.0, max(1.0, 10 - 3 * (fmean(map(len, words)) - 3.5))))


@dataclass(frozen=True)
class GoalText:
    """Prompts, and pairs of the default model's replies to them of different scores."""

    seed: int
    prompts: list[PromptRecord]
    pairs: list[Preference]

    @property
    def good(self) -> list[Preference]:
        """The pairs whose rejected reply scores at or above the median of the rejected ones."""
        middle = median(_rejected_score(one) for one in self.pairs)
        return [one for one in self.pairs if _rejected_score(one) >= middle]


def goal_text(prompts: Sequence[PromptRecord], seed: int, *, n: int = 24, tokens: int = 64) -> GoalText:
    """`n` short prompts, and the pairs among two replies of 32 tokens to each.

    Raises:
        DataError: to no prompt replies of different scores were sampled.
    """
    taken = short(prompts, n, seed, tokens=tokens)
    replies = sampled([one.prompt for one in taken], 2, max_new_tokens=32, seed=seed)
    pairs: list[Preference] = []
    for record, row in zip(taken, replies, strict=True):
        texts = [one.text.strip() for one in row]
        better, worse = sorted(texts, key=plainness, reverse=True)
        scores = plainness(better), plainness(worse)
        if all(texts) and scores[0] > scores[1]:
            pairs.append(
                Preference(
                    prompt=record.prompt,
                    chosen=better,
                    rejected=worse,
                    chosen_score=scores[0],
                    rejected_score=scores[1],
                    plain=record.plain,
                )
            )
    if not pairs:
        raise DataError("No prompt has two replies of different scores.", hint="Give other prompts.")
    return GoalText(seed, taken, pairs)


def goal_measures(material: GoalText, model: nn.Module | None, goal: float | None) -> Measures:
    """Change of the summed log-probability of good rejected replies from the default model under the prompt that is
    used at inference, nats a reply; for a model of goals also the mean score of samples under a low and a high goal.

    Args:
        goal: that is asked for at inference; None for prompts as they are.
    """
    rejected = [
        Demonstration(prompt=_asked(one, goal), completion=one.rejected, plain=one.plain)
        for one in material.good
    ]
    changes = [
        float(after[0].sum() - before[0].sum())
        for after, before in zip(text_logps(rejected, model), text_logps(rejected), strict=True)
    ]
    measures = {"good rejected, change": fmean(changes)}
    if goal is not None:
        for asked in GOALS:
            prompts = [_asked(one, asked) for one in material.prompts]
            own = sampled(prompts, 2, max_new_tokens=32, seed=material.seed, model=model)
            measures[f"score, goal {asked}"] = fmean(plainness(one.text) for row in own for one in row)
    return measures


def text_placement() -> Placement:
    """Where the goal stands in prompts of the default model."""
    return goal_placement(open_model(real_text.MODEL)[1])


def _asked(record: Record, goal: float | None) -> Messages:
    if goal is None:
        return record.prompt
    return with_goal(record.prompt, goal, scale=SCALE, placement=text_placement())


def _rejected_score(pair: Preference) -> float:
    assert pair.rejected_score is not None
    return pair.rejected_score
