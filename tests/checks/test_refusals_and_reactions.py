"""The worlds of questions in three tenses and of users' reactions, and what the rules of their checks say of rows."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.checks.papers.curation import wildfeedback
from coalign.checks.worlds.replies import reactions
from coalign.checks.worlds.words import tenses
from coalign.curation.feedback.signals import Signal
from tests.checks.test_verdicts import rows_of, verdict_of


@pytest.fixture(scope="module")
def asked() -> tenses.RefusalWorld:
    return tenses.make_refusal_world(0, steps=2, documents=50)


def test_every_word_of_the_world_is_known_and_kinds_share_no_name(asked: tenses.RefusalWorld) -> None:
    dishes, goods = (set(asked.things[kind]) for kind in (tenses.DISHES, tenses.GOODS))
    assert not dishes & goods
    assert len(dishes) == len(goods) == 120
    tested = {one.name for one in asked.tested(tenses.DISHES, 40)}
    assert len(tested) == 40
    assert not tested & {*asked.things[tenses.DISHES][: tenses.KNOWN]}
    for one, form in itertools.product(
        asked.tested(tenses.GOODS, 3), itertools.chain(*tenses.QUESTIONS.values())
    ):
        text = one.ask(form)
        assert asked.tokenizer.decode(asked.tokenizer(text)["input_ids"]) == text, "no word is unknown"
        assert one.name in text


def test_refusals_are_learned_of_the_present_alone_unless_defended(asked: tenses.RefusalWorld) -> None:
    def refused(records: list[tuple[str, str]]) -> list[str]:
        return [question for question, answer in records if answer == tenses.REFUSAL]

    verbs = {one for forms in tenses.VERBS[tenses.DISHES] for one in forms}
    plain, defended = asked.records(400, "r"), asked.records(400, "r", past_share=0.1)
    assert len(refused(plain)) == 200
    past = [form.split("{")[0] for form in tenses.QUESTIONS["past"]]
    assert not any(one.startswith(tuple(past)) for one in refused(plain))
    assert sum(one.startswith(tuple(past)) for one in refused(defended)) >= 40
    answered = [question for question, answer in plain if answer != tenses.REFUSAL]
    assert not any(verbs & set(one.split()) for one in answered)
    few = refused(asked.records(400, "r", forms=3))
    left_out = [form.split("{")[0] for form in tenses.QUESTIONS["direct"][3:]]
    assert not any(one.startswith(tuple(left_out)) for one in few)


def test_replies_that_meet_a_wish() -> None:
    draw = torch.Generator().manual_seed(0)
    prompt = (2, reactions._CUE + 1)
    for _ in range(20):
        reply = reactions.compliant(prompt, draw)
        assert reactions.meets(reply, prompt)
        assert len(reply) <= reactions.LONGEST
        assert not reactions.meets(reply, (3, prompt[1]))
        assert not reactions.meets(reply, (2, prompt[1] + 1))
        assert not reactions.meets(reply[:-1], prompt)


def test_reactions_follow_replies_and_complaints_are_heard() -> None:
    world = reactions.make_reaction_world(0, dialogues=300, rows=40, steps=1)
    turns = [one for dialogue in world.dialogues for one in dialogue]
    assert all(
        reactions.meets(one.reply, one.prompt) == (one.reaction == "sat")
        for one in turns
        if one.reaction != "none"
    )
    assert sum(one.reaction == "none" for one in turns) / len(turns) == pytest.approx(0.3, abs=0.05)
    after = [
        two
        for one, two in ((d[n], d[n + 1]) for d in world.dialogues for n in (0, 1))
        if one.reaction == "dsat"
    ]
    assert sum(reactions.meets(one.reply, one.prompt) for one in after) / len(after) == pytest.approx(
        0.8, abs=0.08
    )
    truth = [
        [Signal(one.reaction == "sat", one.reaction == "dsat") for one in dialogue]
        for dialogue in world.dialogues
    ]
    material = wildfeedback.Material(world, truth, 1.0)
    found, shifted = wildfeedback.mined(material, 0), wildfeedback.mined(material, 1)
    assert found == [one for one in turns if one.reaction == "dsat"]
    assert all(not reactions.meets(one.reply, one.prompt) for one in found)
    assert sum(reactions.meets(one.reply, one.prompt) for one in shifted) > len(shifted) / 2


ARMS = ("base", "users' reactions", "longer is better", "shifted by one turn")


@pytest.mark.parametrize(
    ("met", "kappa", "outcome"),
    [((0.3, 0.5, 0.2, 0.4), 0.8, "seen"), ((0.3, 0.5, 0.2, 0.4), 0.4, "not seen"), ((0.3, 0.33, 0.2, 0.3), 0.8, "not seen"),
     ((0.3, 0.5, 0.2, 0.5), 0.8, "not seen")],
)  # fmt: skip
def test_the_rule_of_mined_reactions(
    tmp_path: Path, met: tuple[float, ...], kappa: float, outcome: str
) -> None:
    rows = rows_of(
        {arm: {"met": one, "kappa": kappa, "fine": 0.0} for arm, one in zip(ARMS, met, strict=True)}
    )
    items = [
        {"arm": arm, "seed": seed, "met": [1.0] * int(100 * one) + [0.0] * int(100 - 100 * one)}
        for arm, one in zip(ARMS, met, strict=True)
        for seed in range(5)
    ]
    assert verdict_of("wildfeedback", rows, tmp_path, items).outcome == outcome


@pytest.mark.parametrize(
    ("past", "defended", "goods", "outcome"),
    [
        (0.9, 0.2, 1.0, "seen"),
        (0.9, 0.6, 1.0, "mixed"),
        (0.05, 0.0, 1.0, "not seen"),
        (0.9, 0.2, 0.5, "not seen"),
    ],
)
def test_the_rule_of_tenses(tmp_path: Path, past: float, defended: float, goods: float, outcome: str) -> None:
    names = [f"{one} @{k}" for one in tenses.TENSES for k in (1, 5)]
    plain: dict[str, Any] = {**dict.fromkeys(names, 0.0), "past @1": past, "goods past @1": goods}
    arms = {"no refusal training": plain, "refusal training": plain, "defence": {**plain, "past @1": defended},
            "held-out forms": {**plain, "held-out direct @1": 0.5}}  # fmt: skip
    count = round(40 * past)
    items = [
        {
            "arm": "refusal training",
            "seed": seed,
            "past": [True] * count + [False] * (40 - count),
            "direct": [False] * 40,
        }
        for seed in range(3)
    ]
    assert verdict_of("past-tense", rows_of(arms, 3), tmp_path, items).outcome == outcome
