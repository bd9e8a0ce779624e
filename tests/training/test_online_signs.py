"""Signs of failure of reinforcement learning, each with a history that shows it and one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from coalign.training.watch.online_signs import held_out_falls, online_signs

HISTORIES: dict[str, tuple[list[dict[str, float]], list[dict[str, float]]]] = {
    "entropy_collapses": ([{"entropy": 2.0}] * 10 + [{"entropy": 0.1}] * 10, [{"entropy": 2.0}] * 10 + [{"entropy": 1.0}] * 10),
    "much_truncated": ([{"responses/truncated": 0.9}] * 6, [{"responses/truncated": 0.2}] * 6),
    "sampler_differs": ([{"sampler/gap": 0.2}] * 3, [{"sampler/gap": 1e-6}] * 3),
    "much_clipped": ([{"clip/fraction": 0.6}] * 6, [{"clip/fraction": 0.05}] * 6),
}  # fmt: skip


@pytest.mark.parametrize("key", HISTORIES)
def test_each_sign_is_seen_where_it_is_and_nowhere_else(key: str):
    bad, good = HISTORIES[key]
    assert [one.key for one in online_signs(bad)] == [key]
    assert online_signs(good) == []
    assert online_signs([]) == []


def evaluations(*means: float) -> list[dict[str, Any]]:
    return [
        {
            "step": 10 * place,
            "rewards": [mean + 0.01 * spread for spread in (-1, 0, 1, None) if spread is not None],
        }
        for place, mean in enumerate(means)
    ]


def test_a_held_out_reward_that_falls_while_the_training_s_rises_is_told():
    rising = [{"step": float(step), "reward": step / 40} for step in range(1, 31)]
    sign = held_out_falls(evaluations(0.2, 0.6, 0.5, 0.3), rising)
    assert sign is not None
    assert "from 0.600 (step 10) to 0.300" in sign.text
    assert held_out_falls(evaluations(0.2, 0.6, 0.6, 0.599), rising) is None
    flat = [{**row, "reward": 0.5} for row in rising]
    assert held_out_falls(evaluations(0.2, 0.6, 0.5, 0.3), flat) is None
    assert held_out_falls(evaluations(0.6, 0.3), rising) is None
    assert held_out_falls([{"step": 0, "rewards": [None, None]}] * 3, rising) is None
