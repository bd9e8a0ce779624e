"""The check of `urial`: its world, its arms, and the outcome that follows from rows and items."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from coalign.checks.arms import ITEMS, kept_items
from coalign.checks.options import CheckOptions
from coalign.checks.papers.decoding.urial import (
    SHIFT,
    WITH,
    WITHOUT,
    Prompting,
    answers_arm,
    check,
    shift_arm,
    shift_figures,
    signs,
)
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.prompts.everyday_questions import QUESTIONS
from coalign.checks.worlds.words import villages
from coalign.core.files import append_rows
from coalign.core.runs import Run
from coalign.decoding import urial
from coalign.decoding.in_context.prefix import load_style, prefix_of
from coalign.decoding.in_context.token_shift_run import plain_prompt
from coalign.models.generation.generator import TransformersGenerator
from tests.decoding.pairs import make_pair


@pytest.fixture
def a_run(tmp_path):
    return Run.start(tmp_path / "run", "check", CheckOptions())


def test_every_text_of_the_world_can_be_read():
    tokenizer, draw = villages.make_tokenizer(), stream(0, "documents")
    facts = villages.make_facts(stream(0, "facts"))
    queries = villages.draw_queries(villages.VILLAGES, 60, draw)
    texts = [villages.document(facts, draw) for _ in range(200)]
    for one in queries:
        texts += [one.text, villages.styled_answer(facts, one), plain_prompt(one.text)]
        assert villages.right_facts(facts, one, villages.styled_answer(facts, one)) == 1
        assert villages.right_facts(facts, one, "") == 0
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.pad_token_id not in ids
        assert tokenizer.decode(ids) == villages.START + text
    assert plain_prompt("x?") == villages.QUERY_PAGE.partition("{answer}")[0].format(query="x?")
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == f"<start><asked>a<answered>b{villages.END}"


def test_queries_differ_and_the_aligned_model_is_asked_about_villages_it_was_not_tuned_on():
    queries = villages.draw_queries(villages.VILLAGES[villages.TUNED :], 200, stream(0, "q"))
    assert len(set(queries)) == 200
    assert all(len(set(one.aspects)) == 3 and set(one.aspects) <= set(villages.VALUES) for one in queries)
    small = partial(villages.make_styled_world, queries=5, documents=40, base_steps=2, tuning_steps=2)
    world, again = small(3), small(3)
    assert len({one.name for one in world.queries} & {one.name for one in again.queries}) > 0
    for one, other in zip(world.aligned.parameters(), again.aligned.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(world.base.lm_head.weight, world.aligned.lm_head.weight)


def test_the_arm_of_the_shift(a_run):
    world = villages.make_styled_world(0, queries=4, documents=40, base_steps=2, tuning_steps=2)
    found = shift_arm(a_run)(world)
    (items,) = kept_items(a_run, SHIFT, 1)
    assert len(items["classes"]) == 4
    assert {name: found[name] for name in shift_figures(items["classes"])} == shift_figures(items["classes"])
    assert found["unshifted"] + found["marginal"] + found["shifted"] == pytest.approx(1)
    assert found["tokens"] <= 90


def test_figures_of_the_shift():
    found = shift_figures(["2200000000", "0120"])
    assert found["shifted"] == 3 / 14
    assert found["marginal"] == 1 / 14
    assert found["shifted, first fifth"] == 2 / 3  # places 0 and 1 of ten, 0 of four
    assert found["shifted, second half"] == 1 / 7


def test_the_arms_of_prompting(a_run):
    base = TransformersGenerator(*make_pair("bytes", 1, max_position_embeddings=2048))
    material = [Prompting(seed, base) for seed in range(3)]
    firsts = {one.style.examples[0].query for one in material}
    assert len(firsts) == 3
    assert {len(one.style.examples) for one in material} == {3}
    make = lambda one: urial.InContextGenerator(one.base, prefix_of(one.style), urial.UrialOptions())  # noqa: E731
    measures = answers_arm(a_run, WITH, make, QUESTIONS[:3])(material[0])
    (items,) = kept_items(a_run, WITH, 1)
    assert measures["well-formed"] == sum(items["well_formed"]) / 3
    assert len(items["texts"]) == 3
    asked = {one.query for one in load_style("brief").examples}
    assert len(set(QUESTIONS)) == 60
    assert not asked & set(QUESTIONS)


def test_signs():
    assert signs([0, 0, 1, 1], [[1, 0, 1, 0], [0, 0, 1, 1]]) == (1, 1)


def published(run, *, classes, without, with_examples, seeds=5):
    """Rows and items of a check that is done."""
    for seed, one in enumerate(classes):
        append_rows(run.artefacts / "measures.jsonl", [{"arm": SHIFT, "seed": seed, **shift_figures([one])}])
        append_rows(run.artefacts / ITEMS, [{"arm": SHIFT, "seed": seed, "classes": [one]}])
    for arm, rows in ((WITHOUT, [without]), (WITH, with_examples)):
        for seed, one in enumerate(rows):
            append_rows(
                run.artefacts / "measures.jsonl", [{"arm": arm, "seed": seed, "well-formed": sum(one)}]
            )
            append_rows(run.artefacts / ITEMS, [{"arm": arm, "seed": seed, "well_formed": one}])
    return check(run, seeds=seeds)


FEW, MANY, LATE = "2000000000", "2222200000", "0000000002"


@pytest.mark.parametrize(
    ("classes", "better", "outcome"),
    [
        ([FEW] * 5, 6, "seen"),
        ([FEW] * 4 + [LATE], 6, "seen"),
        ([FEW] * 3 + [LATE] * 2, 6, "mixed"),
        ([MANY] * 5, 6, "mixed"),
        ([FEW] * 5, 5, "mixed"),  # five of five signs: p is 0.0625
        ([LATE] * 5, 5, "not seen"),
    ],
)
def test_the_outcome(a_run, classes, better, outcome):
    without = [0] * 10
    with_examples = [[1] * better + [0] * (10 - better)] * 3
    assert published(a_run, classes=classes, without=without, with_examples=with_examples).outcome == outcome


def test_a_loss_is_not_a_gain(a_run):
    verdict = published(a_run, classes=[FEW] * 5, without=[1] * 10, with_examples=[[0] * 10] * 3)
    assert verdict.outcome == "mixed"
    assert verdict.summary["prompting"] == "not seen"
