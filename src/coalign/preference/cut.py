"""CUT: learn from written criticism, token by token.

Reasons to Reject? Aligning Language Models with Judgments (arXiv 2312.14591). An answer is scored twice by the model
in training: after the prompt alone, and after prompt and judgment. Tokens that become much more likely once the
criticism is visible are the criticised ones: they get an unlikelihood loss under the plain prompt, the rest of the
answer stays likely. The answer under the judged prompt is learned as it is, so that judgments take effect.

    coalign run cut --data judgments.jsonl --model default
    coalign run cut --prompts prompts.jsonl --rounds 5 --critic default

Records are prompt, answer and judgment; an answer whose judgment is null or `None`, or whose verdict is positive,
is fine and learned by likelihood.

With `--prompts` the criticism is of the model's own answers, round after round: each round answers fresh prompts with
the current model, a critic judges (a language model, or programs that check the prompts' `constraints`), and CUT
trains on the judged answers. Data, models and criticism of every round stay in the run folder.

Differences from the official code. It averages over the tokens of a micro-batch, in which the published recipe has
one record; here every record's loss is averaged over its own tokens, which gives that recipe for any batch size. One
weight holds for all records. Probabilities are kept as logarithms. The judged prompt has our own wording, in the
chat template of the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge

from coalign.core.errors import ConfigError
from coalign.core.options import Count, NonNegative, option
from coalign.core.runs import Run
from coalign.data.records import Judgment
from coalign.data.sources import DataSources, named
from coalign.loops.labelling import run_labelling
from coalign.models.backends.options import PolicyBackendOptions
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.types import ResponseLogps
from coalign.preference.critiques.critics import CriticOptions
from coalign.preference.critiques.judgments import (
    align_answers,
    check_judgments,
    judgment_contexts,
    mix_judgments,
)
from coalign.preference.critiques.report import write_judged_report
from coalign.preference.critiques.rounds import make_judged_loop
from coalign.training.distributed.leading import led
from coalign.training.learning import learn
from coalign.training.losses.numerics import log1mexp
from coalign.training.material import ObjectiveOptions, read_material
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_COMPLEMENT = 1e-5
"""`1 - p` is held above this in the unlikelihood."""


def inappropriate_tokens(judged_logps: Tensor, plain_logps: Tensor, *, threshold: float) -> Tensor:
    """[N] true where `p(y_t | x, j, y_<t) / p(y_t | x, y_<t) > threshold`: the criticised tokens. No gradient.

    Args:
        judged_logps, plain_logps: [N] token log-probabilities of the same answer after the prompt with the judgment
            and after the prompt alone, compared by order. bfloat16 flips ratios near 1: pass float32 or more.
        threshold: lambda of the paper, at least 1.
    """
    return (judged_logps - plain_logps).detach() > math.log(threshold)


def contrast_token_loss(plain_logps: Tensor, inappropriate: Tensor, *, unlikelihood_weight: float) -> Tensor:
    """[N] `-log p` of appropriate tokens, `-alpha log(1 - p)` of inappropriate ones: the terms of the paper's L_1.

    `1 - p` is held above 1e-5; where that cuts in, the token has no gradient.

    Args:
        plain_logps: [N] token log-probabilities after the prompt alone.
        inappropriate: [N] see `inappropriate_tokens`.
        unlikelihood_weight: alpha.
    """
    unlikelihood = -log1mexp(plain_logps.clamp(max=math.log1p(-SMALLEST_COMPLEMENT)))
    return torch.where(inappropriate, unlikelihood_weight * unlikelihood, -plain_logps)


def cut_loss(contrast: Tensor, likelihood: Tensor, judged: Tensor) -> Tensor:
    """[R] `(L_1 + L_2) / 2` for judged records, `L_2` for the others.

    Args:
        contrast: [R] L_1, `contrast_token_loss` averaged over the answer; not read where there is no judgment.
        likelihood: [R] L_2, negative log-likelihood averaged over the answer, after the judgment where there is one.
        judged: [R] true for criticised records.
    """
    return torch.where(judged, (contrast + likelihood) / 2, likelihood)


@dataclass(kw_only=True)
class CUTConstants:
    """Constants of CUT."""

    __group__ = "Objective"

    threshold: Annotated[float, Ge(1)] = option(
        1.2,
        "ratio of probabilities above which a token is inappropriate; 1.1 when judgments come from a loop",
        source="official code, offline recipe",
    )
    unlikelihood_weight: NonNegative = option(
        0.5,
        "weight of the unlikelihood of inappropriate tokens; 1 when judgments come from a loop",
        source="official code, offline recipe",
    )


@objective(
    "cut",
    data="judgment",
    reference=False,
    constants=CUTConstants,
    contexts=judgment_contexts,
    prepare=align_answers,
    equation=r"\tfrac12 (L_1 + L_2), \quad L_1 = -\tfrac1N \Big[\sum_{t \notin U} \log p_\theta(y_t|x) + \alpha \sum_{t \in U} \log(1 - p_\theta(y_t|x))\Big], \quad L_2 = -\tfrac1N \sum_t \log p_\theta(y_t|x, j), \quad U = \Big\{t : \tfrac{p_\theta(y_t|x,j)}{p_\theta(y_t|x)} > \lambda\Big\}",
    when="Answers come with written criticism rather than scores or pairs; keep a quarter of fine answers among them.",
)
def cut(batch: ScoredBatch, constants: CUTConstants) -> Losses:
    """CUT (arXiv 2312.14591). A record's rows: the answer after the plain prompt, then, if judged, after the judged one.

    Raises:
        ValueError: a record has more rows, or its answer is cut differently under its two prompts.
    """
    rows = torch.bincount(batch.record_index)
    judged = rows == 2
    plain = rows.cumsum(0) - rows
    if bool((rows > 2).any()):
        raise ValueError("CUT scores an answer under one or two prompts, found more")
    lengths = batch.policy.lengths
    if not torch.equal(lengths[plain[judged]], lengths[plain[judged] + 1]):
        raise ValueError("the answer of a record has not the same tokens under its two prompts")
    plain_logps = _tokens_of(batch.policy, plain[judged])
    judged_logps = _tokens_of(batch.policy, plain[judged] + 1)
    inappropriate = inappropriate_tokens(judged_logps, plain_logps, threshold=constants.threshold)
    terms = contrast_token_loss(plain_logps, inappropriate, unlikelihood_weight=constants.unlikelihood_weight)
    contrast = _record_means(terms, lengths[plain[judged]], judged)
    likelihood = -batch.policy.means()[plain + judged.long()]
    means = batch.policy.means().detach()
    missing = torch.full_like(likelihood.detach(), torch.nan)
    metrics = {
        "inappropriate": torch.where(
            judged, _record_means(inappropriate.to(terms.dtype), lengths[plain[judged]], judged), missing
        ),
        "contrast": torch.where(judged, contrast.detach(), missing),
        "nll/token": likelihood.detach(),
        "logps/chosen": torch.where(judged, missing, means[plain]),
        "logps/rejected": torch.where(judged, means[plain], missing),
    }
    return Losses(cut_loss(contrast, likelihood, judged), metrics)


def _tokens_of(logps: ResponseLogps, rows: Tensor) -> Tensor:
    """[N] token log-probabilities of some rows, in their order (ascending)."""
    wanted = torch.zeros(len(logps.lengths), dtype=torch.bool, device=rows.device).index_fill(0, rows, True)
    return logps.token_logps[wanted[logps.segment_ids]]


def _record_means(values: Tensor, lengths: Tensor, judged: Tensor) -> Tensor:
    """[R] means over the tokens of each judged record, 0 for the others."""
    index = torch.repeat_interleave(judged.nonzero().flatten(), lengths)
    sums = values.new_zeros(len(judged)).index_add(0, index, values)
    counts = torch.bincount(index, minlength=len(judged))
    return sums / counts.clamp(min=1)


@dataclass(kw_only=True)
class Config(CUTConstants, CriticOptions, PolicyBackendOptions, SamplingOptions, ObjectiveOptions):
    """Options of `coalign run cut`."""

    __group__ = "Method"
    __may_change__ = ("rounds",)

    data: DataSources | None = option(  # pyright: ignore[reportIncompatibleVariableOverride]  # not needed beside prompts
        None, "judged answers to learn from; or give --prompts", group="Data"
    )
    prompts: str | None = option(
        None, "prompts for rounds of criticism: the model answers, the critic judges, CUT learns"
    )
    rounds: Count = option(
        1,
        "rounds over the prompts, each with its own share of them",
        source="paper: 5",
        only_with="prompts",
    )
    appropriate_ratio: NonNegative = option(
        0.25, "fine answers to train on, at most so many for each criticised one", source="official code"
    )
    threshold: Annotated[float, Ge(1)] | None = option(  # pyright: ignore[reportIncompatibleVariableOverride]
        None,
        "ratio of probabilities above which a token is inappropriate; by default 1.2, in rounds 1.1",
        source="official code",
        group="Objective",
    )
    unlikelihood_weight: NonNegative | None = option(  # pyright: ignore[reportIncompatibleVariableOverride]
        None,
        "weight of the unlikelihood of inappropriate tokens; by default 0.5, in rounds 1",
        source="official code",
        group="Objective",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is not None and self.prompts is not None:
            raise ValueError("data and prompts exclude each other: judged answers, or prompts to answer")
        if self.prompts is None:
            for names in (CriticOptions, PolicyBackendOptions, SamplingOptions):
                self.refuse(names, "without prompts")
        elif self.eval_data is not None:
            raise ValueError("eval_data has no effect with prompts; --eval-fraction of them is held out")
        else:
            self.refuse(("split", "kind", "column", "on_bad_record"), "with prompts")
        usual = {"threshold": (1.2, 1.1), "unlikelihood_weight": (0.5, 1.0)}
        for name, (over_data, in_rounds) in usual.items():
            if getattr(self, name) is None:
                setattr(self, name, over_data if self.prompts is None else in_rounds)


def run(config: Config, run: Run) -> None:
    """Train CUT on judged answers, or in rounds on the model's own answers.

    Raises:
        ConfigError: neither data nor prompts.
        DataError: negative verdicts without words, no answer that is criticised, or prompts that cannot be judged.
        CoalignError: the critic gave too few verdicts.
    """
    if config.prompts is not None:
        _learn_from_own_answers(config, run)
        return
    if config.data is None:
        raise ConfigError("cut needs judged answers (--data) or prompts to answer (--prompts).")
    material = read_material(config, "judgment", run)
    check_judgments([one for one in (*material.training, *material.held_out) if isinstance(one, Judgment)])
    mixed = mix_judgments(material, config.appropriate_ratio, config.seed, named(config.data))
    learn(config, get_objective("cut"), run, material=mixed)


@led
def _learn_from_own_answers(config: Config, run: Run) -> None:
    loop = make_judged_loop(run, config, get_objective("cut"), config.appropriate_ratio)
    write_judged_report(run, loop, run_labelling(run, loop))
