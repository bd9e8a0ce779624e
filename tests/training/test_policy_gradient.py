"""Gradients of a step against a derivation in plain torch, under any split; what goes in is what was sampled."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coalign.models.scoring.values import score_with_values
from coalign.training.online.known import know
from coalign.training.online.methods import get_online_method
from coalign.training.online.policy_gradient import Cut, Known, PolicyGradientTask, Rollout
from tests.models.tiny import float64_norms, make_model

NAN = math.nan
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
LENGTHS = [3, 1, 4, 2, 5, 1, 2, 2, 3]
END, OTHER_END = 2, 4


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with float64_norms():
        yield


def rollout_of(**changes: Any) -> Rollout:
    """Three samples to each of three prompts; some end at either end token, which may also be inside and is the pad token."""
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, 96, (n,), generator=draw).tolist() for n in LENGTHS]
    ids[0][-1], ids[2][-1], ids[4][2] = END, OTHER_END, END
    rewards = [[1.0, 0.0, 0.5], [2.0, NAN, -1.0], [0.3, 0.3, 0.3]]
    given: dict[str, Any] = {
        "ids": ["a", "b", "c"], "prompt_ids": PROMPTS, "response_ids": ids, "longest": 8,
        "rewards": torch.tensor(rewards, dtype=torch.float64),
    }  # fmt: skip
    return Rollout(**{**given, **changes})


def models() -> tuple[Any, Any, Any]:
    """The policy, what it was when it sampled, and a reference."""
    return tuple(make_model("llama", seed=seed, dtype=torch.float64, scale=1.0) for seed in (0, 1, 2))  # type: ignore[return-value]


def token_logps(model: Any, rollout: Rollout) -> list[Tensor]:
    """By hand, a response at a time."""
    found = []
    for row, ids in enumerate(rollout.response_ids):
        prompt = rollout.prompt_ids[row // 3]
        logits = model(torch.tensor([prompt + ids])).logits[0] / rollout.temperature
        logps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        found.append(logps.gather(1, torch.tensor(ids)[:, None]).squeeze(1))
    return found


def gradient_of(value: Tensor, model: Any) -> Tensor:
    model.zero_grad()
    value.backward()
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


def gradient_of_steps(
    method: str, constants: Any, rollout: Rollout, known: Known, model: Any, cut: Cut
) -> Tensor:
    """The gradient of all steps of a pass together, accumulated part by part as the trainer does."""
    online = get_online_method(method)
    parts = cut.parts(len(rollout.ids), rollout.rewards.shape[1], online.unit)
    task = PolicyGradientTask(online, constants, parts=parts)
    task.value_head = getattr(model, "value_head", None)
    model.zero_grad()
    for step in online.steps(rollout, known, constants, cut):
        task.step = step
        assert len(step.parts) <= parts
        count = sum(task.count(task.collate([place])) for place in range(parts))
        assert count == pytest.approx(1)
        for place in range(parts):
            task.loss(model, task.collate([place]), None).losses.sum().backward()  # type: ignore[arg-type]
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


def by_hand(
    method: str, constants: Any, rollout: Rollout, model: Any, old: list[Tensor], ref: list[Tensor]
) -> Tensor:
    """The losses as their papers write them, response by response."""
    logps = token_logps(model, rollout)
    rewards = rollout.rewards.clone()
    if constants.beta and constants.kl_in == "reward":
        for row in range(9):
            d = old[row] - ref[row]
            k = {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[constants.kl_estimator].sum()
            rewards[row // 3, row % 3] -= constants.beta * k
    losses, sizes = [], []
    for row in range(9):
        group = [float(one) for one in rewards[row // 3] if not math.isnan(float(one))]
        reward = float(rewards[row // 3, row % 3])
        if math.isnan(reward):
            continue
        mean = sum(group) / len(group)
        advantage = reward - mean
        if method == "rloo":
            advantage = reward - (sum(group) - reward) / (len(group) - 1)
        if constants.scale_rewards == "group":
            advantage /= math.sqrt(sum((one - mean) ** 2 for one in group) / (len(group) - 1)) + 1e-4
        ratio = (logps[row] - old[row]).exp()
        if constants.importance_level == "sequence":
            ratio = (logps[row] - old[row]).mean().exp().expand(len(ratio))
        if constants.importance_level == "sum":
            ratio = (logps[row] - old[row]).sum().exp()[None]
        low, high = 1 - constants.epsilon, 1 + (constants.epsilon_high or constants.epsilon)
        loss = -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
        if constants.beta and constants.kl_in == "loss":
            d = logps[row] - ref[row]
            k = {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[constants.kl_estimator]
            loss = loss + constants.beta * k if len(loss) == len(k) else loss
        losses.append(loss)
        sizes.append(len(ratio))
    if constants.loss_type == "grpo":
        return torch.stack([one.mean() for one in losses]).mean()
    if constants.loss_type == "dapo":
        return torch.cat(losses).mean()
    if constants.loss_type == "dr_grpo":
        return torch.stack([one.sum() for one in losses]).sum() / (len(losses) * rollout.longest)
    return torch.stack([one.sum() for one in losses]).mean()


CASES = [
    ("grpo", {"loss_type": "grpo"}),
    ("grpo", {"loss_type": "dapo", "epsilon_high": 0.28}),
    ("grpo", {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.2}),
    ("grpo", {"loss_type": "grpo", "importance_level": "sequence", "epsilon": 0.05}),
    ("grpo", {"beta": 0.3, "kl_estimator": "k2"}),
    ("rloo", {}),
    ("rloo", {"beta": 0.0}),
    ("rloo", {"beta": 0.4, "kl_estimator": "k3", "importance_level": "token"}),
]


@pytest.mark.parametrize(("method", "options"), CASES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_gradients_are_those_of_the_papers_under_any_split(
    method: str, options: dict[str, Any], temperature: float
):
    policy, before, reference = models()
    rollout = rollout_of(temperature=temperature)
    constants = get_online_method(method).constants(**options)
    with torch.no_grad():
        old, ref = ([one.detach() for one in token_logps(model, rollout)] for model in (before, reference))
    expected = gradient_of(by_hand(method, constants, rollout, policy, old, ref), policy)
    assert expected.abs().max() > 1e-6
    for responses in (1, 2, 5, 9):
        actual = gradient_of_steps(
            method, constants, rollout, Known(tuple(old), tuple(ref)), policy, Cut(responses=responses)
        )
        torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-10)


def test_online_dpo_has_the_gradient_of_dpo_on_the_best_and_the_worst():
    policy, _, reference = models()
    rollout = rollout_of()
    constants = get_online_method("online-dpo").constants(beta=0.3)
    logps = [one.sum() for one in token_logps(policy, rollout)]
    ref = [one.detach() for one in token_logps(reference, rollout)]
    sums = [one.sum() for one in ref]
    pairs = [(0, 1), (3, 5)]
    losses = [
        -torch.nn.functional.logsigmoid(0.3 * (logps[w] - sums[w] - logps[v] + sums[v])) for w, v in pairs
    ]
    expected = gradient_of(torch.stack(losses).mean(), policy)
    for responses in (1, 4):
        actual = gradient_of_steps(
            "online-dpo", constants, rollout, Known(None, tuple(ref)), policy, Cut(responses=responses)
        )
        torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-10)


@settings(max_examples=8)
@given(st.permutations(range(3)), st.permutations(range(3)))
def test_the_order_of_prompts_and_samples_does_not_matter(prompts: list[int], samples: list[int]):
    policy, before, _ = models()
    rollout = rollout_of()
    rows = [prompt * 3 + sample for prompt in prompts for sample in samples]
    moved = rollout_of(
        prompt_ids=[PROMPTS[one] for one in prompts],
        response_ids=[rollout.response_ids[row] for row in rows],
        rewards=rollout.rewards[prompts][:, samples],
    )
    constants = get_online_method("grpo").constants(loss_type="grpo")
    gradients = [
        gradient_of_steps("grpo", constants, one, know(one, before, old=True), policy, Cut(responses=4))
        for one in (rollout, moved)
    ]
    torch.testing.assert_close(*gradients)


def test_equal_groups_count_in_the_divisor_or_are_left_out():
    policy, before, _ = models()
    rollout = rollout_of()
    known = know(rollout, before, old=True)
    counted, left_out = (
        gradient_of_steps(
            "grpo",
            get_online_method("grpo").constants(loss_type="grpo", equal_groups=one),
            rollout,
            known,
            policy,
            Cut(),
        )
        for one in ("count", "leave out")
    )
    torch.testing.assert_close(counted * 8, left_out * 5)


def test_minibatches_divide_by_their_own_prompts():
    _, before, _ = models()
    rollout = rollout_of()
    known = know(rollout, before, old=True)
    constants = get_online_method("grpo").constants(scale_rewards="none")
    whole = get_online_method("grpo").steps(rollout, known, constants, Cut(minibatches=3))
    assert [len(step.parts) for step in whole] == [1, 1, 1]
    for step, prompt in zip(whole, range(3), strict=True):
        assert step.parts[0].responses.prompt_ids == [PROMPTS[prompt]]
        lengths = torch.tensor([len(ids) for ids in step.parts[0].responses.response_ids])
        assert float((step.parts[0].weights * lengths).sum()) == pytest.approx(1)


def test_tokens_go_in_as_they_were_sampled_and_every_end_counts():
    """Pad is end here, and stands inside a response as well: lengths say what counts."""
    rollout = rollout_of()
    constants = get_online_method("rloo").constants(beta=0.0)
    step = get_online_method("rloo").steps(rollout, Known(), constants, Cut(responses=3))[0]
    seen = [ids for part in step.parts for ids in part.responses.response_ids]
    assert seen == [ids for row, ids in enumerate(rollout.response_ids) if row != 4]
    assert [len(part.advantages) for part in step.parts] == [
        sum(map(len, part.responses.response_ids)) for part in step.parts
    ]
    policy, *_ = models()
    task = PolicyGradientTask(get_online_method("rloo"), constants, parts=3)
    task.step = step
    said = task.loss(policy, task.collate([0]), None)  # type: ignore[arg-type]
    assert said.metrics["length/response"].tolist() == [3, 1, 4]


def test_a_step_without_anything_to_learn_has_no_gradient():
    policy, *_ = models()
    rollout = rollout_of(rewards=torch.full((3, 3), NAN, dtype=torch.float64))
    constants = get_online_method("grpo").constants()
    assert not gradient_of_steps("grpo", constants, rollout, Known(), policy, Cut(responses=2)).any()


def test_values_come_from_the_states_that_predict_on_both_paths():
    policy, *_ = models()
    torch.manual_seed(0)
    head = torch.nn.Linear(32, 1, dtype=torch.float64)
    responses = rollout_of().responses()
    expected = []
    for row, ids in enumerate(responses.response_ids):
        prompt = PROMPTS[row // 3]
        states = policy.model(torch.tensor([prompt + ids])).last_hidden_state[0]
        expected.append(head(states[len(prompt) - 1 : -1]).squeeze(-1))
    for path in ("packed", "padded"):
        for budget in (None, 12):
            logps, values = score_with_values(policy, head, responses, path=path, batch_tokens=budget)
            torch.testing.assert_close(values, torch.cat(expected))
            torch.testing.assert_close(logps.token_logps, torch.cat(token_logps(policy, rollout_of())))


def ppo_by_hand(
    constants: Any, rollout: Rollout, known: Known, logps: list[Tensor], values: list[Tensor]
) -> Tensor:
    assert known.old is not None
    assert known.reference is not None
    assert known.values is not None
    advantages, returns = [], []
    for row in range(9):
        reward = float(rollout.rewards[row // 3, row % 3])
        rewards = [-constants.beta * float(d) for d in known.old[row] - known.reference[row]]
        rewards[-1] += 0.0 if math.isnan(reward) else reward
        if constants.reward_clip is not None:
            rewards = [max(-constants.reward_clip, min(constants.reward_clip, one)) for one in rewards]
        old = known.values[row].tolist()
        advantage, found = 0.0, []
        for t in reversed(range(len(old))):
            following = old[t + 1] if t + 1 < len(old) else 0.0
            advantage = (
                rewards[t]
                + constants.discount * following
                - old[t]
                + constants.discount * constants.trace * advantage
            )
            found.insert(0, advantage)
        advantages.append(torch.tensor(found, dtype=torch.float64))
        returns.append(advantages[-1] + known.values[row])
    kept = [row for row in range(9) if row != 4]
    flat = torch.cat([advantages[row] for row in kept])
    mean, deviation = (flat.mean(), flat.std() + 1e-8) if constants.whiten else (0.0, 1.0)
    losses = []
    for row in kept:
        ratio = (logps[row] - known.old[row]).exp()
        scaled = (advantages[row] - mean) / deviation
        surrogate = -torch.minimum(ratio * scaled, ratio.clamp(0.8, 1.2) * scaled)
        old = known.values[row]
        near = old + (values[row] - old).clamp(-0.2, 0.2)
        error = torch.maximum((values[row] - returns[row]) ** 2, (near - returns[row]) ** 2) / 2
        losses.append(surrogate + constants.value_weight * error)
    if constants.average == "responses":
        return torch.stack([one.mean() for one in losses]).mean()
    return torch.cat(losses).mean()


@pytest.mark.parametrize("changes", [{}, {"average": "responses", "reward_clip": 0.3, "whiten": False}])
def test_ppo_has_the_gradient_of_its_paper_also_in_the_value_head(changes: dict[str, Any]):
    policy, before, reference = models()
    torch.manual_seed(0)
    policy.add_module("value_head", torch.nn.Linear(32, 1, dtype=torch.float64))
    rollout = rollout_of()
    constants = get_online_method("ppo").constants(discount=0.9, **changes)
    with torch.no_grad():
        known = know(rollout, before, reference=lambda: contextlib.nullcontext(reference), old=True,
                     value_head=torch.nn.Linear(32, 1, dtype=torch.float64))  # fmt: skip
    logps, values = score_with_values(policy, policy.value_head, rollout.responses())
    pieces = torch.split(values, LENGTHS)
    expected = gradient_of(ppo_by_hand(constants, rollout, known, list(logps.split()), list(pieces)), policy)
    for responses in (1, 4, 9):
        actual = gradient_of_steps("ppo", constants, rollout, known, policy, Cut(responses=responses))
        torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-10)
