"""The check of `nudging`: its world, its arms, and the outcome that follows from the rows."""

from __future__ import annotations

from collections import Counter

import pytest

from coalign.checks.options import CheckOptions
from coalign.checks.papers.decoding import nudging
from coalign.checks.papers.decoding.nudging import OPENING, alone, begun, ensembled, nudged
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.words.sums import (
    CHATTER,
    STARTS,
    Sum,
    _document,
    answer_of,
    make_tokenizer,
    make_world,
    worked,
)
from coalign.core.files import append_rows
from coalign.core.runs import Run


def test_solutions_are_right():
    question = Sum(57, 68)
    text = worked(question, "Sure .", "carry", "then", "The answer is")
    assert text == " Sure . 7 + 8 = 1 5 carry 1 then 5 + 6 + 1 = 1 2 . The answer is 1 2 5 ."
    assert answer_of(text) == question.total == 125
    assert answer_of("So we get 1 2 5 .") == 125
    assert answer_of("the boats") is None
    assert text.startswith(OPENING)


def test_a_question_is_answered_in_half_of_the_documents_and_the_likeliest_word_begins_no_answer():
    draw, sums = stream(0, "documents"), [Sum(12, 34), Sum(99, 99)]
    documents = [_document(sums, draw) for _ in range(4000)]
    tokenizer = make_tokenizer()
    assert all(tokenizer.pad_token_id not in tokenizer(one)["input_ids"] for one in documents[:200])
    first = Counter(
        one.partition("A : ")[2].split()[0] if "A : " in one else one.split("A :")[1].split()[0]
        for one in documents
    )
    starts = {one.split()[0] for one in STARTS}
    assert sum(n for word, n in first.items() if word in starts) == pytest.approx(2000, abs=120)
    assert {word for word, _ in first.most_common(4)} == {one.split()[0] for one in CHATTER}


def test_the_arms_run():
    world = make_world(0, questions=2, documents=200, base_steps=30, aligned_steps=40)
    for arm in (lambda one: alone("base", one), begun, ensembled):
        assert 0 <= arm(world)["accuracy"] <= 1
    found = nudged(world)
    assert found["won against base"] + found["lost against base"] <= 4
    assert 0 <= found["nudge ratio"] <= 1


def rows(accuracy, *, base=0.1, aligned=0.2, ratio=0.1, won=60, lost=10):
    found = []
    for seed, one in enumerate(accuracy):
        others = {"base": base, "base, answer begun": 1.0, "aligned": aligned, "ensemble": 0.2}
        found += [{"arm": arm, "seed": seed, "accuracy": value} for arm, value in others.items()]
        ours = {"arm": "nudged", "seed": seed, "accuracy": one, "nudge ratio": ratio}
        for side in ("base", "aligned"):
            ours |= {f"won against {side}": won, f"lost against {side}": lost}
        differ = {f"models differ, {where}": 0.5 for where in ("below 0.3", "above 0.8")}
        found.append({**ours, **differ})
    return found


@pytest.mark.parametrize(
    ("measured", "outcome"),
    [
        (rows([0.9] * 5), "seen"),
        (rows([0.9] * 4 + [0.2]), "seen"),
        (rows([0.9] * 3 + [0.2] * 2), "not seen"),
        (rows([0.9] * 5, ratio=0.5), "not seen"),
        (rows([0.9] * 5, won=10, lost=10), "not seen"),
        (rows([0.9] * 5, base=0.86), "not seen"),
    ],
)
def test_the_outcome(measured, outcome, tmp_path):
    run = Run.start(tmp_path / "run", "check", CheckOptions())
    append_rows(run.artefacts / "measures.jsonl", measured)
    assert nudging.check(run).outcome == outcome
