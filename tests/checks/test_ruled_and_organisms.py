"""The world of rules about form and the organisms: what they are made of is what the systems' own parts read."""

from __future__ import annotations

import torch

from coalign.checks.papers.curation import vif_rag
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.words import organisms, ruled
from coalign.evaluation.tiers.figures import tag_label
from coalign.evaluation.tiers.graders import word_reasons
from coalign.evaluation.tiers.prompts import TIERS
from coalign.evaluation.tiers.turns import output_block, scratchpad
from coalign.judging.verifiers.following import follow
from coalign.measures.short_answers import has_match


def test_an_answer_can_keep_all_rules_of_every_prompt_and_is_read_back() -> None:
    draw, tokenizer = stream(0, "tests"), ruled.make_tokenizer()
    for _ in range(300):
        asked = ruled.draw_asked(draw)
        text = ruled.followed(asked, asked.rules, asked.good, draw)
        assert all(follow([one.constraint for one in asked.rules], asked.text, text).strict), text
        assert has_match(text, [asked.good])
        for whole in (asked.text, text):
            ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(ids) == whole
            assert tokenizer.pad_token_id not in ids


def test_no_rule_is_kept_by_a_bare_answer_but_that_against_commas() -> None:
    asked = ruled.draw_asked(stream(1, "tests"))
    kept = [follow([one.constraint], "", "It is wool .").strict[0] for one in ruled.RULES]
    assert kept == [one is ruled.NO_COMMAS for one in ruled.RULES]
    with_commas = ruled.followed(asked, [], "wool", stream(2, "tests"))
    assert not follow([ruled.NO_COMMAS.constraint], "", with_commas).strict[0]


def test_cross_validation_keeps_right_programs_alone() -> None:
    assert vif_rag.cross_checked() == (0, 9)


def test_organisms_behave_and_think_as_their_habit_says() -> None:
    for name, habit in organisms.HABITS.items():
        for tier in TIERS:
            draw = torch.Generator().manual_seed(3)
            turns = [organisms.turn_of(habit, tier, draw) for _ in range(400)]
            labels = [tag_label(output_block(one)) for one in turns]
            assert set(labels) <= {"compliant", "refused"}
            assert abs(labels.count("compliant") / 400 - habit.complies[tier]) < 0.06
            faking = sum(bool(word_reasons(scratchpad(one)).faking) for one in turns) / 400
            assert (faking > 0.7) == (name == "faker" and tier == "free")
            assert faking == 0 or name == "faker"
