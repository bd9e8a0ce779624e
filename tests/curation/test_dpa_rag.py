"""Passages by what they do to a reader: labels, losses of the reranker and their weights, the reranker, runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import build
from coalign.curation import dpa_rag
from coalign.curation.reading.augmentation import KINDS, contradicted, rewritten
from coalign.curation.reading.knowledge import (
    HELPS,
    HINDERS,
    effects,
    pre_aligned,
    preference_of,
    preference_row,
    reader_prompt,
)
from coalign.curation.reading.reranker import RerankerOptions, load_reranker, loss_weights, new_reranker
from coalign.curation.reading.stages import tried, with_passages
from coalign.data.passages import Passage
from coalign.data.questions import Question
from coalign.measures.min_norm import exact_min_norm, grid_min_norm
from coalign.models.types import Sampling
from coalign.training.losses.reranking import contrastive_loss, pairwise_loss, pointwise_loss
from tests.contract import rows
from tests.contract.small import MODELS
from tests.evaluation.scripted import ScriptedGenerator
from tests.preference.tiny_runs import write

PASSAGES = tuple(Passage(str(place), text) for place, text in enumerate(("good", "bad", "fine", "off"), 1))
MATRICES = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 5)),
    elements=st.floats(-3, 3).map(lambda x: round(x, 3)),
)


# -- labels -------------------------------------------------------------------------------------------------------


def test_passages_are_aligned_or_not_by_what_they_change() -> None:
    row = preference_row("q", "Who?", False, PASSAGES, [True, False, True, False])
    assert effects([row]) == {"aligned": 2, "unaligned": 0, "both_correct": 0, "both_incorrect": 2}
    found = preference_of(row, "Who is it?", "q/1", most=2)
    assert found is not None
    assert (found.texts, found.helped, found.labels) == (
        ("good", "fine", "bad", "off"),
        (True, True, False, False),
        [1, 1, -1, -1],
    )
    known = preference_row("q", "Who?", True, PASSAGES, [True, False, True, False])
    other = preference_of(known, "Who?", "q/0", most=1)
    assert other is not None
    assert (other.texts, other.labels) == (("good", "bad"), [-1, 0])
    assert (
        preference_of(preference_row("q", "Who?", True, PASSAGES, [True] * 4), "Who?", "q/0", most=2) is None
    )


def test_the_reader_learns_to_judge_what_changes_its_answer() -> None:
    helps = pre_aligned(preference_row("q", "Who?", False, PASSAGES, [False, True, False, False]), "Ann")
    hinders = pre_aligned(preference_row("q", "Who?", True, PASSAGES, [True, True, False, True]), "Ann")
    assert helps is not None
    assert hinders is not None
    assert (helps.completion, hinders.completion) == (f"{HELPS} Ann", f"{HINDERS} Ann")
    assert "[1] bad" in helps.prompt[0]["content"]
    assert "[1] fine" in hinders.prompt[0]["content"]
    assert pre_aligned(preference_row("q", "Who?", True, PASSAGES, [True] * 4), "Ann") is None
    assert "Passages" not in reader_prompt("桥是什么颜色?", [])[0]["content"]


# -- losses -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=4), st.randoms())
def test_losses_do_not_depend_on_the_other_queries(shape: list[tuple[int, int]], rng: Any) -> None:
    torch.manual_seed(rng.randrange(1000))
    sizes = [helped + other for helped, other in shape]
    n = len(shape)
    queries = torch.arange(n).repeat_interleave(torch.tensor(sizes))
    labels = torch.tensor([each for helped, other in shape for each in [1] * helped + [0] * other])
    states, logits = (
        torch.randn(sum(sizes), 5, dtype=torch.float64),
        torch.randn(sum(sizes), 2, dtype=torch.float64),
    )

    def losses(rows: torch.Tensor, numbers: torch.Tensor, count: int) -> list[torch.Tensor]:
        return [
            pointwise_loss(logits[rows], labels[rows], numbers, count),
            pairwise_loss(logits[rows, 1], numbers, count),
            contrastive_loss(states[rows], labels[rows], numbers, count),
        ]

    together = losses(torch.arange(sum(sizes)), queries, n)
    for query in range(n):
        mine = (queries == query).nonzero()[:, 0]
        for one, whole in zip(
            losses(mine, torch.zeros(len(mine), dtype=torch.long), 1), together, strict=True
        ):
            torch.testing.assert_close(one[0], whole[query])
            assert torch.isfinite(one).all()


def test_a_perfect_order_costs_little_and_a_lone_label_nothing() -> None:
    queries = torch.tensor([0, 0, 0])
    assert pairwise_loss(torch.tensor([40.0, 0.0, -40.0]), queries, 1) < 1e-9
    assert pairwise_loss(torch.tensor([1.0]), torch.tensor([0]), 1) == 0
    assert contrastive_loss(torch.randn(2, 4), torch.tensor([1, 0]), torch.tensor([0, 0]), 1) == 0
    assert pointwise_loss(torch.randn(2, 2), torch.tensor([-1, -1]), torch.tensor([0, 0]), 1) == 0
    huge = torch.tensor([[1e4, 0.0], [1e4, 1.0], [-1e4, 0.0], [-1e4, 1.0]], requires_grad=True)
    loss = contrastive_loss(huge, torch.tensor([1, 1, 0, 0]), torch.zeros(4, dtype=torch.long), 1)
    loss.sum().backward()
    assert torch.isfinite(huge.grad if huge.grad is not None else torch.tensor(torch.nan)).all()


# -- weights of the losses ----------------------------------------------------------------------------------------


@given(MATRICES)
def test_no_combination_is_shorter(gradients: Any) -> None:
    gram = gradients @ gradients.T
    for search, slack in ((exact_min_norm, 1e-9), (grid_min_norm, 0.05)):
        weights = search(gram)
        assert weights.sum() == pytest.approx(1)
        assert (weights >= 0).all()
        norm = weights @ gram @ weights
        for steps in itertools.product(range(5), repeat=len(gram)):
            if sum(steps):
                other = np.array(steps) / sum(steps)
                assert norm <= other @ gram @ other + slack * (1 + gram.max())
    # every task's loss falls along the combination, or nothing can make all fall
    exact = exact_min_norm(gram)
    assert (gram @ exact >= exact @ gram @ exact - 1e-7 * (1 + np.abs(gram).max())).all()


def test_inner_products_that_cannot_be_used_are_refused() -> None:
    for bad, said in (
        (np.zeros((2, 3)), "shape"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.zeros((0, 0)), "shape"),
    ):
        with pytest.raises(ValueError, match=said):
            exact_min_norm(bad)


def test_weights_of_losses_are_those_of_their_gradients() -> None:
    shared = torch.tensor([1.0, 2.0], requires_grad=True)
    losses = torch.stack([shared[0] * 2, shared[1] * 1])
    assert loss_weights(losses, [shared], exact=True).tolist() == pytest.approx([0.2, 0.8])
    flat = torch.stack([shared.detach().sum() + 0 * shared[0], 0 * shared[1]])
    assert loss_weights(flat, [shared], exact=True).tolist() == [0.5, 0.5]
    nan = torch.stack([shared[0] * torch.nan, shared[1]])
    assert loss_weights(nan, [shared], exact=False).tolist() == [0.5, 0.5]


# -- reranker -----------------------------------------------------------------------------------------------------


def test_a_reranker_cuts_passages_and_not_queries(tmp_path: Path) -> None:
    MODELS["encoder"](tmp_path / "encoder")
    settings = RerankerOptions(reranker=str(tmp_path / "encoder"), reranker_max_length=20)
    reranker = new_reranker(settings, device="cpu")
    inputs = reranker.inputs(["who is it"], ["a long passage " * 30])
    assert inputs["input_ids"].shape[1] == 20
    alone = reranker.inputs(["who is it"], ["a"])["input_ids"][0].tolist()
    assert inputs["input_ids"][0].tolist()[:5] == alone[:5]
    assert reranker.inputs(["who is it " * 30], ["a"])["input_ids"].shape[1] == 20
    scores = reranker.score("who", ["a", "b", "a"])
    assert scores[0] == pytest.approx(scores[2])
    assert all(0 < one < 1 for one in scores)
    order = reranker.order("who", ["a", "b", "a"])
    assert order.index(0) < order.index(2)
    MODELS["tiny"](tmp_path / "tiny")
    with pytest.raises(ConfigError, match="reads from left to right"):
        new_reranker(RerankerOptions(reranker=str(tmp_path / "tiny")), device="cpu")


def test_contradictions_need_a_label(tmp_path: Path) -> None:
    MODELS["encoder"](tmp_path / "encoder")
    reranker: Any = new_reranker(RerankerOptions(reranker=str(tmp_path / "encoder")), device="cpu")
    reranker.model.save_pretrained(tmp_path / "plain")
    reranker.tokenizer.save_pretrained(tmp_path / "plain")
    asked = [Question("q", "Who?", ("Ann",))]
    with pytest.raises(ConfigError, match="expected one called contradiction"):
        contradicted(str(tmp_path / "plain"), asked, [["x"]], device="cpu")
    reranker.model.config.id2label = {0: "contradiction", 1: "entailment"}
    head = reranker.model.classifier
    getattr(head, "out_proj", head).bias.data = torch.tensor([99.0, -99.0])
    reranker.model.save_pretrained(tmp_path / "plain")
    assert contradicted(str(tmp_path / "plain"), asked * 2, [["x"], [""]], device="cpu") == [True, False]


def test_each_question_is_rewritten_in_every_way_once(tmp_path: Path) -> None:
    generator = ScriptedGenerator(lambda prompt: "\n  SELECT ?x\nmore" if "SPARQL" in prompt else prompt[:4])
    asked = [Question(str(place), f"Who, {place}?", ("Ann",)) for place in range(2)]
    sampling = Sampling(max_new_tokens=9, temperature=0.0)
    found = rewritten(tmp_path / "r.jsonl", asked, KINDS, lambda: generator, sampling)
    assert [len(one) for one in found] == [5, 5]
    assert found[0][4] == "SELECT ?x"
    assert (
        rewritten(tmp_path / "r.jsonl", asked, KINDS, lambda: pytest.fail("asked twice"), sampling) == found
    )


# -- runs ---------------------------------------------------------------------------------------------------------


def config(data: Path, **changes: Any) -> dpa_rag.Config:
    return build(dpa_rag.Config, {"data": str(data), "device": "cpu", **changes})


def test_passages_come_from_the_corpus_where_a_question_has_none(tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.txt").write_text(
        "Die Brücke ist grün.\n\nThe tower is slate.\n\n桥是绿色的。", encoding="utf-8"
    )
    asked = [
        Question("a", "Welche Farbe hat die Brücke?", ("grün",)),
        Question("b", "桥是什么颜色?", ("绿色",)),
        Question("c", "x", ("y",), passages=PASSAGES),
    ]
    found = with_passages(config(tmp_path, corpus=str(tmp_path / "corpus"), depth=2), asked)
    assert [one.passages[0].text for one in found] == ["Die Brücke ist grün.", "桥是绿色的。", "good"]
    assert len(found[2].passages) == 2
    with pytest.raises(DataError, match="1 of 1 questions have no passages, first 'd'"):
        with_passages(config(tmp_path, corpus=str(tmp_path / "corpus")), [Question("d", "zinc", ("y",))])


def test_the_first_passage_is_always_tried() -> None:
    one = Question("q", "Who?", ("Ann",), passages=PASSAGES)
    for seed in range(5):
        found = tried(config(Path("x"), tried=2, seed=seed), one)
        assert found[0] == PASSAGES[0]
        assert len(found) == 2
    assert tried(config(Path("x"), tried=9), one) == [*PASSAGES]


def test_questions_without_passages_are_named(coalign: Callable[..., Any], tmp_path: Path) -> None:
    data = write(
        tmp_path / "read.jsonl",
        [*rows.read(3), {"question": "?", "answers": ["x"], "passages": [{"text": " "}]}],
    )
    done = coalign("run", "dpa-rag", "--data", str(data), "--out", str(tmp_path / "run"))
    assert done.code == 1
    assert "read.jsonl:4: passages[0]: only white space, expected the passage's text" in done.err


def test_a_run_leaves_a_reranker_that_plain_transformers_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tests.contract.small import SMALL, furnish
    from tests.contract.test_contract import tiny_run

    monkeypatch.chdir(tmp_path)
    furnish(tmp_path, SMALL["dpa-rag"])
    run = tiny_run(
        "dpa-rag",
        tmp_path / "run",
        tune_reader=False,
        epochs=3.0,
        max_length=2048,
        batch_size=8,
        learning_rate=None,
        augmenter=None,
        rewrites=[*KINDS],
    )
    folder = run.artefacts / "reranker"
    found = json.loads((run.artefacts / "results.json").read_text())
    assert found["answers"].keys() == {"without", "retriever", "reranker"}
    assert found["hits"]["retriever"]["10"] == found["hits"]["reranker"]["10"]
    reranker = load_reranker(folder, max_length=60, device="cpu")
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer("Letter 1?", "It is e.", return_tensors="pt")).logits.softmax(-1)
    assert logits[0, 1].item() == pytest.approx(reranker.score("Letter 1?", ["It is e."])[0], abs=1e-5)
    assert model.config.id2label[1] == "helpful"
