"""AFT: make correct reasoning likelier than wrong reasoning without wrecking the model.

Making Large Language Models Better Reasoners with Alignment (arXiv 2309.02144).

    coalign run aft --data questions.jsonl --model default

A fine-tuned model samples solutions whose final answers can be checked; a contrastive loss on the length-averaged
log-probabilities puts every correct one above every wrong one, beside the fine-tuning loss on the reference
solution. Wrong solutions are mostly sensible text, so a constraint keeps the loss from destroying them: `detached`
stops their gradient, `boundary` pulls back what falls below a boundary. Groups may be binary or ranked, of any size.

Questions with reference solutions (demonstrations; GSM8K's files as they are) go the paper's whole way: fine-tuning,
sampling, marking by the final answer (`coalign.preference.data.solutions`), alignment, and the share of held-out questions
answered rightly before and after. Rankings, pairs and feedback on one prompt are aligned on as they are.

Reconstruction: the paper has no public code, and the threshold of the boundary constraint is our reading:
`T = 2 s* - 2 beta - s_i`, s* the lowest score ranked above the negative, held constant in the gradient, so that both
pulls balance at `s* - beta`. A form that only clips differences, `exp(max(s_n - s_p, -tau))`, circulates and is not
the authors'. The boundary 0.15 suits scores that differ by tenths of a nat; where they differ by whole nats it pulls
wrong solutions up, and 1 is better. The number of pairs grows with the product of the sets: cap both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.data.records import Demonstration
from coalign.data.sources import named
from coalign.preference.data.own_solutions import OF_QUESTIONS, SolutionOptions, learn_own_solutions
from coalign.preference.data.solutions import with_reference
from coalign.training.learning import learn
from coalign.training.losses.listwise import best_responses, ordered_pairs, ranking_metrics
from coalign.training.losses.numerics import log1p_sum_exp
from coalign.training.losses.supervised import nll_loss
from coalign.training.material import Material, read_material
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective

if TYPE_CHECKING:
    from torch import Tensor

Constraint = Literal["none", "detached", "boundary"]


def aft_loss(
    scores: Tensor,
    values: Tensor,
    record_index: Tensor,
    *,
    constraint: Constraint = "detached",
    beta: float = 0.15,
) -> Tensor:
    """`L_A = log( 1 + sum over pairs i above j of exp(s_j - s_i) [+ exp(T - s_j)] )`, one value a record.

    For a binary group the pairs are all (correct, wrong) pairs; for a ranking all ordered pairs.

    Args:
        scores: [B] length-averaged log-probabilities of the responses of R records, laid end to end.
        values: [B] higher is better; 1 and 0 for a binary group. Equal values and NaN make no pair.
        record_index: [B] the record of each response, non-decreasing.
        constraint: `none`; `detached`: no gradient through the lower response; `boundary`: adds, for each pair,
            `exp(T - s_j)` with the constant `T = 2 s*_j - 2 beta - s_i`.
        beta: distance of the boundary below s*_j, the lowest score ranked above j, in nats per token.

    Returns:
        [R] losses, not reduced; 0, still connected to the graph, for a record without a pair.
    """
    better, worse = ordered_pairs(values, record_index)
    lower = scores.detach() if constraint == "detached" else scores
    terms = lower[worse] - scores[better]
    index = record_index[better]
    if constraint == "boundary":
        with torch.no_grad():
            infinite = torch.full_like(scores, torch.inf)
            lowest_above = infinite.scatter_reduce(0, worse, scores[better], "amin")
            threshold = 2 * lowest_above[worse] - 2 * beta - scores[better]
        terms, index = torch.cat([terms, threshold - scores[worse]]), torch.cat([index, index])
    return log1p_sum_exp(terms, index, int(record_index[-1]) + 1 if len(record_index) else 0)


def imitated_responses(values: Tensor, record_index: Tensor) -> tuple[Tensor, Tensor]:
    """([T], [T]) records and rows of the responses to fine-tune on: at most one a record.

    The first response of value NaN (a reference solution, not ranked); without one, the first of the highest value,
    unless all are tied: nothing says then that it is good.
    """
    unranked = values.isnan()
    first_unranked = best_responses(unranked.to(torch.float32), record_index)
    has_reference = unranked[first_unranked]
    better, _ = ordered_pairs(values, record_index)
    ranked = torch.zeros_like(has_reference)
    ranked[record_index[better]] = True
    rows = torch.where(has_reference, first_unranked, best_responses(values, record_index))
    records = (has_reference | ranked).nonzero().squeeze(-1)
    return records, rows[records]


@dataclass(kw_only=True)
class Constants:
    """Constants of AFT."""

    __group__ = "Objective"

    constraint: Constraint = option("detached", "what protects wrong but sensible text", source="paper")
    beta: Positive = option(
        0.15,
        "boundary below the worst better response, nats per token",
        source="attributed to the paper, unconfirmed",
    )
    align_weight: NonNegative = option(1.0, "lambda, weight of the alignment term", source="paper")


@objective(
    "aft",
    data="ranking",
    reference=False,
    constants=Constants,
    equation=r"-\tfrac{1}{|y^*|}\log \pi_\theta(y^*|x) + \lambda \log\left(1 + \sum_{i \succ j} e^{s_j - s_i} \left[+\, e^{T_{ij} - s_j}\right]\right), \quad T_{ij} = 2 s^*_j - 2\beta - s_i",
    when="Sampled solutions that a program can mark right or wrong, or rankings, beside reference solutions.",
)
def aft(batch: ScoredBatch, constants: Constants) -> Losses:
    """AFT (arXiv 2309.02144): fine-tuning on the reference solution plus the alignment loss.

    A response of value NaN is the reference solution; without one the best response is imitated, and nothing where
    all are tied. `rewards/accuracies` is the paper's assessment accuracy.
    """
    scores = batch.policy.means()
    groups, kind = (batch.values, batch.record_index), constants.constraint
    align = aft_loss(scores, *groups, constraint=kind, beta=constants.beta)
    records, rows = imitated_responses(*groups)
    nll = nll_loss(batch.policy.sums()[rows], batch.policy.lengths[rows], reduction="mean")
    losses = (constants.align_weight * align).index_add(0, records, nll)
    metrics = {"losses/align": align.detach(), "nll": nll.detach(), **ranking_metrics(batch, scores)}
    return Losses(losses, metrics)


@dataclass(kw_only=True)
class Config(Constants, SolutionOptions):
    """Options of `coalign run aft`."""

    __group__ = "Method"

    reference_column: str | None = option(
        None,
        "of rankings, the column with the reference solution, which is imitated and not ranked; else the best response "
        "is imitated",
    )


def run(config: Config, run: Run) -> None:
    """Train AFT on the model's own solutions to questions with reference solutions, or on given rankings.

    Demonstrations: fine-tune, sample solutions, mark them by their final answers, align. Rankings, pairs and feedback
    on one prompt (a group of right and wrong solutions) are aligned on as they are.

    Raises:
        ConfigError: an option that has no effect on such data.
        DataError: a question without a final answer, or none to which right and wrong solutions were sampled.
    """
    material = read_material(config, "ranking", run, also=["demonstration"])
    demonstrations = all(isinstance(one, Demonstration) for one in material.training)
    if not demonstrations and any(isinstance(one, Demonstration) for one in material.training):
        raise DataError(
            f"{named(config.data)}: a mix of demonstrations, to which solutions are sampled, and of given responses.",
            hint="Give one or the other.",
        )
    unused, why = (("reference_column",), "the completion is the reference solution")
    if not demonstrations:
        unused, why = OF_QUESTIONS, "the responses are given"
    if changed := config.changed(unused):
        raise ConfigError(f"{changed[0]} has no effect on such data: {why}; leave it out")
    if demonstrations:
        learn_own_solutions(config, get_objective("aft"), run, material)
        return
    if config.reference_column is not None:
        column = config.reference_column
        material = Material(
            with_reference(material.training, column),
            with_reference(material.held_out, column),
            [*material.notes, f"The reference solution is the column {column!r}"],
        )
    learn(config, get_objective("aft"), run, material=material)
