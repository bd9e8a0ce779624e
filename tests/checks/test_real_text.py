"""Checks on given records: what is read, what is scored, and whole verdicts under a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.checks.options import CheckOptions
from coalign.checks.worlds.records import default_model
from coalign.checks.worlds.records.default_model import adapted, drawn, mean_logps, open_default, text_logps
from coalign.checks.worlds.records.goals import GoalText, plainness
from coalign.checks.worlds.records.negatives import negative_measures, negative_text
from coalign.checks.worlds.records.quotations import criticised, quoted_spans, quoted_text
from coalign.checks.worlds.records.reading import misplaced, read_answers, read_groups
from coalign.core.errors import DataError
from coalign.core.files import append_rows
from coalign.core.runs import Run
from coalign.core.system import load_check
from coalign.core.verdict import Verdict
from coalign.data.encoding import encode_response
from coalign.data.records import Demonstration, Judgment, Preference
from tests.preference.tiny_runs import write


@pytest.fixture
def model(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model, "MODEL", tiny_model)


def solutions(n: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"What is {i}?",
            "ground_truth": f"A: {i}",
            "small": {"solution": f"It is {i}.", "is_correct": True},
            "large": {"solution": f"No, {i + 1}.", "is_correct": i % 3 == 0},
        }
        for i in range(n)
    ]


def test_example_solutions_and_rankings_are_read(tmp_path: Path) -> None:
    groups = read_groups(write(tmp_path / "solutions.jsonl", solutions(6)))
    assert len(groups) == 4, "two questions have right solutions alone"
    assert (groups[0].responses, groups[0].scores) == (("It is 1.", "No, 2."), (1.0, 0.0))
    rows = [{"prompt": "p", "responses": ["a", "b", "c"], "scores": [2, 1, 1]}]
    (ranking,) = read_groups(write(tmp_path / "rankings.jsonl", rows))
    assert ranking.scores == (2.0, 1.0, 1.0)
    with pytest.raises(DataError, match="no ranking whose scores differ"):
        read_groups(write(tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}]))


def test_answers_are_read_and_misplaced(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": f"a{i}"} for i in range(10)]
    answers = read_answers(write(tmp_path / "answers.jsonl", rows))
    moved, count = misplaced(answers, 0.3)
    assert count == 3
    assert [one.completion for one in moved[:4]] == ["a1", "a2", "a0", "a3"]
    assert [one.prompt for one in moved] == [one.prompt for one in answers]
    with pytest.raises(DataError, match="1 prompts with an answer"):
        read_answers(write(tmp_path / "one.jsonl", rows[:1]))


def test_every_seed_draws_its_own() -> None:
    records = list(range(50))
    assert drawn(records, 5, 0) == drawn(records, 5, 0) != drawn(records, 5, 1)
    assert sorted(drawn(records, 99, 3)) == records


@pytest.mark.usefixtures("model")
def test_prompts_without_room_are_named(tmp_path: Path) -> None:
    rows = [{"prompt": "word " * 300, "completion": "a"}, {"prompt": "p", "completion": "b"}]
    with pytest.raises(DataError, match="1 prompts have 512 tokens or more"):
        mean_logps(read_answers(write(tmp_path / "answers.jsonl", rows)))


def pairs(n: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Say {i}", "chosen": f"I say {i}", "rejected": f"no {i}"} for i in range(n)]


def judged(n: int) -> list[dict[str, Any]]:
    said = ['The word "blue" is wrong.', "Too short.", "$ERROR$", None]
    return [
        {"prompt": f"Colour {i}?", "completion": f"It is blue {i}", "judgment": said[i % 4]} for i in range(n)
    ]


ROWS = {
    "pro": solutions(30),
    "poft": [{"prompt": f"p{i}", "completion": f"answer {i}"} for i in range(30)],
    "aft": solutions(75),
    "cut": judged(170),
    "d2o": pairs(25),
    "reward-augmented": pairs(30),
}
REAL_TEXT = Path(__file__).parents[2] / "docs" / "results" / "real-text"
PUBLISHED = sorted(path for path in REAL_TEXT.glob("*.json") if path.stem in ROWS)
ARMS = {"pro": 1, "poft": 1, "aft": 2, "cut": 2, "d2o": 3, "reward-augmented": 4}


def verdict_of(slug: str, rows: list[dict[str, Any]], folder: Path, seeds: int = 2) -> Verdict:
    run = Run.start(folder / "run", "check", CheckOptions())
    return load_check(slug).check_on_data(run, seeds=seeds, data=write(folder / "rows.jsonl", rows))


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("slug", ROWS)
def test_a_check_on_given_records(slug: str, tmp_path: Path) -> None:
    verdict = verdict_of(slug, ROWS[slug], tmp_path)
    assert verdict.outcome in ("seen", "not seen", "mixed")
    assert "rows.jsonl" in verdict.setting
    assert len(verdict.measures) == 2 * ARMS[slug]
    assert json.dumps(verdict.summary)
    shares = ("in order", "AUC", "A-accuracy", "found, quoted", "found, not quoted")
    assert all(0 <= row[one] <= 1 for row in verdict.measures for one in shares if one in row)
    again = verdict_of(slug, ROWS[slug], tmp_path)
    assert (again.outcome, again.summary) == (verdict.outcome, verdict.summary)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda one: one.stem)
def test_a_published_verdict_on_real_text_follows_from_its_rows(path: Path, tmp_path: Path) -> None:
    """The data is not here: a stand-in of the same name is read, and nothing is measured on it."""
    published = json.loads(path.read_text(encoding="utf-8"))
    run = Run.start(tmp_path / "run", "check", CheckOptions())
    append_rows(run.artefacts / "measures.jsonl", published["measures"])
    seeds = len({row["seed"] for row in published["measures"]})
    verdict = verdict_of(path.stem, ROWS[path.stem], tmp_path, seeds)
    assert verdict.outcome == published["outcome"]
    assert verdict.summary == pytest.approx(published["summary"])
    assert (verdict.rule, verdict.claim) == (published["rule"], published["claim"])


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("slug", "rows", "message"),
    [
        ("pro", pairs(3), "no ranking whose scores differ"),
        ("aft", pairs(3), "no ranking whose scores differ"),
        ("poft", pairs(3), "0 prompts with an answer"),
        ("d2o", judged(4), "no preference pair, found"),
        ("d2o", pairs(3), "3 of 3 records have at most 160 tokens, 20 are needed"),
        ("cut", pairs(3), "no judged answer, found"),
        ("cut", judged(8), "2 of 2 records have at most 400 tokens, 12 are needed"),
        ("reward-augmented", pairs(1), "1 distinct prompts"),
    ],
)
def test_a_file_of_the_wrong_kind_is_named(
    slug: str, rows: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        verdict_of(slug, rows, tmp_path)


@pytest.mark.usefixtures("model")
def test_an_adapter_learns_and_the_default_model_stays_as_it_is() -> None:
    record = Demonstration(prompt=[{"role": "user", "content": "Hi"}], completion="Good day to you")
    before = mean_logps([record])
    learned = adapted([record], "sft", None, steps=8, seed=0)
    assert mean_logps([record], learned)[0][0] > before[0][0]
    assert mean_logps([record]) == before


@pytest.mark.usefixtures("model")
def test_negatives_of_the_default_model_have_margin_zero() -> None:
    records = [
        Preference(prompt=[{"role": "user", "content": f"Say {i}"}], chosen="yes", rejected="no")
        for i in range(4)
    ]
    material = negative_text(records, 0, prompts=4, samples=2)
    found = negative_measures(material, None, lambda anchors, negatives: anchors - negatives)
    assert found["margin"] == 0
    chosen = text_logps(material.pairs)
    assert [one.completion for one in material.rejected] == ["no"] * 4
    assert found["nll, chosen"] == pytest.approx(-float(torch.cat([row[0] for row in chosen]).mean()))


@pytest.mark.parametrize(
    ("judgment", "quoted"),
    [
        ('The word "blue" is wrong.', ["blue"]),
        ("The word “blue” is wrong.", ["blue"]),
        ('"Blue" is wrong.', []),
        ('It is almost perfect, but "sky is blue" and "sea" are not asked for.', ["sky is blue", "sea"]),
        ('It is wrong. The correct answer should be "blue".', []),
        ('Use "is" instead.', []),
        ('The word "lue" is wrong.', []),
        ("blue is wrong", []),
    ],
)
def test_quoted_criticism_is_found(judgment: str, quoted: list[str]) -> None:
    answer = "The sky is blue, so is the sea."
    assert [answer[start:end] for start, end in quoted_spans(answer, judgment)] == quoted


@pytest.mark.usefixtures("model")
def test_quoted_tokens_cover_the_quotation() -> None:
    record = Judgment(
        prompt=[{"role": "user", "content": "Colour?"}],
        completion="It is blue",
        judgment='The word "blue" is wrong.',
    )
    material = quoted_text([record, replace(record, judgment="Wrong.")], 0, training=1, measured=1)
    (mask,) = material.masks
    tokenizer = open_default()[1]
    ids = encode_response(tokenizer, record.prompt, record.completion)
    assert len(mask) == len(ids)
    said = tokenizer.decode([one for one, inside in zip(ids, mask.tolist(), strict=True) if inside])
    assert said.strip() == "blue"
    assert not mask[-1], "the end of turn is not quoted"


def test_a_failed_judge_is_no_critic() -> None:
    prompt: Any = [{"role": "user", "content": "?"}]
    said = ["Wrong.", "$ERROR$", "None", ""]
    records = [Judgment(prompt=prompt, completion="a", judgment=one) for one in said]
    assert [one.judgment for one in criticised(records)] == ["Wrong."]


@pytest.mark.parametrize(("text", "score"), [("I am so", 10), ("", 1), ("1 2", 1), ("aaaaa bbbb", 7)])
def test_short_words_score_high(text: str, score: int) -> None:
    assert plainness(text) == score


def test_good_rejected_replies_are_those_above_the_median() -> None:
    prompt: Any = [{"role": "user", "content": "?"}]
    made = [
        Preference(prompt=prompt, chosen="a", rejected="b", chosen_score=9, rejected_score=score)
        for score in (1, 4, 8)
    ]
    assert [one.rejected_score for one in GoalText(0, [], made).good] == [4, 8]
