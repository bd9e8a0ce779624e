"""Mixtures of domains: weights, drawing, gradients that leave the training alone, domains, resume, messages."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from coalign.checks.steps import example
from coalign.cli.running.run import execute
from coalign.core.errors import CoalignError, ConfigError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.curation import dga
from coalign.curation.dga import updated_weights, usual_step_size
from coalign.curation.mixing.domains import windows
from coalign.curation.mixing.pool import Drawing, Pool
from coalign.curation.mixing.task import Alignment, MixtureTask, inner_product
from coalign.models.modules import evaluation
from coalign.training.batches import Example
from coalign.training.objective import get_objective
from tests.models.tiny import make_model
from tests.preference.tiny_runs import save_tiny_model, write

simplex = st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda x: sum(x) > 1e-3).map(
    lambda x: np.array(x) / sum(x)
)  # fmt: skip


@settings(deadline=None)
@given(simplex, st.floats(-1e4, 1e4), st.floats(1e-3, 10), st.floats(0.01, 1), st.integers(0, 2**32))
def test_an_update_is_a_mixture_that_no_constant_in_the_alignments_changes(
    weights, constant, step_size, average, seed
) -> None:
    alignments = np.random.default_rng(seed).normal(size=len(weights))
    instant, new = updated_weights(weights, alignments, step_size, average)
    assert new.sum() == pytest.approx(1)
    assert new.min() >= 0
    assert (instant[weights == 0] == 0).all()
    np.testing.assert_allclose(new, (1 - average) * weights + average * instant)
    shifted, _ = updated_weights(weights, alignments + constant, step_size, average)
    np.testing.assert_allclose(shifted, instant, atol=1e-9)
    order = np.random.default_rng(seed + 1).permutation(len(weights))
    np.testing.assert_allclose(
        updated_weights(weights[order], alignments[order], step_size)[0], instant[order]
    )


def test_the_usual_step_size_counts_the_farthest_alignment_as_one_in_the_widest_update() -> None:
    assert usual_step_size([2.0, 2.0]) is None
    assert usual_step_size([1.0, 2.0, 6.0]) == pytest.approx(1 / 3)
    assert usual_step_size([1.0, 2.0, 3.0], before=0.5) == 0.5
    assert usual_step_size([0.0, 8.0], before=0.5) == pytest.approx(1 / 4)
    assert usual_step_size([2.0, 2.0], before=0.5) == 0.5


def pool_of(sizes: dict[str, int], vocabulary: int = 90) -> Pool:
    draw = np.random.default_rng(0)

    def made(name: str, number: int) -> Example:
        ids = draw.integers(3, vocabulary, 2 + number % 5).tolist()
        one = example([1], [ids])
        return Example(one.contexts, f"{name}{number}", {}, tag=name)

    return Pool([*sizes], [made(name, number) for name, size in sizes.items() for number in range(size)])


def test_no_record_of_a_domain_comes_again_before_all_came_and_none_of_weight_0() -> None:
    pool = pool_of({"a": 5, "b": 3, "c": 4})
    drawing = Drawing(pool, seed=1, per_step=4)
    weights = np.array([0.7, 0.0, 0.3])
    found = [row for step in range(20) for row in drawing.rows(range(4 * step, 4 * step + 4), weights)]
    tags = [pool.examples[row].tag for row in found]
    assert drawing.counts.tolist() == [tags.count(name) for name in "abc"]
    assert "b" not in tags
    of_a = [row for row in found if pool.examples[row].tag == "a"]
    for start in range(0, len(of_a) - 5, 5):
        assert len(set(of_a[start : start + 5])) == 5


def test_the_drawing_goes_on_from_its_counts_and_is_the_same_for_parts_of_a_step() -> None:
    pool, weights = pool_of({"a": 5, "b": 3}), np.array([0.6, 0.4])
    whole = Drawing(pool, seed=1, per_step=6)
    steps = [whole.rows(range(6 * step, 6 * step + 6), weights) for step in range(6)]
    halves = Drawing(pool, seed=1, per_step=6)
    _ = [halves.rows(range(6 * step + 3, 6 * step + 6), weights) for step in range(3)]
    resumed = Drawing(pool, seed=1, per_step=6)
    resumed.counts = halves.counts.copy()
    assert resumed.rows([18, 19, 20], weights) + resumed.rows([21, 22, 23], weights) == steps[3]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_a_sample_for_a_gradient_repeats_nothing_before_all_came(count, seed) -> None:
    pool = pool_of({"a": 4, "b": 6})
    alone = pool.sample(np.array([1.0, 0.0]), count, np.random.default_rng(seed))
    assert {one.tag for one in alone} == {"a"}
    assert len({one.id for one in alone}) == len(alone) == min(count, 4)
    mixed = pool.sample(np.array([0.5, 0.5]), count, np.random.default_rng(seed))
    # no domain's record comes a second time while another one of it has not come
    for name, size in (("a", 4), ("b", 6)):
        times = Counter(one.id for one in mixed if one.tag == name)
        assert not times or max(times.values()) == -(-sum(times.values()) // size)


def aligned(pool: Pool, target: Pool, **changes: Any) -> tuple[MixtureTask, Alignment]:
    how = Alignment(
        target, changes.pop("basis", None), lambda weights, alignments, told: (weights, told), every=1,
        rows=4, target_rows=5, **{"batch_size": 2, **changes},
    )  # fmt: skip
    weights = np.full(len(pool.names), 1 / len(pool.names))
    return MixtureTask(get_objective("sft"), pool, weights, how, seed=0, per_step=4), how


def adapted(dropout: float = 0.5) -> torch.nn.Module:
    torch.manual_seed(0)
    model: Any = make_model("llama_tied")
    config = LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout, init_lora_weights=False)
    return get_peft_model(model, config).train()


def test_alignments_are_inner_products_of_the_adapters_gradients_without_dropout() -> None:
    pool, target, model = pool_of({"a": 6, "b": 6}), pool_of({"target": 7}), adapted()
    task, how = aligned(pool, target)
    found = task.alignments(model, how, step=3)

    def by_hand(examples: list[Example]) -> list[torch.Tensor]:
        model.zero_grad()
        with evaluation(model):
            batch = task.collate(examples)["batch"]
            losses = task.objective.loss(task.score(model, batch), None).losses
            (losses.sum() / batch.count("tokens")).backward()
        return [cast(torch.Tensor, one.grad).clone() for one in model.parameters() if one.requires_grad]

    wanted = by_hand(target.sample(np.ones(1), 5, np.random.default_rng([0, 3, 2])))
    for place, one in enumerate(np.eye(2)):
        own = by_hand(pool.sample(one, 4, np.random.default_rng([0, 3, 3, place])))
        assert found[place] == pytest.approx(inner_product(own, wanted), rel=1e-4)


def test_alignments_do_not_depend_on_the_forward_passes_and_leave_the_training_as_it_is() -> None:
    pool, target, model = pool_of({"a": 6, "b": 6}), pool_of({"target": 7}), adapted()
    model.zero_grad()
    state, modes = torch.get_rng_state(), [one.training for one in model.modules()]
    found = [task.alignments(model, how, 1) for task, how in (aligned(pool, target, batch_size=n) for n in (1, 5))]  # fmt: skip
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
    assert all(one.grad is None for one in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert [one.training for one in model.modules()] == modes


def test_cosine_alignments_are_those_of_scaled_gradients() -> None:
    pool, target, model = pool_of({"a": 6, "b": 6}), pool_of({"target": 7}), adapted()
    cosine, how = aligned(pool, target, cosine=True)
    found = cosine.alignments(model, how, 1)
    assert (np.abs(found) <= 1 + 1e-6).all()
    assert np.sign(found).tolist() == np.sign(aligned(pool, target)[0].alignments(model, how, 1)).tolist()


def test_a_basis_of_single_domains_gives_what_no_basis_gives() -> None:
    pool, target, model = pool_of({"a": 6, "b": 6}), pool_of({"target": 7}), adapted()
    plain, with_basis = aligned(pool, target), aligned(pool, target, basis=np.eye(2))
    for task, how in (plain, with_basis):
        task.weights = np.array([0.25, 0.75])
        np.testing.assert_array_equal(task.domain_weights, [0.25, 0.75])
        np.testing.assert_array_equal(task.alignments(model, how, 1), plain[0].alignments(model, plain[1], 1))


def test_layers_that_recompute_do_so_in_evaluation_mode_where_that_is_asked_for() -> None:
    model: Any = make_model("llama").train()
    model.gradient_checkpointing_enable()
    layer = model.model.layers[0]
    with evaluation(model, recompute=True):
        assert layer.training
        assert not layer.mlp.training
    with evaluation(model):
        assert not layer.training
    assert layer.training


def test_batches_are_filled_with_the_weights_at_the_beginning_of_their_step() -> None:
    """The loader is a batch ahead: what it made before an update must not keep the old weights."""
    pool = pool_of({"a": 6, "b": 6})
    task, _ = aligned(pool, pool_of({"target": 3}))
    task.weights = np.array([1.0, 0.0])
    first, ahead = task.collate([0, 1, 2, 3]), task.collate([4, 5, 6, 7])
    task.count(first)
    task.weights = np.array([0.0, 1.0])
    task.count(ahead)
    assert [one[0] for one in first["ids"]] == ["a"] * 4
    assert [one[0] for one in ahead["ids"]] == ["b"] * 4


def test_weights_and_counts_go_through_a_checkpoint_as_they_are(tmp_path: Path) -> None:
    pool, model = pool_of({"a": 6, "b": 6}), adapted()
    task, _ = aligned(pool, pool_of({"target": 3}))
    task.count(task.collate([0, 1, 2, 3]))
    task.weights = np.array([1 / 3, 2 / 3])
    task.after_step(model, cast(Any, SimpleNamespace(global_step=1)))
    task.save(tmp_path)
    other, _ = aligned(pool, pool_of({"target": 3}))
    other.load(tmp_path)
    assert other.weights.tolist() == task.weights.tolist()
    assert other.drawing.counts.tolist() == task.drawing.counts.tolist()
    assert other.trajectory == task.trajectory
    assert [row["step"] for row in task.trajectory] == [0, 1]


@pytest.mark.parametrize(("length", "longest", "pieces"), [(7, 4, [3, 3, 1]), (3, 4, [3]), (6, 4, [3, 3])])
def test_a_long_text_becomes_pieces_that_lose_no_token(length, longest, pieces) -> None:
    one = example([1], [list(range(10, 10 + length))])
    found = windows(one, longest)
    assert [len(piece.contexts[0].response_ids[0]) for piece in found] == pieces
    assert [id for piece in found for id in piece.contexts[0].response_ids[0]] == list(range(10, 10 + length))
    assert all(piece.contexts[0].prompt_ids == [1] for piece in found)


def test_a_limit_without_room_for_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_length: 1 leaves no room"):
        windows(example([1], [[5, 6]]), 1)


CHATTER = [f"the {one} runs to the {other}" for one in ("cat", "dog", "hen") for other in ("tree", "house")]
SUMS = [f"{n} + {m} = {n + m}" for n in range(1, 4) for m in range(1, 3)]


MOVING = {"update_every": 2, "average": 0.5, "step_size": 2.0, "alignment": "cosine"}


def settle(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two domains, a target that is one of them, and a model; constant weights where `weights` are given."""
    write(folder / "chatter.jsonl", [{"text": one} for one in CHATTER])
    write(folder / "sums.jsonl", [{"text": one} for one in SUMS])
    write(folder / "target.jsonl", [{"text": f"{n} + {n} = {2 * n}"} for n in range(4, 9)])
    if not (folder / "model").exists():
        save_tiny_model(folder / "model")
    return {
        "data": [str(folder / "chatter.jsonl"), str(folder / "sums.jsonl")], "target": str(folder / "target.jsonl"),
        "model": str(folder / "model"), "device": "cpu", "batch_size": 4, "learning_rate": 1e-2, "max_steps": 12,
        "save_steps": 0, "eval_fraction": 0.2, **({} if "weights" in changes else MOVING), **changes,
    }  # fmt: skip


def ran(folder: Path, options: dict[str, Any]) -> Run:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return execute("dga", cast(Any, dga), build(dga.Config, options), folder)


def weights_of(run: Run) -> tuple[list[str], list[list[float]]]:
    header, *rows = csv.reader((run.artefacts / "weights.csv").read_text(encoding="utf-8").splitlines())
    return header, [[float(one) for one in row] for row in rows]


def test_the_domain_of_the_target_gains_weight_and_the_report_shows_it(tmp_path: Path) -> None:
    run = ran(tmp_path / "run", settle(tmp_path))
    header, rows = weights_of(run)
    assert header == ["step", "chatter", "sums"]
    assert [row[0] for row in rows] == [0, 2, 4, 6, 8, 10, 12]
    assert rows[0][1:] == [0.5, 0.5]
    assert rows[-1][2] > 0.7
    drawn = [json.loads(line) for line in (run.artefacts / "domains.jsonl").read_text().splitlines()]
    assert sum(one["drawn"] for one in drawn) == 12 * 4
    report = json.loads((run.path / "report.json").read_text(encoding="utf-8"))
    curves = next(one for one in report["sections"] if one["title"] == "The mixture")
    assert [one["name"] for one in curves["charts"][0]["series"]] == ["chatter", "sums"]
    text, figure = report["verdict"]["text"], report["verdict"]["figures"][0]
    assert "Held-out target loss" in text
    assert "Too few to tell: 2 held out" in text
    assert figure["difference"]["value"] == pytest.approx(figure["value"] - figure["before"], abs=1e-5)
    again = ran(
        tmp_path / "fixed", settle(tmp_path, weights="fixed", weights_from=str(run.path), max_steps=2)
    )
    assert weights_of(again)[1][0][1:] == rows[-1][1:]


@pytest.mark.slow
def test_the_verdict_has_the_interval_of_the_targets_records_in_which_a_long_text_counts_once(
    tmp_path: Path,
) -> None:
    options = settle(tmp_path, weights="uniform", max_length=6, max_steps=8)
    del options["eval_fraction"]
    targets = [{"text": f"{n} + {n} = {2 * n}" + " and so on" * (n % 3)} for n in range(24)]
    write(tmp_path / "wanted.jsonl", targets)
    run = ran(tmp_path / "run", {**options, "eval_data": str(tmp_path / "wanted.jsonl")})
    rows = [json.loads(line) for line in (run.artefacts / "held_out.jsonl").read_text().splitlines()]
    assert len(rows) == 24
    assert {one["source"] for one in rows} == {"target"}
    assert max(one["tokens"] for one in rows) > 6
    report = json.loads((run.path / "report.json").read_text(encoding="utf-8"))
    tokens = sum(one["tokens"] for one in rows)
    change = report["verdict"]["figures"][0]["difference"]
    assert change["value"] == pytest.approx(
        sum(one["after"] - one["before"] for one in rows) / tokens, abs=1e-6
    )
    assert change["low"] < change["value"] < change["high"]
    assert report["verdict"]["outcome"] == ("improved" if change["high"] < 0 else "neutral")
    assert "95 % interval" in report["verdict"]["text"]


@pytest.mark.parametrize(
    ("weights", "expected"), [("uniform", [0.5, 0.5]), ("importance", [0.0, 1.0])], ids=lambda one: str(one)
)
def test_constant_mixtures_stay(weights, expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Letters:
        """Embeds a text by how many of its signs are digits."""

        def encode(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([[sum(one.isdigit() for one in text) / len(text)] for text in texts])

    monkeypatch.setattr("coalign.models.embedding.load_encoder", lambda *_, **__: Letters())
    run = ran(tmp_path / "run", settle(tmp_path, max_steps=2, weights=weights))
    assert weights_of(run)[1] == [[0.0, *expected]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "sums.jsonl"}, "is one domain"),
        ({"data": "sums.jsonl", "domain_column": "kind"}, "sums.jsonl:1: kind: is missing"),
        ({"data": "sums.jsonl", "clusters": 99}, "clusters: 99 clusters cannot be made of"),
        ({"weights_from": "nowhere"}, "nowhere has no weights"),
        ({"data": ["sums.jsonl,tag=target", "chatter.jsonl"]}, "A domain is named target"),
    ],
)
def test_a_message_says_what_is_wrong_with_the_domains(
    changes, message, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = SimpleNamespace(encode=lambda texts: torch.arange(len(texts), dtype=torch.float32)[:, None])
    monkeypatch.setattr("coalign.models.embedding.load_encoder", lambda *_, **__: encoder)
    with pytest.raises(CoalignError) as caught:
        ran(tmp_path / "run", settle(tmp_path, **changes))
    assert message in f"{caught.value}"


def test_weights_of_other_domains_are_refused(tmp_path: Path) -> None:
    run = ran(tmp_path / "run", settle(tmp_path, max_steps=1))
    write(tmp_path / "letters.jsonl", [{"text": one} for one in CHATTER])
    options = settle(tmp_path, weights_from=str(run.path))
    with pytest.raises(ConfigError, match="chatter is not in both"):
        ran(tmp_path / "other", {**options, "data": [str(tmp_path / "letters.jsonl"), options["data"][1]]})


def test_a_launcher_that_spreads_parameters_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="without FSDP"):
        ran(tmp_path / "run", settle(tmp_path))


def test_weights_of_clusters_go_with_the_clusters_that_they_were_found_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = SimpleNamespace(encode=lambda texts: torch.tensor([[float("+" in one)] for one in texts]))
    monkeypatch.setattr("coalign.models.embedding.load_encoder", lambda *_, **__: encoder)
    settled = settle(tmp_path, max_steps=4)
    both = tmp_path / "both.jsonl"
    write(both, [{"text": one} for one in CHATTER + SUMS])
    clusters = {"data": str(both), "clusters": 2}
    tasks = {"reference_tasks": [settled["target"], settled["data"][0]]}
    found = ran(tmp_path / "found", {**settled, **clusters, **tasks})
    drawn = [json.loads(line) for line in (found.artefacts / "domains.jsonl").read_text().splitlines()]
    fixed = {**settle(tmp_path, max_steps=1, weights="fixed", weights_from=str(found.path)), **clusters}
    held = ran(tmp_path / "held", fixed)
    assert weights_of(held)[1][0][1:] == pytest.approx([row["weight"] for row in drawn])
    write(both, [{"text": one} for one in SUMS + CHATTER])
    with pytest.raises(ConfigError, match="weights of other clusters"):
        ran(tmp_path / "other", fixed)
