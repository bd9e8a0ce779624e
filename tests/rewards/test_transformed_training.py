"""reward-transform and infalign on a tiny model: base rewards and their cache, references, utilities, what is compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coalign.cli.running.run import execute
from coalign.core.errors import CoalignError, ConfigError, ModelError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.system import load_system
from coalign.judging.rewards.mix import Draft, RewardMix, Weighted
from coalign.judging.rewards.specs import RewardOptions, build_rewards
from coalign.loops.online_run import Task
from coalign.measures.reward_transforms import reference_quantile
from coalign.measures.win_rates import quantile_win_rates, tilted_density
from coalign.rewards.infalign import transform_table, transformed, win_rates_over
from coalign.rewards.reward_transform import good_in_all, plain_sum
from coalign.rewards.transformed.references import references_of
from coalign.rewards.transformed.training import at_divergence, common_divergence, with_utility
from tests.contract.small import SMALL, furnish


def tiny(folder: Path, name: str, out: str, **options: Any) -> Any:
    furnish(folder, SMALL[name])
    given = {
        **SMALL[name].options,
        **options,
        "prompts": str(folder / "prompts.jsonl"),
        "model": str(folder / "models/tiny"),
    }
    system = load_system(name)
    return execute(name, system, build(system.Config, given, where="test"), folder / out)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_references_are_quantiles_of_the_base_and_are_sampled_once(tmp_path: Path, cache: Path):
    run = tiny(tmp_path, "reward-transform", "one", compare=True)
    rows = read_rows(run.artefacts / "base_rewards.jsonl")
    assert {row["reward"] for row in rows} == {"max_characters:5", "must_include:e"}
    for row in rows:
        assert row["reference"] == pytest.approx(float(reference_quantile(row["rewards"], 0.85)))
        assert row["rewards"] == sorted(row["rewards"])
    results = json.loads((run.artefacts / "results.json").read_text())
    assert set(results["at"]) == {"log-sigmoid sum", "plain sum"}
    assert (
        results["matched_kl"] <= min(max(p["kl"] for p in one) for one in results["curves"].values()) + 1e-9
    )
    assert (run.path / "plain-sum").is_dir()
    (event,) = run.events("base_rewards")
    assert event["cached"] == 0
    again = tiny(tmp_path, "reward-transform", "two", quantile=0.5)
    assert [one["cached"] for one in again.events("base_rewards")] == [6]
    assert read_rows(again.artefacts / "base.jsonl") == read_rows(run.artefacts / "base.jsonl")
    other = tiny(tmp_path, "reward-transform", "three", base_samples=5)
    assert [one["cached"] for one in other.events("base_rewards")] == [0]
    reward = f"log_sigmoid:{run.artefacts / 'base_rewards.jsonl'}:max_characters:5"
    mix = build_rewards(RewardOptions(reward=[reward]))
    assert mix([Draft(0, rows[0]["prompt"], "short")])[0] <= 0


def test_a_reward_that_is_one_number_everywhere_ends_the_run(tmp_path: Path, cache: Path):
    with pytest.raises(ModelError, match="is 1 for every response of the base: there is nothing to learn"):
        tiny(tmp_path, "infalign", "run", reward=["max_words:99"])


def test_a_reward_that_is_never_a_number_ends_the_run(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    from coalign.judging.rewards import mix as module

    monkeypatch.setattr(module.ConstraintReward, "score", lambda self, drafts: [math.nan] * len(drafts))
    with pytest.raises(CoalignError, match="4 of 4 responses of the base to prompt"):
        tiny(tmp_path, "infalign", "run")


REFERENCES = {"p": {"a": 0.0, "b": 2.0}}
NAMES = {"first": "a", "second": "b"}


def test_the_utility_is_the_log_probability_of_being_good_in_all():
    values = {"first": [0.0, 3.0, None], "second": [2.0, 2.0, 2.0]}
    found = good_in_all(NAMES, REFERENCES, {"a": 1.0, "b": 2.0})("p", values, [])
    half = math.log(0.5)
    assert found["rewards"][0] == pytest.approx(3 * half)
    assert found["rewards"][1] == pytest.approx(-math.log1p(math.exp(-3)) + 2 * half)
    assert math.isnan(found["rewards"][2])
    assert found["values"]["log P(a)"][0] == pytest.approx(half)
    assert plain_sum(values, NAMES, {"a": 1.0, "b": 2.0})[:2] == [4.0, 7.0]


def test_rows_keep_their_raw_rewards_beside_the_utility():
    score = with_utility(
        lambda rows: [{"rewards": [1.0, 2.0], "values": {"x": [1.0, 2.0]}} for _ in rows],
        lambda prompt, values, rewards: {"rewards": [0.0, float(len(prompt))], "values": {"y": [5.0, 6.0]}},
    )
    (found,) = score([{"id": "abc#7"}])
    assert found == {"rewards": [0.0, 3.0], "values": {"x": [1.0, 2.0], "y": [5.0, 6.0]}}
    (found,) = score([{"id": "ab"}])
    assert found["rewards"] == [0.0, 2.0]


def config(name: str, **given: Any) -> Any:
    return build(load_system(name).Config, {"prompts": "p", "reward": ["max_words:3"], **given}, where="test")


class Given:
    name = "given"

    def score(self, drafts: Any) -> list[float]:
        return [float("nan") if "sorry" in one.text else 7.0 for one in drafts]


def task(name: str) -> Task:
    return Task(0, name, "q", None)  # type: ignore[arg-type]


def test_references_of_other_kinds():
    rewards = {"p": {"given": [1.0, 2.0]}}
    mix = RewardMix([Weighted(Given())], unscorable="leave out")
    constant = config("reward-transform", reference="constant", constants=[0.25])
    assert references_of(constant, [task("p")], mix, rewards) == {"p": {"given": 0.25}}
    canned = config("reward-transform", reference="canned_response", canned_response="no")
    assert references_of(canned, [task("p")], mix, rewards) == {"p": {"given": 7.0}}
    with pytest.raises(ConfigError, match="a reward is not a number for it"):
        references_of(config("reward-transform", reference="canned_response"), [task("p")], mix, rewards)


@pytest.mark.parametrize("decoding", ["best_of_n", "worst_of_n"])
@pytest.mark.parametrize("transform", ["exponential", "optimal", "identity"])
def test_every_transform_rises_and_what_fits_the_decoding_wins_more(decoding: str, transform: str):
    places, values = transform_table(config("infalign", decoding=decoding, transform=transform, beta=0.5))
    assert (np.diff(values) >= 0).all()
    utility = transformed({"p": [0.0, 1.0, 2.0, 3.0]}, "r", (places, values))
    found = utility("p", {"r": [5.0, 1.5, None]}, [])
    assert found["values"]["calibrated"][:2] == [1.0, 0.5]
    assert found["rewards"][0] == pytest.approx(values[-1])
    assert math.isnan(found["rewards"][2])
    middles = (np.arange(2000) + 0.5) / 2000

    def at_kl(phi: Any) -> Any:
        low, high = 1e-4, 1e3
        for _ in range(80):
            middle = math.sqrt(low * high)
            kl = quantile_win_rates(tilted_density(phi, middle), 4).kl
            low, high = (middle, high) if kl > 0.4 else (low, middle)
        return getattr(quantile_win_rates(tilted_density(phi, high), 4), decoding)

    gain = at_kl(np.interp(middles, places, values)) - at_kl(middles)
    assert abs(gain) < 1e-6 if transform == "identity" else gain > 0.03


def test_win_rates_of_too_few_scored_responses_are_not_measured():
    measure = win_rates_over({"p": [0.0, 1.0, 2.0]}, "r", 2)
    found = measure("p", [], {"r": [5.0, 6.0]})
    assert (found["standard"], found["best_of_n"], found["saturated"]) == (1, 1, 1)
    assert math.isnan(measure("p", [], {"r": [5.0, None]})["best_of_n"])


def test_policies_are_compared_where_all_of_them_went():
    curves = {
        "a": [{"kl": 0.0, "x": 0.0}, {"kl": 2.0, "x": 1.0}],
        "b": [{"kl": 0.0, "x": 0.0}, {"kl": 1.0, "x": 0.2}, {"kl": 0.5, "x": 0.3}],
    }
    assert common_divergence(curves) == 1.0
    assert at_divergence(curves["a"], "x", 1.0) == 0.5
    assert at_divergence(curves["b"], "x", 0.5) == 0.3
    assert at_divergence(curves["b"], "x", 1.5) is None
