"""Prompts chosen by template, by learnt likeness and by comparison with anchors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.options import build
from coalign.judging.protocol import JudgeItem, Opinion, PairVerdict
from coalign.loops.curation.named_steps import STEPS
from coalign.loops.steps.anchors import Anchored
from coalign.loops.steps.diversity import (
    Diverse,
    Triplets,
    fine_clusters,
    leaders,
    learnt_map,
    mine_triplets,
    triplet_loss,
)
from coalign.loops.steps.kinds import Kept, Rejected
from coalign.loops.steps.usual import Untemplated
from coalign.measures.anchors import anchor_quality
from coalign.measures.texts.templates import TemplatePool, template_similarity
from coalign.models.scoring.packed_rows import checkpoint_cost, padded_utilisation, sequential_pack

WORD = st.text("abc", min_size=1, max_size=2)


@given(a=st.lists(WORD, max_size=12), b=st.lists(WORD, max_size=12))
def test_similarity_of_templates_is_symmetric_and_a_share(a: list[str], b: list[str]) -> None:
    found = template_similarity(a, b)
    assert found == template_similarity(b, a)
    assert 0 <= found <= 1
    assert (found == 1) == (a == b and bool(a))


def test_the_first_of_a_template_is_kept() -> None:
    step = Untemplated("template", lambda row: row["text"], 0.6)
    texts = [
        "Translate this line into French please",
        "Translate this word into Greek please",
        "Why is it blue",
        "TRANSLATE that line into French",
    ]
    made = []
    for text in texts:
        one = step.look({"text": text})
        if isinstance(one, Kept):
            step.remember({"text": text})
        made.append(one)
    assert [isinstance(one, Kept) for one in made] == [True, False, True, False]
    assert isinstance(made[1], Rejected)
    assert "template" in made[1].reason


@given(texts=st.lists(st.text("ab ", max_size=12), max_size=8), threshold=st.floats(0.1, 1))
def test_lengths_rule_out_no_text_that_shares_a_template(texts: list[str], threshold: float) -> None:
    pool, kept = TemplatePool(threshold), []
    for text in texts:
        said = [one.casefold() for one in text.split()]
        expected = any(template_similarity(said, other) >= threshold and said for other in kept)
        assert bool(pool.nearest(text)) == expected
        pool.add(text)
        kept.append(said)


def test_quality_counts_wins_and_half_of_ties() -> None:
    assert anchor_quality([[1, 0], [-1, 1]]) == (2 + 0.5) / 4
    assert anchor_quality([]) is None
    assert anchor_quality([[0]], tie_credit=0.2) == 0.2


class Longer:
    """A judge who prefers the longer of two, and says nothing of short ones."""

    name = "longer"

    def __init__(self) -> None:
        self.asked: list[JudgeItem] = []

    def compare(self, items: Any, **terms: Any) -> list[PairVerdict]:
        self.asked += items
        found = []
        for item in items:
            first, second = map(len, item.responses)
            choice: Any = (
                None if first < 2 else "first" if first > second else "second" if second > first else "tie"
            )
            found.append(
                PairVerdict(
                    id=item.id, opinions=(Opinion(choice=choice, failure=None if choice else "malformed"),)
                )
            )
        return found


def test_records_are_compared_with_anchors_of_their_bucket() -> None:
    rows = [
        {"id": str(place), "text": "x" * size, "kind": kind}
        for place, (size, kind) in enumerate([(9, "a"), (5, "a"), (3, "b"), (4, "b"), (1, "b")])
    ]
    judge: Any = Longer()
    step = Anchored(
        "anchors", "quality", judge, lambda: rows, lambda row: row["text"], anchors=9, bucket="kind"
    )
    made = [one for (one,) in step(rows)]
    assert [one.row["quality"] for one in made if isinstance(one, Kept)] == [1.0, 0.0, 0.5, 1.0]
    assert isinstance(made[4], Rejected)
    assert all(
        {len(one) for one in item.responses} <= {9, 5} or {len(one) for one in item.responses} <= {3, 4, 1}
        for item in judge.asked
    )
    again = Anchored("anchors", "quality", judge, lambda: rows, lambda row: row["text"], anchors=1, seed=3)
    assert (
        again._anchors()
        == Anchored("x", "q", judge, lambda: rows, lambda row: row["text"], anchors=1, seed=3)._anchors()
    )
    assert [len(one) for one in again._anchors().values()] == [1]


def test_a_bucket_that_the_data_do_not_have_is_refused() -> None:
    rows = [{"id": str(place), "text": "x" * (3 + place)} for place in range(3)]
    labelled = [{**row, "label": "a"} for row in rows]
    judge: Any = Longer()
    step = Anchored(
        "anchors", "quality", judge, lambda: rows, lambda row: row["text"], anchors=2, bucket="label"
    )
    with pytest.raises(CoalignError, match="bucket: no record has a column 'label'"):
        step(labelled)


def test_triplets_lie_in_different_clusters_and_differ_by_template() -> None:
    texts = [f"say {one} now please" for one in "abcdef"] + [f"why is {one}" for one in "uvwxyz"]
    clusters = np.arange(len(texts)) % 4
    found = mine_triplets(texts, clusters, threshold=0.6, most=50, seed=0)
    assert found.anchors
    for anchor, positive, negative in zip(found.anchors, found.positives, found.negatives, strict=True):
        assert clusters[anchor] != clusters[positive]
        assert clusters[anchor] != clusters[negative]
        assert template_similarity(texts[anchor].split(), texts[positive].split()) >= 0.6
        assert template_similarity(texts[anchor].split(), texts[negative].split()) < 0.6


def test_the_triplet_loss_is_its_formula() -> None:
    a, p, n = (
        torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=-1) for _ in range(3)
    )
    by_hand = [max(0.0, float((a[i] - p[i]).norm() - (a[i] - n[i]).norm()) + 0.2) for i in range(5)]
    assert float(triplet_loss(a, p, n, 0.2)) == pytest.approx(sum(by_hand) / 5)


def test_a_learnt_map_brings_positives_nearer_than_negatives() -> None:
    generator = torch.Generator().manual_seed(0)
    task = torch.eye(4).repeat_interleave(8, 0)
    points = torch.nn.functional.normalize(
        torch.cat([task, 3 * torch.randn(32, 4, generator=generator)], 1), dim=-1
    )
    triplets = Triplets(
        list(range(32)),
        [8 * (i // 8) + (i + 1) % 8 for i in range(32)],
        [(i + 8) % 32 for i in range(32)],
    )

    def gap(found: torch.Tensor) -> float:
        a, p, n = (found[one] for one in (triplets.anchors, triplets.positives, triplets.negatives))
        return float(((a - n).norm(dim=-1) - (a - p).norm(dim=-1)).mean())

    learnt = learnt_map(points, triplets, margin=0.2, steps=200, learning_rate=1e-2, seed=0)
    assert gap(learnt) > gap(points) + 0.2
    assert learnt.norm(dim=-1).tolist() == pytest.approx([1.0] * 32, abs=1e-5)
    assert torch.equal(
        learnt_map(points, Triplets([], [], []), margin=0.2, steps=5, learning_rate=1e-2, seed=0), points
    )


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=2), min_size=1, max_size=20), st.floats(0.05, 1)
)
def test_leaders_are_apart_and_stand_near_everything(points: list[list[float]], threshold: float) -> None:
    found = np.array(points)
    kept = leaders(found, [threshold])
    assert kept[0] == 0
    for one, other in ((one, other) for one in kept for other in kept if one < other):
        assert np.linalg.norm(found[one] - found[other]) >= threshold
    for point in found:
        assert np.linalg.norm(found[kept] - point, axis=1).min() < threshold or any(
            (found[kept] == point).all(axis=1)
        )


def test_the_choice_keeps_one_of_each_group_and_the_same_each_time(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": f"{'say' if i % 2 else 'why'} {i}"} for i in range(12)]

    def encode(texts: Any) -> torch.Tensor:
        return torch.nn.functional.normalize(
            torch.tensor(
                [[1.0, 0.01 * len(t)] if t.startswith("say") else [0.01 * len(t), 1.0] for t in texts]
            ),
            dim=-1,
        )

    step = Diverse("diverse", lambda row: row["text"], encode, [0.2, 0.5], steps=0)
    picks = step.choose(step.sketch(rows))
    assert list(picks.groups) == [0, 1]
    learnt = Diverse("diverse", lambda row: row["text"], encode, [0.2, 0.5], steps=20, template=0.5)
    assert list(learnt.choose(learnt.sketch(rows)).groups) == list(learnt.choose(learnt.sketch(rows)).groups)
    assert list(step.choose(step.sketch([])).groups) == []


def test_fine_clusters_lie_within_coarse_ones() -> None:
    points = np.concatenate([np.random.default_rng(0).normal(center, 0.1, size=(10, 2)) for center in (0, 5)])
    found = fine_clusters(points, 2, 3, seed=0)
    assert len({*(found[:10] // 3)}) == len({*(found[10:] // 3)}) == 1
    assert found[0] // 3 != found[10] // 3


@given(lengths=st.lists(st.integers(1, 40), max_size=30), capacity=st.integers(1, 32))
def test_rows_hold_every_sample_that_fits_once_and_in_order(lengths: list[int], capacity: int) -> None:
    found = sequential_pack(lengths, capacity)
    inside = [place for row in found.rows for place in row]
    assert inside == sorted(inside)
    assert sorted([*inside, *found.dropped]) == list(range(len(lengths)))
    assert all(one[-1] <= capacity for one in found.boundaries)
    assert all(lengths[one] > capacity for one in found.dropped)
    for row, begins, places in zip(found.rows, found.boundaries, found.position_ids, strict=True):
        assert places == [place for one in row for place in range(lengths[one])]
        assert len(places) == begins[-1]
    for row, following in zip(found.rows, found.rows[1:], strict=False):
        assert sum(lengths[one] for one in row) + lengths[following[0]] > capacity


def test_shares_and_costs() -> None:
    assert padded_utilisation([2, 4, 1], 2) == pytest.approx(7 / 9)
    cost = checkpoint_cost(8, 4.0, 64)
    assert cost.index(min(cost)) + 1 == 4


@pytest.mark.parametrize("values", [{"thresholds": [0.4, 0.2]}, {"thresholds": []}])
def test_thresholds_grow(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="growing order"):
        build(STEPS["diverse"], values)
