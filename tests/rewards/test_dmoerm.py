"""DMoERM: labels that agree with themselves, a router that reads queries alone, experts in a fixed order, one scale."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.core.runs import Run
from coalign.data.records import Ranking
from coalign.models.reward_mixture import Aggregator
from coalign.models.reward_model import load_reward_model
from coalign.rewards import dmoerm
from coalign.rewards.mixture import labels
from tests.preference.tiny_runs import pairs, run_system, save_tiny_model, write


@given(st.text(), st.text())
def test_a_label_changes_with_the_order_of_the_responses_and_with_nothing_else(answer, swapped) -> None:
    found, turned = labels.consistent_label(answer, swapped), labels.consistent_label(swapped, answer)
    assert turned == (None if found is None else found[::-1])
    assert labels.consistent_label(answer, answer) is None  # the same place twice


def test_the_aggregator_is_the_function_of_the_paper() -> None:
    torch.manual_seed(0)
    module, states = Aggregator(3, 4), torch.randn(3, 5, 4)
    parts = (
        module.hidden.weight,
        module.hidden.bias,
        module.output.weight,
        module.output.bias,
        module.slope.weight,
    )
    expected = dmoerm.aggregate_experts(states, *parts)
    torch.testing.assert_close(module(torch.cat(list(states), dim=-1)), expected)
    assert module.slope.weight.tolist() == [0.25]


def ranking(place: int, **extra: Any) -> Ranking:
    prompt: Any = [{"role": "user", "content": f"q{place}"}]
    return Ranking(prompt=prompt, responses=("worse", "better"), scores=(0.0, 1.0), extra=extra)


class Speaker:
    """Answers in turn; the first record gets answers that agree, the second one that looks at the place."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def generate(
        self, prompts: Any, sampling: Any, *, done: Any = (), on_batch: Any = None, label: str = ""
    ) -> Any:
        from coalign.models.types import Generation

        self.seen += [one[0]["content"] for one in prompts]
        answers = ["2", "1", "1", "1"] * (len(prompts) // 4)
        made = [[Generation(answer)] for answer in answers]
        on_batch(dict(enumerate(made)))
        return made


def test_a_pair_is_learnt_only_where_both_orders_say_the_same(tmp_path, monkeypatch) -> None:
    speaker = Speaker()
    monkeypatch.setattr(labels, "open_named", lambda *_, **__: speaker)
    run = Run.start(tmp_path / "run", "dmoerm", dmoerm.Config(data="x"))
    records = {"a": [ranking(0), ranking(1)]}
    found = labels.label_points(run, "someone", records, {"a": ["logic"]}, "cpu")
    assert [one.scores for one in found["a"]["logic"]] == [(-2, -1)]
    assert speaker.seen[0].index("worse") < speaker.seen[0].index("better")
    assert speaker.seen[1].index("worse") > speaker.seen[1].index("better")
    again = labels.label_points(run, "someone", records, {"a": ["logic"]}, "cpu")
    assert again == found
    assert len(speaker.seen) == 4, "nothing is asked twice"
    assert run.events("labels")[0]["kept"] == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder: Path = tmp_path_factory.mktemp("mixture")
    model = save_tiny_model(folder / "tiny")
    rows = [{**row, "category": "ab"[at % 2]} for at, row in enumerate(pairs(16))]
    capable = [
        {**row, "category": "ab"[at % 2], "point": "xy"[at // 2 % 2]} for at, row in enumerate(pairs(16))
    ]
    (folder / "points.yaml").write_text("a: [x, y]\nb: [x, y]\n")
    return run_system(
        "dmoerm", dmoerm, folder / "run", model=str(model), data=str(write(folder / "rows.jsonl", rows)),
        capabilities=str(write(folder / "points.jsonl", capable)), points=str(folder / "points.yaml"), eval_fraction=0.25,
    )  # fmt: skip


def test_a_mixture_is_a_reward_model_by_its_folder(run) -> None:
    model: Any = load_reward_model(str(run.path), device="cpu")
    prompts, texts = ["What is the sky like?", "b", "b"], ["yes", "no", "a longer one"]
    together = model.score(prompts, texts)
    for prompt, text, reward in zip(prompts, texts, together, strict=True):
        assert model.score([prompt], [text]) == pytest.approx([reward], abs=1e-4)
    routes = model.route(["b", "b"])
    assert routes[0] == routes[1]
    assert 0.5 <= routes[0][1] <= 1
    names, states = ["point0", "point1"], []
    category = model.categories[routes[0][0]]
    experts, inputs, _ = category.parts
    from coalign.models.reward_mixture import expert_states

    for order in (names, names[::-1]):
        states.append(expert_states(experts, order, inputs, [[inputs.text("b", "no")]]))
    half = states[0].shape[1] // 2
    torch.testing.assert_close(states[0][:, :half], states[1][:, half:])
    assert not torch.allclose(states[0][:, :half], states[0][:, half:], atol=1e-6)


def test_the_report_sets_the_mixture_beside_its_bases(run) -> None:
    titles = [one["title"] for one in json.loads((run.path / "report.json").read_text())["sections"]]
    assert {"Mixture and bases", "Router", "Categories"} <= set(titles)
    kept = json.loads((run.model / "mixture.json").read_text())["categories"]
    assert [one["points"] for one in kept] == [["x", "y"], ["x", "y"]]
    assert all(one["deviation"] > 0 for one in kept)


def test_data_without_two_categories_or_with_an_unknown_one_are_refused() -> None:
    points = {"a": ["x"], "b": ["x"]}
    with pytest.raises(DataError, match="there are 1"):
        dmoerm.by_category([ranking(0, category="a")], points)
    with pytest.raises(DataError, match="without capability points"):
        dmoerm.by_category([ranking(0, category="c")], points)
    found, without = dmoerm.by_category(
        [ranking(0, category="b"), ranking(1, category="a"), ranking(2)], points
    )
    assert [*found] == ["a", "b"]
    assert len(without) == 1


def test_points_are_read_from_yaml(tmp_path) -> None:
    path = tmp_path / "points.yaml"
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="no mapping"):
        dmoerm.read_points(path)
    with pytest.raises(ConfigError, match="no such file"):
        dmoerm.read_points(tmp_path / "absent.yaml")
    assert len(dmoerm.read_points(None)) == 5


def test_the_world_of_capabilities_has_conflicting_tasks_and_learns_from_them(monkeypatch) -> None:
    from coalign.checks.papers.rewards import dmoerm as check
    from coalign.checks.worlds.classifiers.capabilities import TASKS, CapabilityWorld

    world = CapabilityWorld(7)
    ids = world.responses(0, 4000, "any")
    qualities = torch.stack([world.quality(ids, task) for task in range(TASKS)])
    correlation = torch.corrcoef(qualities)
    assert correlation[0, 1:].tolist() == pytest.approx([-0.5, -0.5], abs=0.1)
    parts = sum(world.quality(ids, 1, point) for point in range(3))
    torch.testing.assert_close(parts, world.quality(ids, 1), atol=1e-4, rtol=1e-4)
    better = world.pairs(2, 500, 0.3, "human").ids
    right = (world.quality(better[:, 0], 2) > world.quality(better[:, 1], 2)).float().mean()
    assert float(right) == pytest.approx(0.7, abs=0.07)
    monkeypatch.setattr(check, "HUMAN", 60)
    monkeypatch.setattr(check, "TEST", 20)
    monkeypatch.setattr(check, "PROMPTS", 2)
    material = check.Material(7)
    for rewards in (
        material.mixtures,
        material.without_experts,
        [material.unrouted] * TASKS,
        [material.ensemble] * TASKS,
    ):
        found = material.measured(rewards)
        assert 0 <= found["consistency"] <= 1
        assert math.isfinite(found["gold, best of 256"])
