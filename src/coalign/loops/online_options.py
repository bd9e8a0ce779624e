"""Options of reinforcement learning on a file of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, Positive, Seed, option, required
from coalign.data.sources import ColumnNames, DataSources, canonical_columns, canonical_sources
from coalign.judging.rewards.specs import RewardOptions
from coalign.models.backends.options import PolicyBackendOptions
from coalign.models.options import ModelOptions
from coalign.training.online.keeping import KeepingOptions
from coalign.training.options import (
    NUMBERS_OF_SCHEDULE,
    QUICKER_B,
    REFUSED_OPTIMIZERS,
    WHAT_MOVES,
    Optimizer,
    Schedule,
    Tracker,
    assert_steps,
)


@dataclass(kw_only=True)
class OnlineOptions(RewardOptions, KeepingOptions, PolicyBackendOptions, ModelOptions):
    """Options of every online method. A subclass adds the constants of one."""

    __group__ = "Method"

    prompts: DataSources = required(
        "prompts to learn on: a file, a folder or a glob of files, a hub id, a saved dataset folder or - for standard "
        "input; given several times they are mixed, as --data of `coalign run dpo`"
    )
    samples: Count = option(8, "responses sampled to every prompt", source="TRL")
    prompts_per_step: Count = option(4, "prompts of one optimizer step")
    minibatches: Count = option(1, "optimizer steps of one pass over a rollout")
    updates: Count = option(1, "passes over a rollout; more than one needs the ratio clipping", source="TRL")
    truncated: Literal["keep", "mask", "penalise"] = option(
        "keep",
        "a response that ran out of tokens counts with its reward, not at all (also not in its group's mean, deviation and divisor), or "
        "with its reward less --truncation-penalty",
    )
    truncation_penalty: Positive = option(
        1.0, "what such a response loses", only_with={"truncated": "penalise"}
    )
    dynamic_sampling: bool = option(
        False,
        "replace prompts whose responses all have one reward by the next ones",
        source="DAPO, arXiv 2503.14476",
    )
    refills: Count = option(4, "how often, for one rollout", only_with="dynamic_sampling")
    min_reward_variance: NonNegative = option(
        0.0,
        "leave out prompts on whose answers by the start model the rewards have a smaller variance: there is little to learn",
        source="arXiv 2404.00934",
    )
    variance_samples: Count = option(4, "answers that tell it", only_with="min_reward_variance")
    max_unscorable: Fraction = option(0.5, "largest share of a rollout's responses without a reward")
    verifier_seconds: Positive = option(
        10.0, "a verifier that takes longer is ended, and its response has no reward", group="Rewards"
    )
    merge_rollout: bool = option(
        True,
        "sample with the adapter merged into a copy of its weights: faster, equal to rounding (`sampler/gap` is logged)",
        only_with={"backend": "transformers"},
    )

    eval_prompts: DataSources | None = option(
        None, "held-out prompts; else --eval-fraction of the prompts is held out", group="Evaluation"
    )
    eval_fraction: Fraction = option(0.1, "share of the prompts held out", group="Evaluation")
    eval_samples: Count = option(2, "responses to every held-out prompt, each time", group="Evaluation")
    eval_steps: Count | None = option(
        None, "answer them every so many steps; by default four times in a run", group="Evaluation"
    )
    stop_at_kl: Positive | None = option(
        None,
        "stop where the held-out responses are so far from the start model, in nats a response (to compare runs at one divergence)",
        group="Evaluation",
    )

    split: str = option("train", "split of a hub dataset", group="Data")
    limit: Count | None = option(None, "read only so many prompts, of each source", group="Data")
    column: ColumnNames | None = option(
        None,
        "take a column of the prompts under a name that records have, such as prompt=question; may be given several times",
        group="Data",
    )

    max_new_tokens: Count = option(256, "most tokens of one response", group="Sampling")
    temperature: Positive = option(1.0, "divides the logits, in sampling and in learning", group="Sampling")
    top_p: Fraction = option(
        1.0, "sample from the most probable tokens that together reach this", group="Sampling"
    )
    top_k: CountOrZero = option(
        0, "sample from this many most probable tokens; 0 means all", group="Sampling"
    )

    learning_rate: Positive | None = option(
        None,
        "peak learning rate; by default 1e-4 for an adapter and 1e-6 for full fine-tuning",
        group="Training",
    )
    epochs: Positive = option(1.0, "passes over the prompts", group="Training")
    max_steps: Count | None = option(
        None, "stop after this many optimizer steps, whatever `epochs` says", group="Training"
    )
    batch_size: Count = option(
        8,
        "responses in one forward pass of the training: memory and speed, not the gradient",
        group="Training",
    )
    optimizer: Optimizer = option("adamw", WHAT_MOVES, group="Training", refused=REFUSED_OPTIMIZERS)
    loraplus_lr_ratio: Positive | None = option(
        None, QUICKER_B, source="LoRA+, arXiv 2402.12354", group="Training"
    )
    schedule: Schedule = option("constant_with_warmup", "learning-rate schedule", group="Training")
    schedule_options: dict[str, float] = option({}, NUMBERS_OF_SCHEDULE, group="Training")
    warmup_ratio: Fraction = option(0.03, "share of the steps with rising learning rate", group="Training")
    weight_decay: NonNegative = option(0.0, "AdamW weight decay", group="Training")
    max_grad_norm: Positive = option(1.0, "gradient clipping", group="Training")
    gradient_checkpointing: bool = option(
        False, "recompute activations in the backward pass to save memory", group="Training"
    )
    logging_steps: Count = option(1, "log every so many steps", group="Training")
    save_steps: CountOrZero = option(
        50, "write a checkpoint every so many steps; 0 writes none", group="Training"
    )
    report_to: list[Tracker] = option([], "also log to these trackers", group="Training")
    seed: Seed = option(0, "seed of everything random", group="Training")

    def __post_init__(self) -> None:
        super().__post_init__()
        assert_steps(self)
        self.column = canonical_columns(self.column)
        self.prompts = canonical_sources(self.prompts, "prompts", weights=False)
        if self.eval_prompts is not None:
            self.eval_prompts = canonical_sources(self.eval_prompts, "eval_prompts", weights=False)
        if not self.reward:
            raise ValueError("reward: is required, such as max_words:20, final_answer:{answer} or model:PATH")
        if self.samples < getattr(self, "least_samples", 2):
            raise ValueError(f"samples: {self.samples} is compared with nothing, expected at least 2")
        if self.min_reward_variance and self.variance_samples < 2:
            raise ValueError("variance_samples: 1 answer has no variance, expected at least 2")
        if self.samples == 1:
            self.refuse(["dynamic_sampling"], "with one sample a prompt: it is equal to itself")
        if self.eval_prompts is not None:
            self.refuse(["eval_fraction"], "beside eval_prompts", advice="leave one of them out")
        elif not self.eval_fraction:
            self.refuse(["eval_samples", "eval_steps", "stop_at_kl"], "without held-out prompts")
        if self.adapter_dropout:
            raise ValueError(
                "adapter_dropout has no place here: what was sampled without dropout is learnt without it"
            )
