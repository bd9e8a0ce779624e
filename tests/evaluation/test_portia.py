"""PORTIA: pieces of answers and their alignment, stages, costs, rates; a whole run; the measure of the check."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.checks.worlds.prompts.answer_pairs import EMPTY, TOPICS, answer_pairs
from coalign.core.errors import ConfigError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.evaluation import portia
from coalign.evaluation.portia import Config, SplitMergeJudge, correction, split_and_merge
from coalign.evaluation.position_bias import parts
from coalign.judging.language_judge import LanguageModelJudge
from coalign.judging.order_bias import bias_difference, bias_share, order_values, paired_gain
from coalign.judging.protocol import Opinion, PairVerdict, summarise
from coalign.report.html import read_report
from coalign.report.model import Samples
from tests.evaluation.judge_files import write_rows
from tests.evaluation.scripted import ScriptedGenerator, item

CODE = ["Do this:\n", "```python\nx = 1. \n\nprint('Hi. You.')\n```\n", "Then stop. ", "It works."]
SENTENCES = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, max_size=4).map(" ".join),
    min_size=1,
    max_size=6,
)


def test_sentences_lists_and_code_stay_whole() -> None:
    assert parts.pieces_of("One. Two is 3.14 long! Three?") == ["One. ", "Two is 3.14 long! ", "Three?"]
    assert parts.pieces_of("1. First item. More.\n2. Second") == ["1. First item. ", "More.\n", "2. Second"]
    assert parts.pieces_of("".join(CODE)) == CODE
    unclosed = ["Look:\n", "```\nfor x. in y.\nnever closed. at all."]
    assert parts.pieces_of("".join(unclosed)) == unclosed
    assert parts.pieces_of("") == [""]
    assert parts.pieces_of("... !!") == ["... !!"]
    assert parts.pieces_of("~~~\n```\na. b.\n~~~\nEnd.") == ["~~~\n```\na. b.\n~~~\n", "End."]


@given(st.text(alphabet="ab1.!? \n`-\t", max_size=80))
def test_pieces_are_the_text(text: str) -> None:
    assert "".join(parts.pieces_of(text)) == text
    assert all(parts.pieces_of(text)) or text == ""


def test_equal_lengths() -> None:
    assert parts.length_cuts(["aaaa", "b", "c", "dddd"], 2) == (2,)
    assert parts.length_cuts(["aa", "aa", "aa"], 2) == (1,), "the earlier of two equally near cuts"
    assert parts.length_cuts(["a" * 100, "b", "c"], 3) == (1, 2), "every part keeps a piece"
    assert parts.length_cuts(["a", "b"], 1) == ()
    assert parts.common_parts(["a"], ["a", "b"], 3) == 1
    with pytest.raises(ValueError, match="at least 1"):
        parts.common_parts(["a"], ["b"], 0)


def test_similarity() -> None:
    assert parts.similarity("The cat", "the CAT sat") == pytest.approx(2 / 3)
    assert parts.similarity("", "...") == 0


def brute_force(first: list[str], second: list[str], k: int) -> Any:
    best: Any = ((), (), -1.0)
    for one in itertools.combinations(range(1, len(first)), k - 1):
        for other in itertools.combinations(range(1, len(second)), k - 1):
            pieces = zip(
                parts.parts_of(first, one, joint=" "), parts.parts_of(second, other, joint=" "), strict=True
            )
            total = sum(parts.similarity(a, b) for a, b in pieces)
            if total > best[2] + 1e-12:
                best = (one, other, total)
    return best


@settings(max_examples=150)
@given(SENTENCES, SENTENCES, st.integers(1, 4))
def test_the_best_pair_of_splits_is_found(first: list[str], second: list[str], k: int) -> None:
    k = parts.common_parts(first, second, k)
    found = parts.semantic_cuts(first, second, k)
    cuts_1, cuts_2, total = brute_force(first, second, k)
    assert found.total == pytest.approx(total)
    assert (found.first, found.second) == (cuts_1, cuts_2)


def test_long_answers_take_no_search_over_all_splits() -> None:
    first = [f"Sentence {n} about topic{n % 7} and word{n}." for n in range(40)]
    found = parts.semantic_cuts(first, first[::-1], 4)
    assert len(found.first) == len(found.second) == 3
    assert parts.semantic_cuts(first, first, 4).total == pytest.approx(4)


LONG = "One fact. Two facts. Three facts. Four facts."
GOOD = "Excellent start. More here. And more. The end."


def early_reader(prompt: str) -> str:
    """Prefers what it reads first, unless it meets the word of quality early in what comes second."""
    texts = re.findall(r"<<(?:part \d of )?answer ([AB]) \w+>>\n(.*?)\n<<end", prompt, flags=re.DOTALL)
    read = " ".join(f"{name}:{text}" for name, text in texts)[:120]
    return "[[A]]" if "A:Excellent" in read else "[[B]]" if "B:Excellent" in read else "[[A]]"


def test_plumbing_a_judge_that_reads_only_the_beginning_becomes_consistent() -> None:
    """By construction: no evidence for the method, only that parts reach the judge in turn."""
    filler = "Some filler sentence that is long enough. " * 4
    items = [item(filler + "Nothing else.", GOOD), item(filler + "No.", filler + "No, no.", id="j")]
    plain = LanguageModelJudge(ScriptedGenerator(early_reader)).compare(items)
    merged = split_and_merge(LanguageModelJudge(ScriptedGenerator(early_reader)), items)
    assert [one.outcome for one in plain] == ["inconsistent", "inconsistent"]
    assert [one.comparison.outcome for one in merged] == ["second", "inconsistent"]
    assert [one.stage for one in merged] == ["length", "none"]


def test_the_second_stage_is_asked_only_where_the_first_did_not_agree() -> None:
    replies = iter(["[[A]]", "[[B]]", "[[A]]", "[[A]]", "[[C]]", "[[C]]"])
    generator = ScriptedGenerator(lambda _: next(replies))
    foxes = "Red fox. Red fox runs. Blue sky. Green sea.", "Red fox. Blue sky. Blue sky shines. Green sea."
    first = item(*foxes)
    second = item("Red. Blue blue blue blue blue. Green.", "Red red red red. Blue. Green. Green tea.", id="j")
    merged = split_and_merge(LanguageModelJudge(generator), [first, second])
    assert [one.stage for one in merged] == ["length", "semantic"]
    assert merged[1].comparison.outcome == "tie"
    assert merged[1].comparison.cost.calls == 4
    assert merged[0].comparison.cost.calls == 2
    assert len(generator.asked) == 6
    assert "cut into 3 parts" in generator.asked[0]


def test_short_answers_are_shown_whole() -> None:
    generator = ScriptedGenerator(lambda _: "[[A]]")
    items = [item("One sentence.", LONG), item("", LONG, id="j")]
    merged = split_and_merge(LanguageModelJudge(generator), items)
    assert [(one.parts, one.stage) for one in merged] == [(1, "none"), (1, "none")]
    assert len(generator.asked) == 4
    assert not any("parts" in one for one in generator.asked)
    two = split_and_merge(LanguageModelJudge(generator), [item("One. Two.", LONG)])
    assert two[0].parts == 2
    assert split_and_merge(LanguageModelJudge(generator), []) == []


def test_it_is_a_judge_like_others() -> None:
    judge = SplitMergeJudge(LanguageModelJudge(ScriptedGenerator(lambda _: "[[C]]"), name="x"), k=2)
    assert judge.name == "x with 2 aligned parts"
    assert summarise(judge.compare([item(LONG, GOOD)])).consistency == 1
    with pytest.raises(ConfigError, match="both orders"):
        judge.compare([item("a", "b")], orders="given")
    with pytest.raises(ConfigError, match="at least 1"):
        split_and_merge(LanguageModelJudge(ScriptedGenerator(lambda _: "")), [], k=0)


def test_rates() -> None:
    found = correction([False, False, True, True], [True, False, False, True])
    assert found == {"rate_before": 0.5, "rate_after": 0.5, "fixed_coverage": 0.5, "relative_improvement": 0}
    assert correction([False], [True])["relative_improvement"] is None
    with pytest.raises(ValueError, match="at least one"):
        correction([], [])


def test_a_run_reports_before_and_after(judge_by: Any, tmp_path: Path) -> None:
    filler = "Some filler sentence that is long enough. " * 4
    sides = ("id", "prompt", "response_a", "response_b", "label")
    rows = [
        ("a", "Why?", filler + "No.", GOOD, "B"),
        ("b", "<script>alert(1)</script>", filler, filler + "Oh.", 0),
    ]
    data = write_rows(tmp_path / "p.jsonl", [dict(zip(sides, row, strict=True)) for row in rows])
    generator = judge_by(ScriptedGenerator(early_reader))
    config = build(Config, {"data": data})
    made = Run.start(tmp_path / "run", "portia", config)
    portia.run(config, made)
    results = json.loads((made.artefacts / "results.json").read_text())
    assert (results["rate_before"], results["rate_after"], results["fixed_coverage"]) == (0, 0.5, 0.5)
    assert results["stages"] == {"length": 1, "semantic": 0, "none": 1}
    assert results["merged"]["people"]["accuracy"]["mean"] == 0.5
    first = read_rows(made.artefacts / "verdicts.jsonl")[0]
    assert first["cuts"]
    assert first["stage"] == "length"
    samples = next(one for one in read_report(made.report).sections if isinstance(one, Samples))
    assert samples.rows[0].tags == ["length", "fixed"]
    assert "<script>alert" not in made.report.read_text()
    asked = len(generator.asked)
    portia.run(config, made)
    assert len(generator.asked) == asked, "a finished run asks nothing again"


def test_responses_are_not_pairs(tmp_path: Path) -> None:
    config = build(Config, {"data": write_rows(tmp_path / "r.jsonl", [{"prompt": "?", "response": "x"}])})
    with pytest.raises(ConfigError, match="expected pairs"):
        portia.run(config, Run.start(tmp_path / "run", "portia", config))


def compared(d12: float, d21: float) -> PairVerdict:
    """Margins for the answer shown first, in either order."""
    opinions = (
        Opinion(choice="first" if d12 > 0 else "second", margin=d12),
        Opinion(choice="second" if d21 > 0 else "first", margin=-d21, swapped=True),
    )
    return PairVerdict(id="x", opinions=opinions)


def test_bias_share_tells_place_from_content() -> None:
    place, content = np.array([order_values(compared(2, 2))]), np.array([order_values(compared(2, -2))])
    assert place.tolist() == [[4, 0, 0]]
    assert content.tolist() == [[0, 4, 1]]
    assert (bias_share(place), bias_share(content)) == (1, 0)
    found = bias_difference(np.repeat(place, 9, 0), np.repeat(content, 9, 0))
    assert (found.mean, found.low, found.high) == (-1, -1, -1)
    assert (paired_gain(np.zeros(20), np.ones(20)).p_value or 1) < 0.001
    assert (paired_gain(np.zeros(20), np.zeros(20)).p_value or 0) == 1
    with pytest.raises(ValueError, match="expected 2"):
        order_values(PairVerdict(id="x", opinions=(Opinion(choice="tie"),)))


def test_the_world_favours_no_place() -> None:
    pairs = answer_pairs(0, 40)
    assert pairs == answer_pairs(0, 40)
    assert pairs != answer_pairs(1, 40)
    assert 8 < sum(one.better for one in pairs) < 32
    for one in pairs:
        full, thin = one.answers[one.better], one.answers[1 - one.better]
        assert all(each in "".join(TOPICS[one.question]) for each in full.split(". ")[0:1])
        assert sum(each in thin for each in EMPTY) == 2
        assert not any(each in full for each in EMPTY)
    assert all(len(set(one)) == 5 for one in TOPICS.values())
