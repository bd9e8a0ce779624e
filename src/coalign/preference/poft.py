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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from coalign.checks.arms import Measures, measure_arms, seconds_spent
from coalign.checks.preference_world import PreferenceWorld
from coalign.checks.real_text import drawn, mean_logps, misplaced, read_answers, share_above
from coalign.checks.rules import decide, exceeds, mean_of, paired_gaps, values_of
from coalign.checks.steps import LIKELIHOOD, example, frozen_logps, trained
from coalign.checks.tiny_models import stream
from coalign.core.catalogue import get
from coalign.core.options import Count, NonNegative, Positive, option, required
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Demonstration, Record
from coalign.models.loading import load_model, load_tokenizer, locate
from coalign.models.options import ModelOptions
from coalign.models.types import ResponseLogps, Responses
from coalign.preference.aligned_scores import (
    ALIGNED_LOGP,
    END_TOKENS,
    ScoredDemonstrations,
    Scorer,
    precompute_scores,
)
from coalign.preference.learning import LearningOptions, Material, learn, read_material
from coalign.training.batches import Example
from coalign.training.objective import Losses, Objective, ScoredBatch, get_objective, objective


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


EVALUATED = (300, 600, 900)
"""Steps after which the check measures."""


def check(run: Run, *, seeds: int = 5, data: Path | None = None) -> Verdict:
    """On demonstrations of which two in five are bad PoFT learns the good ones better than fine-tuning, in a world of
    copying.

    With `data`, prompts and answers in real text: whether the coefficient of PoFT, with the default model as aligned
    model, tells answers from misplaced ones, without training.
    """
    if data is not None:
        return _check_on_text(run, seeds, data)
    arms = {
        "aligned model": lambda material: {
            f"gold, {step}": _gold(material.world, material.scorer) for step in EVALUATED
        },
        "CE": _training_arm(LIKELIHOOD, None),
        "PoFT": _training_arm(get_objective("poft"), PoFTConstants()),
    }
    rows = measure_arms(run, seeds=seeds, prepare=_material, arms=arms)
    last = f"gold, {EVALUATED[-1]}"
    gaps = paired_gaps(rows, last, "PoFT", "CE")

    def drop(arm: str) -> float:
        golds = [values_of(rows, f"gold, {step}", arm) for step in EVALUATED]
        return mean_of({seed: max(one[seed] for one in golds) - golds[-1][seed] for seed in golds[-1]})

    return Verdict(
        slug="poft",
        outcome=decide(seen=exceeds(gaps), not_seen=not exceeds(gaps, errors=1.0)),
        claim=get("poft").claim,
        rule=f"Seen: gold of PoFT after {EVALUATED[-1]} steps above that of cross-entropy by more than 2 standard errors "
        "of the paired gaps. Not seen: not by more than 1. Mixed: between.",
        setting="Copying letters: 1500 demonstrations, of which 40 % copy 5 % of the letters rightly and the others 95 %. "
        "The aligned model, a transformer of 2 layers and width 48, was trained for 400 steps on demonstrations of 95 %. "
        "The same transformer from random weights, 900 steps of 64 demonstrations, Adam 2e-3, by cross-entropy and by "
        "PoFT. 400 fresh prompts, 4 samples each.",
        measures=rows,
        summary={
            "gold, PoFT - CE": mean_of(gaps),
            "gold, best to last, CE": drop("CE"),
            "gold, best to last, PoFT": drop("PoFT"),
            "share of epochs in which good records have the larger coefficient, PoFT": mean_of(
                values_of(rows, "good above bad", "PoFT")
            ),
        },
        seconds=seconds_spent(run),
    )


def _check_on_text(run: Run, seeds: int, data: Path) -> Verdict:
    answers = read_answers(data)

    def tell_apart(chosen: list[Demonstration]) -> Measures:
        records, moved = misplaced(chosen, 0.3)
        aligned = torch.tensor([row[0] for row in mean_logps(records)])
        coefficients = poft_coefficients(aligned.mean(), aligned).tolist()
        return {"AUC": share_above(coefficients[moved:], coefficients[:moved])}

    rows = measure_arms(
        run, seeds=seeds, prepare=lambda seed: drawn(answers, 40, seed), arms={"default model": tell_apart}
    )
    above_chance = {seed: auc - 0.5 for seed, auc in values_of(rows, "AUC", "default model").items()}
    return Verdict(
        slug="poft",
        outcome=decide(seen=exceeds(above_chance), not_seen=not exceeds(above_chance, errors=1.0)),
        claim=get("poft").claim,
        rule="Seen: the coefficient ranks answers above misplaced ones: area under the curve above one half by more than "
        "2 standard errors over the seeds. Not seen: not by more than 1. Mixed: between. It speaks of the weights of "
        "records, not of training.",
        setting=f"{data.name}: 40 answers a seed, 30 % of them given to each other's prompts; aligned model: the default "
        "model; the trained model likes all records alike.",
        measures=rows,
        summary={"AUC, above one half": mean_of(above_chance)},
        seconds=seconds_spent(run),
    )


@dataclass(frozen=True)
class _Material:
    """What the arms of a seed share; `good` and `bad` are the demonstrations, with the columns of PoFT."""

    world: PreferenceWorld
    scorer: nn.Module
    good: list[Example]
    bad: list[Example]


def _material(seed: int) -> _Material:
    aligned = PreferenceWorld(seed + 1000, copy_rates=(0.95,))
    scorer = aligned.base_model(steps=400)
    world = PreferenceWorld(seed)
    parts = []
    for size, rate in ((900, 0.95), (600, 0.05)):
        examples = world.demonstrations(size, f"records/{rate}", torch.full((size,), rate))
        votes = _content_logps(scorer, examples).tolist()
        columns = [{ALIGNED_LOGP: vote, END_TOKENS: 1} for vote in votes]
        parts.append(
            [
                example(record.prompt_ids, record.response_ids, **more)
                for record, more in zip((one.contexts[0] for one in examples), columns, strict=True)
            ]
        )
    return _Material(world, scorer, *parts)


def _training_arm(objective: Objective, constants: Any) -> Callable[[_Material], Measures]:
    """Training from random weights; gold on the way, and in how many epochs good records had the larger coefficient."""

    def arm(material: _Material) -> Measures:
        records = [*material.good, *material.bad]
        ends = {
            math.ceil(epoch * len(records) / 64) for epoch in range(1, EVALUATED[-1] * 64 // len(records))
        }
        measures: Measures = {}
        ordered: list[bool] = []

        def watch(step: int, model: nn.Module) -> None:
            if step in EVALUATED:
                measures[f"gold, {step}"] = _gold(material.world, model)
            if step in ends:
                ordered.append(_coefficient(model, material.good) > _coefficient(model, material.bad))

        trained(
            material.world.untrained_model(),
            records,
            objective,
            constants,
            steps=EVALUATED[-1],
            batch_size=64,
            learning_rate=2e-3,
            generator=stream(material.world.seed, "records/order"),
            on_step=watch,
        )
        return {**measures, "good above bad": sum(ordered) / len(ordered)}

    return arm


def _gold(world: PreferenceWorld, model: nn.Module) -> float:
    prompts = world.prompts(world.held_out, "evaluation")
    return float(world.gold(prompts, world.responses(model, prompts, 4, "evaluation")).mean())


def _coefficient(model: nn.Module, examples: Sequence[Example]) -> float:
    """Mean coefficient of the records under the model."""
    aligned = torch.tensor([one.extras[ALIGNED_LOGP][0] for one in examples])
    return float(poft_coefficients(_content_logps(model, examples), aligned).mean())


def _content_logps(model: nn.Module, examples: Sequence[Example]) -> Tensor:
    """[R] log-probability of each response without its end, averaged over tokens."""
    records = [one.contexts[0] for one in examples]
    prompts, contents = [one.prompt_ids for one in records], [one.response_ids[0][:-1] for one in records]
    return frozen_logps(model, Responses(prompts, contents, list(range(len(records))))).means()
