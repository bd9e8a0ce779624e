"""PoFT: supervised fine-tuning that lets aligned models vote, softly, on every record.

Preference-Oriented Supervised Fine-Tuning: Favoring Target Model Over Aligned Large Language Models
(arXiv 2412.12865). The loss asks that the model in training likes a response more than already aligned models do.
Its gradient is that of fine-tuning, scaled by a coefficient that is large where the aligned models like the record
and small where they do not, so records of doubtful quality count less.

    coalign run poft --data instructions.jsonl --scorers zephyr-sft,yi-chat

Nothing is sampled and there is no reference copy of the trained model. The aligned models score every record once,
each under its own tokenizer and chat template; the scores are kept on disk.

Differences from the official code. Its collator averages the trained model's log-probability over prompt, template
and response, but the aligned models' over the response alone; here both average over the response, as the paper
says, and `score_prompt_tokens` is for the code's way. End-of-turn tokens belong to a chat template, not to the answer, and are left out of both averages; so that the
model still learns to stop, their negative log-likelihood is added with the weight `end_weight` (our choice).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coalign.core.options import NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.preference.data.aligned_scores import ALIGNED_LOGP, END_TOKENS, split_end, whole_texts
from coalign.preference.data.aligned_votes import VoterOptions, with_votes
from coalign.training.learning import learn
from coalign.training.material import read_material
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective

if TYPE_CHECKING:
    from torch import Tensor


def poft_loss(
    policy_mean_logps: Tensor, aligned_mean_logps: Tensor, *, beta: float = 1.0, gamma: float = 0.0
) -> Tensor:
    """[R] `-log sig(beta (s - l) + gamma)`: a Bradley-Terry preference for the trained model over the aligned ones.

    The gradient by s is `-beta * poft_coefficients`. No gradient through l.

    Args:
        policy_mean_logps: [R] s, log-probability of the response averaged over its tokens, in nats per token.
        aligned_mean_logps: [R] l, the same under the aligned models, each with its own tokens, averaged over models.
    """
    return -torch.nn.functional.logsigmoid(
        _preference_logits(policy_mean_logps, aligned_mean_logps, beta, gamma)
    )


def poft_coefficients(
    policy_mean_logps: Tensor, aligned_mean_logps: Tensor, *, beta: float = 1.0, gamma: float = 0.0
) -> Tensor:
    """[R] `sig(-beta (s - l) - gamma)` in (0, 1): how much of the fine-tuning gradient a record keeps."""
    return torch.sigmoid(-_preference_logits(policy_mean_logps, aligned_mean_logps, beta, gamma))


def _preference_logits(policy: Tensor, aligned: Tensor, beta: float, gamma: float) -> Tensor:
    return beta * (policy - aligned.detach()) + gamma


@dataclass(kw_only=True)
class PoFTConstants:
    """Constants of PoFT."""

    __group__ = "Objective"

    beta: Positive = option(1.0, "scale of the difference in nats per token", source="official code")
    gamma: float = option(0.0, "added to the scaled difference", source="official code")
    end_weight: NonNegative = option(
        0.1, "weight of the end-of-turn tokens' negative log-likelihood, so that the model learns to stop"
    )


@objective(
    "poft",
    title="PoFT",
    data="demonstration",
    reference=False,
    constants=PoFTConstants,
    columns=(ALIGNED_LOGP, END_TOKENS),
    equation=r"-\log \sigma\left(\beta \left[\tfrac{1}{|y|} \log \pi_\theta(y|x) - \tfrac{1}{M} \sum_m \tfrac{1}{|y|_m} \log \pi_m(y|x)\right] + \gamma\right) - w_{end} \log \pi_\theta(\text{end}|x, y)",
    when="Fine-tuning on demonstrations of mixed quality, with one or more aligned models at hand to weigh them.",
)
def poft(batch: ScoredBatch, constants: PoFTConstants) -> Losses:
    """PoFT (arXiv 2412.12865) and a small likelihood of the end-of-turn tokens."""
    if len(batch.record_index) != batch.n_records:
        raise ValueError("PoFT needs records with one response each")
    aligned = batch.extras[ALIGNED_LOGP]
    mean_logps, end_logps = split_end(batch.policy, batch.extras[END_TOKENS].long())
    constants_of = {"beta": constants.beta, "gamma": constants.gamma}
    losses = poft_loss(mean_logps, aligned, **constants_of) - constants.end_weight * end_logps
    seen = mean_logps.detach()
    metrics = {
        "coefficient": poft_coefficients(seen, aligned, **constants_of),
        "logps/policy_mean": seen,
        "logps/aligned_mean": aligned,
        "rewards/accuracies": (seen > aligned).to(seen.dtype),
    }
    return Losses(losses, metrics)


@objective(
    "poft_whole",
    title="PoFT over whole responses",
    data="demonstration",
    reference=False,
    constants=PoFTConstants,
    columns=(ALIGNED_LOGP, END_TOKENS),
    prepare=whole_texts,
    equation=r"\text{as poft, with } \tfrac{1}{|x| + |y|} \log \pi_\theta(x, y) \text{ in place of } \tfrac{1}{|y|} \log \pi_\theta(y|x)",
    when="To repeat runs of PoFT's official code: `coalign run poft --score-prompt-tokens`.",
)
def poft_whole(batch: ScoredBatch, constants: PoFTConstants) -> Losses:
    """PoFT with the trained model's mean over prompt, template and response, as in the official code; the aligned
    models' mean runs over the response alone. The first token of the prompt, which nothing predicts, does not count.
    """
    return poft(batch, constants)


@dataclass(kw_only=True)
class Config(PoFTConstants, VoterOptions):
    """Options of `coalign run poft`."""

    __group__ = "Method"

    score_prompt_tokens: bool = option(
        False,
        "average the trained model's log-probability over prompt and response, as the official code does; by default "
        "over the response, as the paper says",
    )


def run(config: Config, run: Run) -> None:
    """Score demonstrations with the aligned models, once, then train PoFT."""
    material = with_votes(read_material(config, "demonstration", run), config, run)
    name = "poft_whole" if config.score_prompt_tokens else "poft"
    learn(config, get_objective(name), run, material=material)
