"""What a choice among strategies says: the recommendation with its interval, every score beside it, lengths, truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from coalign.core.runs import Run
from coalign.curation.answer_styles.questions import Shown, is_right
from coalign.curation.answer_styles.scores import Better, Ranking, against_truth
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import estimate


class Score(NamedTuple):
    """What a score is called, and which way it is good."""

    title: str
    better: Better


SCORES = {
    "self_aligned": Score("Self-aligned perplexity", "lower"),
    "perplexity": Score("Perplexity", "lower"),
    "log_probability": Score("Log-probability of the answer", "higher"),
    "ifd": Score("IFD", "lower"),
    "car": Score("CAR", "higher"),
    "hidden_state": Score("Dissimilarity of hidden states", "lower"),
}


@dataclass(frozen=True)
class Selected:
    """What was scored and chosen.

    Attributes:
        rankings: by score; `rank_by` decides.
        shown: the questions.
        pool: own answers that examples were taken from.
        accuracies: after tuning, where they are known.
    """

    rankings: Mapping[str, Ranking]
    rank_by: str
    shown: Sequence[Shown]
    pool: int
    accuracies: Mapping[str, float]

    @property
    def ranking(self) -> Ranking:
        return self.rankings[self.rank_by]

    @property
    def chosen(self) -> str:
        return self.ranking.chosen

    def words(self) -> dict[str, float]:
        """Strategy to the mean words of its answers."""
        return {
            name: fmean(len(one.question.answers[name].completion.split()) for one in self.shown)
            for name in self.ranking.scores
        }

    def right(self) -> dict[str, float]:
        """Strategy to the share of its answers whose final answer is right; empty where the right ones are not known."""
        known = [one.question for one in self.shown if one.question.gold is not None]
        return {
            name: fmean(is_right(one.answers[name].completion, str(one.gold)) for one in known)
            for name in (self.ranking.scores if known else ())
        }

    def truth(self) -> dict[str, tuple[float | None, float]]:
        """Score to (rank correlation with the accuracies, what its choice loses to the best)."""
        if not self.accuracies:
            return {}
        found = {
            name: against_truth(one.scores, self.accuracies, SCORES[name].better)
            for name, one in self.rankings.items()
        }
        return {name: (None if math.isnan(rho) else rho, regret) for name, (rho, regret) in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "chosen": self.chosen,
            "rank_by": self.rank_by,
            "questions": len(self.shown),
            "scores": {
                name: {
                    "strategies": dict(one.scores),
                    "order": list(one.order),
                    "ranks": one.ranks(),
                    "share_of_resamples": dict(one.shares),
                    "lead": one.lead.to_dict() if one.lead else None,
                }
                for name, one in self.rankings.items()
            },
            "words": self.words(),
            "right": self.right(),
            "truth": {
                name: {"spearman": rho, "regret": regret} for name, (rho, regret) in self.truth().items()
            },
        }


def write_selection_report(
    run: Run, config: Any, selected: Selected, notes: Sequence[str], *, answers: int
) -> doc.Report:
    """Write the report and the headline of `status.json`."""
    ranking, names = selected.ranking, list(selected.ranking.order)
    score = SCORES[selected.rank_by]
    lead = ranking.lead
    clear = lead is not None and lead.low > 0
    sure = f"it is first in {100 * ranking.shares[selected.chosen]:.0f} % of resamples"
    doubt = (
        "its lead excludes 0"
        if clear
        else f"its lead over {names[1]} does not exclude 0: score more questions"
    )
    text = f"{selected.chosen} suits {config.model} best by {score.title.lower()}: {sure}, and {doubt}."
    return publish(
        run,
        config,
        title=f"Answers of {len(names)} strategies for {short_name(config.model)}",
        verdict=doc.Headline(
            "neutral",
            text,
            [
                doc.Figure("Recommended", selected.chosen),
                doc.Figure(f"{score.title}, of it", ranking.scores[selected.chosen], better=score.better),
                doc.Figure(
                    f"Lead over {names[1]}",
                    lead.mean if lead else None,
                    difference=estimate(lead) if lead else None,
                    note=f"{len(selected.shown)} questions",
                ),
            ],
        ),
        facts={
            "Model": full_name(config.model),
            "Questions": str(len(selected.shown)),
            "Own answers": str(selected.pool),
            "Ranked by": score.title,
        },
        sections=[_strategies(selected), _scores(selected), *_truth(selected), _samples(selected)],
        notes=notes,
        limitations=[
            "Style is ranked, not rightness: a fluent wrong answer scores well. Give --gold where right answers are known.",
            "Scores of another model, or of another chat template, cannot be compared with these.",
            "Perplexity is low for long answers that can be foreseen and varies much for short ones: look at the words.",
        ],
        then=[
            doc.Command(
                f"coalign run sft --data {run.path} --model {config.model}",
                f"tune on the {answers} answers of {selected.chosen}",
            )
        ],
        figures={"chosen": selected.chosen, "share_of_resamples": ranking.shares[selected.chosen]},
    )


def _strategies(selected: Selected) -> doc.TableSection:
    """The deciding score, best first."""
    ranking, words, right = selected.ranking, selected.words(), selected.right()
    ranks = ranking.ranks()
    columns = ["strategy", "rank", "score", "first in resamples", "words", *(["right"] if right else [])]
    return doc.TableSection(
        "Strategies",
        note=f"By {SCORES[selected.rank_by].title.lower()}, {SCORES[selected.rank_by].better} is better. Resamples are of the questions.",
        columns=columns,
        rows=[
            [
                name,
                ranks[name],
                ranking.scores[name],
                ranking.shares[name],
                words[name],
                *([right[name]] if right else []),
            ]
            for name in ranking.order
        ],
        units={"rank": "integer", "first in resamples": "percent", "right": "percent"},
    )


def _scores(selected: Selected) -> doc.TableSection:
    names = list(selected.ranking.order)
    return doc.TableSection(
        "All scores",
        note="What each score would choose, and how it ranks the strategies.",
        columns=["score", "better", "chooses", *names],
        rows=[
            [SCORES[name].title, SCORES[name].better, one.chosen, *(one.scores[each] for each in names)]
            for name, one in selected.rankings.items()
        ],
    )


def _truth(selected: Selected) -> list[doc.AnySection]:
    found = selected.truth()
    table = doc.TableSection(
        "Held against accuracies after tuning",
        note="Spearman's correlation over the strategies, and how far the accuracy of the choice is below the best.",
        columns=["score", "correlation", "loss of the choice"],
        rows=[[SCORES[name].title, rho, regret] for name, (rho, regret) in found.items()],
    )
    return [table] if found else []


def _samples(selected: Selected) -> doc.Samples:
    names = list(selected.ranking.order)
    return doc.Samples(
        "Questions and answers",
        columns=names,
        rows=[
            doc.Sample(
                one.question.prompt[-1]["content"],
                [doc.Output(one.question.answers[name].completion) for name in names],
            )
            for one in selected.shown[:20]
        ],
        better="neither",
    )
