"""What reinforcement learning is declared by, and the policy in training as what samples and is compared with its start."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import CoalignError
from coalign.core.files import write_json
from coalign.core.runs import Run, is_main_process
from coalign.loops.rollouts import ScoreRows, Transform, sampled_rows, scored_rows
from coalign.loops.rows import Prompted
from coalign.models.adapters import disabled_adapter, has_adapter
from coalign.models.backends.open import is_served
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.merged import MergedView
from coalign.models.modules import evaluation
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.training.losses.policy_gradient import above_reference, varied
from coalign.training.online.policy_gradient import Cut, OnlineMethod
from coalign.training.processes import assert_one_process, process_count

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from coalign.data.encoding import EncodedRecord
    from coalign.models.types import Generator


@dataclass(frozen=True, kw_only=True)
class Reinforcement:
    """What a system brings to its training.

    Attributes:
        method: how is learnt; `constants` are its options.
        config: `coalign.loops.online_options.OnlineOptions`, or a class with the same options.
        prompts, held_out: to learn on, and to answer before, during and after; the latter may be empty.
        score: gives the rewards of both.
        transform: of the rewards that are learnt from (`coalign.loops.rollouts.Transform`).
        keep: encoded demonstrations that the policy is held to (`coalign.training.online.keeping`).
        open_generator: a generator over the policy as it is, in place of the back end of `config`.
        name: of this training among those of the run.
    """

    method: OnlineMethod
    constants: Any
    config: Any
    run: Run
    prompts: Sequence[Prompted]
    held_out: Sequence[Prompted] = ()
    score: ScoreRows
    transform: Transform | None = None
    keep: Sequence[EncodedRecord] = ()
    open_generator: Callable[[nn.Module, PreTrainedTokenizerBase], Generator] | None = None
    name: str = "train"

    @property
    def folder(self) -> Path:
        return self.run.artefacts / ("rollouts" if self.name == "train" else f"{self.name}/rollouts")

    @property
    def is_served(self) -> bool:
        """Whether a vLLM server samples."""
        return self.open_generator is None and is_served(self.config)

    @property
    def steps_of_rollout(self) -> int:
        return self.config.minibatches * self.config.updates

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        size = self.config.prompts_per_step * self.config.minibatches
        rollouts = max(1, round(self.config.epochs * len(self.prompts) / size))
        planned = rollouts * self.steps_of_rollout
        return min(planned, self.config.max_steps) if self.config.max_steps else planned

    @property
    def cut(self) -> Cut:
        return Cut(minibatches=self.config.minibatches, responses=self.config.batch_size)

    @property
    def parts(self) -> int:
        """Forward passes of an optimizer step, as many in each process; some of them may be empty."""
        needed = self.cut.parts(self.config.prompts_per_step, self.config.samples, self.method.unit)
        return -(-needed // process_count()) * process_count()

    def sampling(self, samples: int, seed: int) -> Sampling:
        one = self.config
        return Sampling(
            max_new_tokens=one.max_new_tokens, temperature=one.temperature, top_p=one.top_p, top_k=one.top_k, n=samples, seed=seed, logprobs=True
        )  # fmt: skip


class Policy:
    """The model in training, as what samples and as what is compared with its start.

    Attributes:
        model: as it is trained.

    Raises:
        ConfigError: a vLLM server is to sample for several processes.
    """

    def __init__(self, loop: Reinforcement, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self._loop, self._tokenizer = loop, tokenizer
        if loop.is_served:
            assert_one_process("--backend vllm-server samples from a policy")
        merges = loop.config.merge_rollout and not loop.is_served
        self._view = MergedView(model) if merges else None
        compared = loop.method.needs_reference(loop.constants) or loop.held_out or loop.keep
        # Made before a checkpoint is loaded: this is the start model.
        self._start = (
            copy.deepcopy(model).eval().requires_grad_(False) if compared and not has_adapter(model) else None
        )

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[], Generator]]:
        """Opens, when it is called, a generator over the policy as it now is; no cache of an earlier one is left."""
        with contextlib.ExitStack() as stack:

            @functools.cache
            def open_generator() -> Generator:
                merged = self._view.merged() if self._view else contextlib.nullcontext(self.model)
                return self._generator(stack.enter_context(merged))

            yield open_generator

    def close(self) -> None:
        """Remove the weights that were written for a server."""
        if self._loop.is_served:
            shutil.rmtree(self._served_weights, ignore_errors=True)

    @contextlib.contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The start model, in evaluation mode."""
        if self._start is not None:
            yield self._start
            return
        with evaluation(self.model), disabled_adapter(self.model):
            yield self.model

    def assert_room(self, prompts: Sequence[Prompted]) -> None:
        """Refuse prompts that leave no room for a response, before anything is sampled (of back ends that can say)."""
        generator: Any = self._generator(self.model)
        if hasattr(generator, "assert_room"):
            encoded = [generator.encode(one.prompt, index) for index, one in enumerate(prompts)]
            generator.assert_room(encoded, self._loop.sampling(1, 0))

    @property
    def _served_weights(self) -> Path:
        return self._loop.run.path / "served-weights"

    def _generator(self, model: nn.Module) -> Generator:
        """A generator over the weights that the model now has."""
        if self._loop.open_generator is not None:
            return self._loop.open_generator(model, self._tokenizer)
        if not self._loop.is_served:
            return TransformersGenerator(model, self._tokenizer)
        from coalign.models.backends.vllm_served import PolicyOnServer

        config = self._loop.config
        return PolicyOnServer(model, self._tokenizer, ModelOptions.of(config), config, self._served_weights)


def with_start_rewards(loop: Reinforcement, open_start: Callable[[], Generator]) -> Reinforcement:
    """The training without prompts on which the start model's rewards hardly differ (`min_reward_variance`), and with rewards
    above that of the start model's answer (`baseline`). Answers and rewards lie under `artefacts/start/`, as rows of a rollout do.

    Args:
        open_start: opens the start model; called where an answer is missing.

    Raises:
        CoalignError: no prompt is left.
    """
    config = loop.config
    least, baseline = config.min_reward_variance, getattr(config, "baseline", "none") == "reference"
    if not (least or baseline):
        return loop
    folder = loop.run.artefacts / ("start" if loop.name == "train" else f"{loop.name}/start")
    sampling = loop.sampling(config.variance_samples if least else 1, config.seed + 2_000_003)
    rows = sampled_rows(
        folder / "answers.jsonl", loop.prompts, open_start, sampling, label="Start model answers"
    )
    scored = scored_rows(folder / "scored.jsonl", loop.prompts, rows, loop.score)
    rewards = torch.tensor(
        [[math.nan if one is None else one for one in row["rewards"]] for row in scored], dtype=torch.float64
    )
    kept = varied(rewards, least) if least else torch.ones(len(rewards), dtype=torch.bool)
    if baseline:
        kept &= ~rewards[:, 0].isnan()
    facts = {"prompts": len(kept), "kept": int(kept.sum()), "least_variance": least}
    if is_main_process():
        write_json(folder / "kept.json", facts)
    loop.run.log("start_rewards", **facts)
    if not kept.any():
        raise CoalignError(
            f"None of {len(kept)} prompts is left: the rewards of the start model's answers differ by less than a variance of "
            f"{least:g}, or there are none.",
            hint="Lower --min-reward-variance, or look at artefacts/start/scored.jsonl.",
        )
    prompts = [one for one, keep in zip(loop.prompts, kept.tolist(), strict=True) if keep]
    transform = _above(loop, rewards[:, 0]) if baseline else loop.transform
    return dataclasses.replace(loop, prompts=prompts, transform=transform)


def _above(loop: Reinforcement, reference: Tensor) -> Callable[[Tensor, Sequence[str]], Tensor]:
    known = {one.id: value for one, value in zip(loop.prompts, reference.tolist(), strict=True)}

    def transform(rewards: Tensor, ids: Sequence[str]) -> Tensor:
        given: Any = loop.transform(rewards, ids) if loop.transform is not None else rewards
        return above_reference(given, torch.tensor([known[one] for one in ids], dtype=given.dtype))

    return transform
