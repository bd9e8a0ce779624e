"""Learning from rewarded responses that the policy sampled itself: a `Task` of the trainer, its steps and its objectives.

A *rollout* is n responses to each of P prompts, with their rewards as numbers: who gave them is not known here. It is cut
into the *steps* of its updates, and each step into *parts*, the responses of one forward pass. What a step divides by is
known before its first part (`coalign.training.losses.policy_gradient`), so its gradient does not depend on the parts::

    task = PolicyGradientTask(method, constants, parts=4)
    task.step = steps_of(rollout, method, constants, ...)[0]     # before each optimizer step
    fit_module(model, task, range(4 * steps), options, run, ...)

Token ids go in as they were sampled; nothing is decoded and encoded again, and lengths say what counts, so that a pad token
that is the end token, or one of several end tokens, is learnt like any other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from coalign.models.scoring.engine import score_responses, token_logits
from coalign.models.scoring.values import score_with_values
from coalign.models.types import ResponseLogps, Responses
from coalign.training import task as tasks
from coalign.training.losses import policy_gradient as pg
from coalign.training.losses.likely_tokens import LikelyTokens, divergences
from coalign.training.objective import Losses
from coalign.training.processes import process_count

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.utils.data import Sampler
    from transformers import TrainerState

    from coalign.training.kl_options import KlOptions
    from coalign.training.online.keeping import Keeping

Metrics = dict[str, "Tensor"]
VALUE_HEAD = "value_head.safetensors"


@dataclass(frozen=True)
class Rollout:
    """Sampled responses and what they are worth.

    Attributes:
        ids: [P] names of the prompts, for messages.
        prompt_ids: [P] token ids of each.
        response_ids: [P n] token ids as they were sampled, the end token included; n of each prompt, prompt after prompt.
        rewards: [P, n] float64; NaN for a response that does not count.
        sampled_logps: [P n] log-probability of each token when it was sampled, where the back end says.
        temperature: that they were sampled at.
        longest: the most tokens that a response could have.
        metrics: to log with the first step: name to values.
    """

    ids: list[str]
    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    rewards: Tensor
    sampled_logps: list[list[float]] | None = None
    temperature: float = 1.0
    longest: int = 0
    metrics: Metrics = field(default_factory=dict)

    def of(self, prompts: Sequence[int]) -> Rollout:
        """Some of its prompts with their responses."""
        n = self.rewards.shape[1]
        rows = [place * n + sample for place in prompts for sample in range(n)]
        sampled = self.sampled_logps
        return replace(
            self,
            ids=[self.ids[place] for place in prompts],
            prompt_ids=[self.prompt_ids[place] for place in prompts],
            response_ids=[self.response_ids[row] for row in rows],
            rewards=self.rewards[list(prompts)],
            sampled_logps=None if sampled is None else [sampled[row] for row in rows],
        )

    def responses(self, rows: Sequence[int] | None = None) -> Responses:
        """All responses, or those of these rows (in rising order), as the scoring engine takes them."""
        n = self.rewards.shape[1]
        kept = range(len(self.response_ids)) if rows is None else rows
        prompts = sorted({row // n for row in kept})
        place = {prompt: index for index, prompt in enumerate(prompts)}
        return Responses(
            prompt_ids=[self.prompt_ids[prompt] for prompt in prompts],
            response_ids=[self.response_ids[row] for row in kept],
            prompt_index=[place[row // n] for row in kept],
        )


@dataclass(frozen=True)
class Known:
    """What is known of a rollout's tokens before its first update; pieces [|y|], one a response.

    Attributes:
        old: log-probabilities under the policy that sampled, as the trainer computes them; None where every response is
            learnt from once, on policy.
        reference: under the reference; None where nothing compares with it.
        values: of the value head; None without one.
        likely: the likeliest tokens of the reference, where divergences are taken over them.
        divergences: from the reference at each token, of the policy that sampled, over its likeliest tokens.
    """

    old: tuple[Tensor, ...] | None = None
    reference: tuple[Tensor, ...] | None = None
    values: tuple[Tensor, ...] | None = None
    likely: tuple[LikelyTokens, ...] | None = None
    divergences: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Part:
    """Responses of one forward pass: B of them, N tokens.

    Attributes:
        weights: [B] what the loss of each token is multiplied by (`losses.policy_gradient.response_weights`).
        advantages: [N] of each token; empty where pairs are learnt from.
        old, reference, sampled, values, returns: [N], where they are known.
        predicted: [N] what the value head says now, with gradient; given to the loss of a method that has one.
        likely: [N, k] the likeliest tokens of the reference, where the loss has the divergence over them.
        divergences: [N] over these tokens, of the policy as it is now, with gradient.
    """

    responses: Responses
    weights: Tensor
    advantages: Tensor
    temperature: float = 1.0
    old: Tensor | None = None
    reference: Tensor | None = None
    sampled: Tensor | None = None
    values: Tensor | None = None
    returns: Tensor | None = None
    predicted: Tensor | None = None
    likely: LikelyTokens | None = None
    divergences: Tensor | None = None

    def to(self, device: torch.device) -> Part:
        """The same on another device."""
        moved = {
            name: one.to(device)
            for name, one in vars(self).items()
            if isinstance(one, torch.Tensor | LikelyTokens)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Step:
    """What one optimizer step learns from; fewer parts than the task has leave its last ones empty."""

    parts: list[Part]
    metrics: Metrics = field(default_factory=dict)


StepLoss = Callable[[ResponseLogps, Part, Any], tuple["Tensor", Metrics]]
MakeSteps = Callable[[Rollout, Known, Any, "Cut"], list[Step]]


@dataclass(frozen=True)
class Cut:
    """How a rollout is cut.

    Attributes:
        minibatches: optimizer steps of one pass, each over its share of the prompts.
        responses: most responses in one forward pass.
    """

    minibatches: int = 1
    responses: int = 8

    def parts(self, prompts: int, samples: int, unit: int) -> int:
        """Forward passes of an optimizer step over so many prompts, of which units of so many responses are learnt from."""
        units = prompts if unit > 1 else prompts * samples
        return math.ceil(units / max(1, self.responses // unit))


@dataclass(frozen=True, kw_only=True)
class OnlineMethod:
    """An objective on responses that the policy samples while it is trained.

    Attributes:
        name: as `coalign run` calls it.
        constants: dataclass of its options.
        steps: cuts a rollout into steps with advantages and weights.
        loss: of a part's scored responses: the sum of its tokens' weighted losses, and metrics; its docstring begins with
            the source.
        needs_old: (constants, steps that a rollout is learnt from) to whether `Known.old` is needed.
        needs_reference: constants to whether `Known.reference` is.
        equation, when: for the docs and `coalign objectives`.
        unit: responses that are learnt from together; 2 (of each prompt a pair) for methods that compare.
        value_head: the model gets one.
    """

    name: str
    constants: type
    steps: MakeSteps
    loss: StepLoss
    needs_old: Callable[[Any, int], bool]
    needs_reference: Callable[[Any], bool]
    equation: str = ""
    when: str = ""
    unit: int = 1
    value_head: bool = False


class PolicyGradientTask(tasks.Task):
    """An online method as what a language model learns.

    Attributes:
        step: what the next forward passes learn from; set before each optimizer step.
        parts: forward passes of an optimizer step.
        value_head: of a method that has one; a part of the model that is trained, so that it is optimised with it.
        keeping: what is held to beside the rewards, once a step.
    """

    examples = "the prompts"
    advice = "look at their rewards in artefacts/rollouts"

    def __init__(self, method: OnlineMethod, constants: Any, *, parts: int) -> None:
        self.name = method.name
        self.method = method
        self.constants = constants
        self.parts = parts
        self.step = Step([])
        self.value_head: nn.Module | None = None
        self.keeping: Keeping | None = None

    def collate(self, examples: Sequence[int]) -> tasks.Batch:
        return {"ids": [], "places": [one % self.parts for one in examples]}

    def count(self, batch: tasks.Batch) -> Any:
        """A share of one step: losses are divided beforehand."""
        return len(batch["places"]) / self.parts

    def sampler(self, size: int, seed: int) -> Sampler[int]:
        from torch.utils.data import SequentialSampler

        return SequentialSampler(range(size))

    def loss(self, model: nn.Module, batch: tasks.Batch, state: TrainerState) -> Losses:
        losses, metrics = [], {}
        trained = [one for one in model.parameters() if one.requires_grad]
        # Processes average the gradients of all weights, also where an empty part or a value head has no use for some.
        touched = trained if process_count() > 1 else trained[:1]
        nothing = torch.stack([one.flatten()[0] * 0.0 for one in touched]).sum()
        for place in batch["places"]:
            if place == 0:
                metrics |= self.step.metrics
            if place < len(self.step.parts):
                part = self.step.parts[place].to(next(model.parameters()).device)
                policy, part = self._score(model, part)
                total, said = self.method.loss(policy, part, self.constants)
                metrics |= said
                total = total + nothing if process_count() > 1 else total
            else:
                total = nothing
            if place == 0 and self.keeping is not None:
                held, said = self.keeping.loss(model, state.global_step)
                total, metrics = total + held, metrics | said
            losses.append(total)
        return Losses(torch.stack(losses), metrics)

    def _score(self, model: nn.Module, part: Part) -> tuple[ResponseLogps, Part]:
        if self.value_head is None:
            if part.likely is not None:
                policy, logits = _with_logits(model, part)
                return policy, replace(part, divergences=divergences(logits, part.likely))
            return score_responses(model, part.responses, temperature=part.temperature), part
        if part.likely is not None:  # a second forward pass: the one with values keeps no logits
            part = replace(part, divergences=divergences(_with_logits(model, part)[1], part.likely))
        policy, values = score_with_values(
            model, self.value_head, part.responses, temperature=part.temperature
        )
        return policy, replace(part, predicted=values)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        if self.value_head is not None:
            save_file(self.value_head.state_dict(), folder / VALUE_HEAD)

    def load(self, folder: Path) -> None:
        from safetensors.torch import load_file

        if self.value_head is not None:
            self.value_head.load_state_dict(load_file(folder / VALUE_HEAD))


def _with_logits(model: nn.Module, part: Part) -> tuple[ResponseLogps, Tensor]:
    """The log-probabilities of a part's tokens, and the logits [N, V] that they are of, from one forward pass."""
    from coalign.models.scoring.token_head import token_logps_from_logits

    found = dict(token_logits(model, part.responses, temperature=part.temperature))
    logits = torch.cat([found[row] for row in range(len(found))])
    ids = part.responses.response_ids
    targets = torch.tensor([token for one in ids for token in one], device=logits.device)
    lengths = torch.tensor([len(one) for one in ids], device=logits.device)
    index = torch.tensor(part.responses.prompt_index, device=logits.device)
    return ResponseLogps(token_logps_from_logits(logits, targets), lengths, index), logits


def token_divergences(known: Known, constants: KlOptions) -> list[Tensor]:
    """[P n] pieces [|y|], float64: at each token of a rollout the divergence of the policy that sampled from the reference."""
    if known.divergences is not None:
        return [one.double() for one in known.divergences]
    assert known.old is not None
    assert known.reference is not None
    return [
        pg.kl_estimates(old.double(), reference.double(), constants.kl_estimator)
        for old, reference in zip(known.old, known.reference, strict=True)
    ]


def loss_divergences(policy: ResponseLogps, part: Part, constants: KlOptions) -> Tensor:
    """[N] at each token of a part the divergence of the policy as it is now, with the gradient that holds it back."""
    if part.divergences is not None:
        return part.divergences
    assert part.reference is not None
    return pg.kl_estimates(policy.token_logps, part.reference, constants.kl_estimator)


def split_prompts(prompts: int, minibatches: int) -> list[range]:
    """The prompts of each step of a pass: consecutive, of equal number where that is possible."""
    bounds = [round(prompts * step / minibatches) for step in range(minibatches + 1)]
    return [range(low, high) for low, high in itertools.pairwise(bounds)]


def make_parts(
    rollout: Rollout,
    known: Known,
    units: Sequence[Sequence[int]],
    weights: Tensor,
    cut: Cut,
    *,
    advantages: Sequence[Tensor] | None = None,
    returns: Sequence[Tensor] | None = None,
) -> list[Part]:
    """Parts of at most `cut.responses` responses.

    Args:
        units: rows that have to share a part (pairs), in rising order.
        weights: [P n] of every row of the rollout.
        advantages, returns: [P n] pieces over tokens.
    """
    size = max(1, cut.responses // max((len(one) for one in units), default=1))
    likely = known.likely if known.divergences is None else None  # else they are in the reward already
    parts = []
    for start in range(0, len(units), size):
        rows = [row for unit in units[start : start + size] for row in unit]

        def joined(pieces: Sequence[Tensor] | None, rows: list[int] = rows) -> Tensor | None:
            return None if pieces is None else torch.cat([pieces[row] for row in rows])

        sampled = rollout.sampled_logps
        parts.append(
            Part(
                rollout.responses(rows),
                weights[rows],
                cast("Tensor", joined(advantages) if advantages is not None else weights[:0]),
                rollout.temperature,
                joined(known.old),
                joined(known.reference),
                None if sampled is None else torch.tensor([one for row in rows for one in sampled[row]]),
                joined(known.values),
                joined(returns),
                likely=None if likely is None else LikelyTokens.joined([likely[row] for row in rows]),
            )
        )
    return parts


def common_metrics(policy: ResponseLogps, part: Part) -> Metrics:
    """What is told of every method.

    `length/response`: tokens. `entropy`: -log p of the sampled tokens, whose mean is the entropy of the policy where it just
    sampled them, in nats a token. `kl/policy_reference`: log-ratio to the reference of a response, whose mean is the KL divergence
    there. `sampler/gap`: absolute difference of a token's log-probability between sampler and trainer; `sampler/largest_gap`.
    """
    logps = policy.token_logps.detach()
    metrics = {"length/response": policy.lengths.float(), "entropy": -logps}
    if part.reference is not None:
        metrics["kl/policy_reference"] = pg.token_sums(logps - part.reference, policy.lengths)
    if part.sampled is not None and part.temperature == 1:
        gap = (part.sampled - (logps if part.old is None else part.old)).abs()
        metrics |= {"sampler/gap": gap, "sampler/largest_gap": gap.max()[None]}
    return metrics
