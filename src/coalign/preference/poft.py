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
says. End-of-turn tokens belong to a chat template, not to the answer, and are left out of both averages; so that the
model still learns to stop, their negative log-likelihood is added with the weight `end_weight` (our choice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from coalign.core.options import Count, NonNegative, Positive, option, required
from coalign.core.runs import Run
from coalign.data.records import Demonstration, Record
from coalign.models.loading import load_model, load_tokenizer, locate
from coalign.models.options import ModelOptions
from coalign.models.types import ResponseLogps
from coalign.preference.aligned_scores import (
    ALIGNED_LOGP,
    END_TOKENS,
    ScoredDemonstrations,
    Scorer,
    precompute_scores,
)
from coalign.preference.learning import LearningOptions, Material, learn, read_material
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective


def poft_loss(
    policy_mean_logps: Tensor, aligned_mean_logps: Tensor, *, beta: float = 1.0, gamma: float = 0.0
) -> Tensor:
    """[R] `-log sig(beta (s - l) + gamma)`: a Bradley-Terry preference for the trained model over the aligned ones.

    The gradient by s is `-beta * poft_coefficients`. No gradient through l.

    Args:
        policy_mean_logps: [R] s, log-probability of the response averaged over its tokens, in nats per token.
        aligned_mean_logps: [R] l, the same under the aligned models, each with its own tokens, averaged over models.
    """
    return -F.logsigmoid(_preference_logits(policy_mean_logps, aligned_mean_logps, beta, gamma))


def poft_coefficients(
    policy_mean_logps: Tensor, aligned_mean_logps: Tensor, *, beta: float = 1.0, gamma: float = 0.0
) -> Tensor:
    """[R] `sig(-beta (s - l) - gamma)` in (0, 1): how much of the fine-tuning gradient a record keeps."""
    return torch.sigmoid(-_preference_logits(policy_mean_logps, aligned_mean_logps, beta, gamma))


def _preference_logits(policy: Tensor, aligned: Tensor, beta: float, gamma: float) -> Tensor:
    return beta * (policy - aligned.detach()) + gamma


def split_end(logps: ResponseLogps, end_tokens: Tensor) -> tuple[Tensor, Tensor]:
    """([B] mean over the content tokens, [B] sum over the end-of-turn tokens) of each response.

    A response without content tokens has mean 0.

    Args:
        end_tokens: [B] how many tokens at the end of each response are not content.
    """
    lengths = logps.lengths
    place = torch.arange(len(logps.token_logps), device=lengths.device)
    first = (lengths.cumsum(0) - lengths)[logps.segment_ids]
    is_end = place - first >= (lengths - end_tokens)[logps.segment_ids]
    zero = torch.zeros_like(logps.token_logps)
    content = replace(logps, token_logps=torch.where(is_end, zero, logps.token_logps)).sums()
    end = replace(logps, token_logps=torch.where(is_end, logps.token_logps, zero)).sums()
    return content / (lengths - end_tokens).clamp(min=1), end


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
    data="demonstration",
    reference=False,
    constants=PoFTConstants,
    columns=(ALIGNED_LOGP, END_TOKENS),
    equation=r"-\log \sigma\left(\beta \left[\tfrac{1}{|y|} \log \pi_\theta(y|x) - \tfrac{1}{M} \sum_m \tfrac{1}{|y|_m} \log \pi_m(y|x)\right] + \gamma\right)",
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


@dataclass(kw_only=True)
class Config(PoFTConstants, LearningOptions):
    """Options of `coalign run poft`."""

    __group__ = "Method"

    scorers: list[str] = required("aligned models that vote: hub ids (id@revision) or folders")
    scorer_max_length: Count = option(
        4096, "tokens of prompt and response that an aligned model reads", source="official code"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scorers or len(set(self.scorers)) < len(self.scorers):
            raise ValueError("scorers: expected one aligned model or more, each once")


def run(config: Config, run: Run) -> None:
    """Score demonstrations with the aligned models, once, then train PoFT."""
    material = read_material(config, "demonstration", run)
    learn(config, get_objective("poft"), run, material=_scored(material, config, run))


def make_scorer(name: str, config: Config) -> Scorer:
    """The aligned model `name` (`id`, `id@revision` or a folder), which is loaded when a score is missing.

    Raises:
        ModelError: there is no such model.
    """
    model, _, revision = name.partition("@")
    place = locate(model, revision or None)
    options = ModelOptions(
        model=model,
        revision=revision or None,
        dtype=config.dtype,
        device=config.device,
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
    )

    def load() -> tuple[nn.Module, PreTrainedTokenizerBase]:
        tokenizer = load_tokenizer(
            model, revision=options.revision, trust_remote_code=options.trust_remote_code
        )
        return load_model(options, training=False), tokenizer

    called = f"{place.name}@{revision}" if revision else place.name
    return Scorer(called, load, config.scorer_max_length)


def _scored(material: Material, config: Config, run: Run) -> Material:
    """The records with their scores. Scores lie in the run folder as they come: a killed run goes on there."""
    scorers = [make_scorer(name, config) for name in config.scorers]
    tokenizer = load_tokenizer(
        config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    notes = list(material.notes)

    def score(records: Sequence[Record]) -> list[Record]:
        demonstrations = [one for one in records if isinstance(one, Demonstration)]
        scored = _score(demonstrations, scorers, tokenizer, config, run)
        if scored.dropped:
            notes.append(
                f"{len(scored.dropped)} records have nothing to score; the first: {scored.dropped[0]}"
            )
        values = [one.extra[ALIGNED_LOGP] for one in scored.records]
        if values:
            mean, names = sum(values) / len(values), ", ".join(one.name for one in scorers)
            notes.append(f"{len(values)} records have a mean of {mean:.3f} nats per token under {names}")
        return [*scored.records]

    everything = [one for one in (*material.training, *material.held_out) if isinstance(one, Demonstration)]
    _score(everything, scorers, tokenizer, config, run)  # every model is loaded once, for both parts
    return Material(score(material.training), score(material.held_out), notes)


def _score(
    records: Sequence[Demonstration],
    scorers: Sequence[Scorer],
    tokenizer: PreTrainedTokenizerBase,
    config: Config,
    run: Run,
) -> ScoredDemonstrations:
    return precompute_scores(
        records,
        scorers,
        tokenizer,
        run.artefacts / "scores",
        max_length=config.max_length,
        max_prompt_length=config.max_prompt_length,
    )
