"""The engine of reinforcement learning: rollouts, updates and held-out answers around the trainer.

A system that learns from rewards declares what is its own and gets the rest: rollouts that resume, updates of any online method,
held-out rewards with the divergence from the start model, signs of failure::

    loop = Reinforcement(
        method=get_online_method("rloo"), constants=config, config=config, run=run,
        prompts=tasks, held_out=others, score=lambda rows: [{"rewards": [...]} for row in rows],
        transform=lambda rewards, ids: torch.nn.functional.logsigmoid(rewards - quantiles(ids)),
    )
    result = reinforce(loop, model, tokenizer)
    rows = held_out_rows(run)                # step, reward, kl, ... ; reward_at_kl(rows, 2.0)
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerState

from coalign.core.files import atomic_path
from coalign.core.runs import is_main_process
from coalign.loops.held_out import HeldOut, held_out_rows
from coalign.loops.policy import Policy, Reinforcement, with_start_rewards
from coalign.loops.rollouts import Rollouts
from coalign.models.backends.open import policy_server
from coalign.models.modules import evaluation, without_dropout
from coalign.models.scoring.values import make_value_head
from coalign.training.checkpoints import resume_point
from coalign.training.job import FitResult
from coalign.training.modules import fit_module
from coalign.training.online.keeping import Keeping
from coalign.training.online.known import know
from coalign.training.online.policy_gradient import Known, PolicyGradientTask, Rollout, Step
from coalign.training.options import TrainingOptions
from coalign.training.processes import assert_whole_model, gathered, own_share, process_count, told
from coalign.training.watch.monitor import LAST_ROWS, WINDOW, Monitor, Sign
from coalign.training.watch.online_signs import held_out_falls, online_signs

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from coalign.training.watch.plan import Plan

__all__ = ["Policy", "Reinforcement", "reinforce"]


def _stopped(loop: Reinforcement) -> int | None:
    """The step at which a run was stopped by its divergence, where its newest checkpoint is of that step."""
    checkpoint, limit = resume_point(loop.run.checkpoints / loop.name), loop.config.stop_at_kl
    if checkpoint is None or limit is None:
        return None
    step = int(checkpoint.name.rpartition("-")[2])
    reached = [row["step"] for row in held_out_rows(loop.run, loop.name) if row["kl"] >= limit]
    return step if step in reached else None


K1_IN_LOSS = Sign(
    "k1_in_loss",
    "The estimator k1 in the loss has no gradient on average: it does not hold the policy to the start model.",
    "Use --kl-estimator k2 or k3, or --kl-in reward.",
)


class OnlineTask(PolicyGradientTask):
    """The method as a task whose plan speaks of prompts and rollouts."""

    def __init__(self, loop: Reinforcement) -> None:
        super().__init__(loop.method, loop.constants, parts=loop.parts)
        self._loop = loop

    def planned(self, plan: Plan) -> Plan:
        loop, config = self._loop, self._loop.config
        rollout = config.prompts_per_step * config.minibatches
        return replace(
            plan,
            records=len(loop.prompts),
            held_out=len(loop.held_out),
            batch_size=config.prompts_per_step,
            samples=f"{config.samples} to a prompt, {rollout} prompts a rollout, {loop.steps_of_rollout} steps on each; "
            f"at most {config.max_new_tokens} new tokens",
        )


def reinforce(loop: Reinforcement, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> FitResult:
    """Train `model` in place; a run that was stopped goes on at its newest checkpoint, with the rollouts that are there.

    Raises:
        ConfigError: a back end that gives no token ids, processes that share out the weights of the model, or several of them and a
            vLLM server.
        DataError: a prompt that leaves no room for a response.
        CoalignError: too many responses have no reward.
        DivergedError: the loss or a gradient became NaN or infinite.
    """
    without_dropout(model)
    policy = Policy(loop, model, tokenizer)
    with policy_server(loop.config), contextlib.closing(policy):
        return _train(loop, policy, tokenizer)


def _train(loop: Reinforcement, policy: Policy, tokenizer: PreTrainedTokenizerBase) -> FitResult:
    model = policy.model
    policy.assert_room([*loop.prompts, *loop.held_out])
    with policy.opened() as open_start:  # no checkpoint is loaded yet
        loop = with_start_rewards(loop, open_start)
    task = OnlineTask(loop)
    if loop.keep:
        task.keeping = Keeping(loop.keep, loop.config, policy.reference, loop.config.seed)
    if loop.method.value_head:
        # A part of the model, so that it is optimised and moved with it.
        model.add_module("value_head", make_value_head(model))
        task.value_head = model.get_submodule("value_head")
    steps = _stopped(loop) or loop.steps
    result = fit_module(
        model,
        task,
        range(steps * loop.parts),
        TrainingOptions.of(loop.config, gradient_accumulation=loop.parts // process_count(), eval_steps=None),
        loop.run,
        name=loop.name,
        processor=tokenizer,
        callbacks=[Driver(loop, task, policy)],
        per_device_train_batch_size=1,
        num_train_epochs=1,
        max_steps=steps,
        ddp_find_unused_parameters=False,  # the value head is used outside of the model's forward pass
    )
    if loop.method.value_head:
        del model.value_head
    return result


class Driver(TrainerCallback):
    """Before every optimizer step it gives the task what it learns from, and answers held-out prompts when it is time."""

    def __init__(self, loop: Reinforcement, task: PolicyGradientTask, policy: Policy) -> None:
        self._loop, self._task, self._policy = loop, task, policy
        config = loop.config
        self._rollouts = Rollouts(
            folder=loop.folder,
            prompts=loop.prompts,
            score=loop.score,
            sampling=loop.sampling(config.samples, config.seed),
            size=config.prompts_per_step * config.minibatches,
            transform=loop.transform,
            truncated=config.truncated,
            penalty=config.truncation_penalty,
            refills=config.refills if config.dynamic_sampling else 0,
            most_unscorable=config.max_unscorable,
            tell=self._tell,
        )
        self._held_out = HeldOut(loop, policy) if loop.held_out else None
        self._number = 0
        self._steps: list[Step] = []
        self._monitor = Monitor(loop.run, loop.name)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        assert_whole_model(self._policy.model, "sampling from the policy")
        constants = self._loop.constants
        estimated = getattr(constants, "kl_in", "") == "loss" and constants.beta and not constants.kl_top_k
        if estimated and constants.kl_estimator == "k1":
            self._monitor.tell([K1_IN_LOSS])
        if self._held_out:
            self._held_out.measure(0)

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        number, within = divmod(state.global_step, self._loop.steps_of_rollout)
        if number + 1 != self._number:
            self._steps = self._collect(number + 1)
            self._number = number + 1
        step = self._steps[within % self._loop.config.minibatches]
        self._task.step = step if within == 0 else replace(step, metrics={})  # of a rollout, told once

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        step = state.global_step
        if self._held_out is None or not (self._held_out.is_due(step) or step == state.max_steps):
            return
        row = self._held_out.measure(step)
        sign = held_out_falls(held_out_rows(self._loop.run, self._loop.name), state.log_history)
        self._monitor.tell([sign] if sign else [])
        limit = self._loop.config.stop_at_kl
        if limit is not None and row["kl"] >= limit and step < state.max_steps:
            self._tell(
                f"Stopped after step {step}: the held-out divergence of {row['kl']:.2f} nats reached {limit:g}."
            )
            control.should_training_stop = True

    def on_log(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        rows = [row for row in state.log_history if "loss" in row]
        self._monitor.tell(online_signs([*rows[:WINDOW], *rows[WINDOW:][-LAST_ROWS:]]))

    def _collect(self, number: int) -> list[Step]:
        """The steps of a rollout, sampled, rewarded and scored where that is not done."""
        loop = self._loop
        started = time.monotonic()
        with self._policy.opened() as generator:
            rollout = self._rollouts.collect(number, generator)
        sampled = time.monotonic()
        # Dynamic sampling may have found nothing to learn from: the steps are then empty.
        known = self._known(number, rollout) if rollout.ids else None
        loop.run.log(
            "rollout",
            stage=loop.name,
            number=number,
            prompts=len(rollout.ids),
            tokens=sum(map(len, rollout.response_ids)),
            sampling_seconds=round(sampled - started, 3),
            scoring_seconds=round(time.monotonic() - sampled, 3),
        )
        steps = [Step([])] * loop.config.minibatches
        if known is not None:
            steps = loop.method.steps(rollout, known, loop.constants, loop.cut)
        return [replace(steps[0], metrics=rollout.metrics), *steps[1:]]

    def _known(self, number: int, rollout: Rollout) -> Known:
        """The policy's own log-probabilities and values are kept: a run that goes on between two updates has a later policy.
        Each process scores its share of the prompts.
        """
        loop, model = self._loop, self._policy.model
        path = loop.folder / f"rollout-{number:05d}-policy.safetensors"
        reference = self._policy.reference if loop.method.needs_reference(loop.constants) else None
        top_k = getattr(loop.constants, "kl_top_k", None)
        in_loss = getattr(loop.constants, "kl_in", "loss") == "loss"
        needs_old = loop.method.needs_old(loop.constants, loop.steps_of_rollout)
        kept = load_file(path) if needs_old and told(path.exists()) else {}
        old = needs_old and not kept
        with evaluation(model) if needs_old else contextlib.nullcontext():
            known = _together(
                rollout,
                lambda share: know(
                    share,
                    model,
                    reference=reference,
                    old=old,
                    value_head=self._task.value_head if needs_old else None,
                    top_k=top_k,
                    diverged=old and top_k is not None and not in_loss,
                ),
            )
        if kept:
            lengths = [len(one) for one in rollout.response_ids]
            return replace(known, **{name: torch.split(one, lengths) for name, one in kept.items()})
        pieces = {"old": known.old, "values": known.values, "divergences": known.divergences}
        if old and is_main_process():
            with atomic_path(path) as temporary:
                save_file({name: torch.cat(one) for name, one in pieces.items() if one}, temporary)
        return known

    def _tell(self, text: str) -> None:
        self._loop.run.log("note", stage=self._loop.name, text=text)
        if is_main_process():
            print(text, file=sys.stderr, flush=True)


def _together(rollout: Rollout, score: Callable[[Rollout], Known]) -> Known:
    """What is known of a rollout, of which each process scores its share of the prompts."""
    if process_count() == 1:
        return score(rollout)
    own, n = own_share(len(rollout.ids)), rollout.rewards.shape[1]
    rows = [place * n + sample for place in own for sample in range(n)]
    shares = gathered([(rows, score(rollout.of(own)))] if own else [])

    def joined(name: str) -> Any:
        pieces = {
            row: one
            for rows, known in shares
            for row, one in zip(rows, getattr(known, name) or (), strict=False)
        }
        return tuple(pieces[row] for row in sorted(pieces)) or None

    return Known(**{one.name: joined(one.name) for one in fields(Known)})
