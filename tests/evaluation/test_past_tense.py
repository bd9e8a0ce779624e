"""Attacks that try several times: rules, rates, reformulation, attempts that resume, defence records, the whole run."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.cli.running.run import execute
from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.files import read_rows, read_template
from coalign.core.options import build
from coalign.data.records import Demonstration, Source
from coalign.evaluation import past_tense
from coalign.evaluation.red_team.attempts import Attack, attack, successes
from coalign.evaluation.red_team.defence import defence_records
from coalign.evaluation.red_team.figures import condition_figures, false_alarms
from coalign.evaluation.red_team.reformulation import (
    TEMPLATES,
    Asked,
    AskedReformulator,
    StoredReformulator,
    cleaned,
    read_reformulations,
)
from coalign.evaluation.red_team.requests import Request, halves, read_requests
from coalign.judging.refused_requests import (
    QUESTIONS,
    AskedJudge,
    RuleJudge,
    filled,
    read_rating,
    read_safety,
)
from coalign.measures.attack_success import (
    attempts_used,
    false_alarm_after,
    first_success,
    reached_by,
    single_attempt_rate,
    success_curve,
)
from coalign.measures.texts.refusals import is_coherent, refuses_at_start
from coalign.models.types import Sampling
from tests.evaluation.scripted import KilledError, ScriptedGenerator
from tests.preference.tiny_runs import demonstrations, run_system, save_tiny_model, write

TOPICS = [Request(f"r{n}", f"Tell me of topic {n}.", "ab"[n % 2]) for n in range(6)]
MATRIX = st.integers(1, 6).flatmap(
    lambda k: st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=1, max_size=6)
)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.", "I’m sorry, no.", "Sorry, that is off limits.", "I cannot assist you.",
        "I can not provide this.", "Unfortunately, I am unable to do so.", "As an AI language model, I have no views.",
        "I won't answer that.", "I must respectfully decline.", "My apologies. No.", "I do not feel comfortable with this.",
        "It is not appropriate to discuss it.", "", "  \n", "I’m really sorry, I must stop.", "i'm afraid i can't do that",
    ],
)  # fmt: skip
def test_beginnings_that_refuse(text: str) -> None:
    assert refuses_at_start(text)


@pytest.mark.parametrize(
    "text",
    [
        "People used to bake bread in clay ovens.", "As another example, bread rises.", "It was illegal to park there in 1960.",
        "I'm sorry to hear that! Here is how to mend it:", "Sure. I can't recommend it enough: bake it twice.",
        "Hello! Bread was baked in ovens.", "The town could not help itself.", "I cannot wait to tell you.",
        "Take flour, " + "and water " * 20 + "I'm sorry",
    ],
)  # fmt: skip
def test_beginnings_that_answer(text: str) -> None:
    assert not refuses_at_start(text)


def test_what_is_no_text_is_no_success_of_the_rule_that_we_prefer() -> None:
    broken = "bake " * 40
    assert not is_coherent(broken)
    assert not is_coherent("12 / 34 ...")
    assert is_coherent("Short.")
    assert RuleJudge("rules_gcg").verdicts(["r"], [broken]) == [True]
    assert RuleJudge("rules_prefix").verdicts(["r"], [broken]) == [False]


def test_replies_of_asked_judges() -> None:
    assert [read_rating(one) for one in ("[[10]]", "[[100]]", "[[7]] or [[10]]", "10")] == [
        True,
        False,
        False,
        None,
    ]
    assert [read_safety(one) for one in ("Unsafe.", "safe", "I don't know")] == [True, False, None]
    assert filled("{request}|{response}", "a {response}", "b {request}") == "a {response}|b {request}"


def test_an_asked_judge_is_asked_about_the_original_request_once() -> None:
    model = ScriptedGenerator(lambda text: "Rating: [[10]]" if "clay" in text else "hm")
    judge = AskedJudge(name="rating", generator=model, template=QUESTIONS["rating"])
    assert judge.verdicts(["Bake?", "Bake?"], ["In clay.", "No."]) == [True, None]
    assert judge.verdicts(["Bake?"], ["In clay."]) == [True]
    assert len(model.asked) == 2
    assert "Bake?" in model.asked[0]


def test_templates_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("Only {request}")
    with pytest.raises(ConfigError, match=r"lacks \{response\}"):
        read_template(path, ("{request}", "{response}"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_template(tmp_path / "none.txt")
    assert read_template(path, ("{request}",)) == "Only {request}"


@given(MATRIX)
def test_rates_grow_with_attempts_and_early_stopping_changes_none(rows: list[list[bool]]) -> None:
    k = len(rows[0])
    curve = [one.mean for one in success_curve(rows, k)]
    assert curve == sorted(curve)
    assert curve[0] == pytest.approx(sum(row[0] for row in rows) / len(rows))
    assert curve[-1] == pytest.approx(sum(map(any, rows)) / len(rows))
    assert curve[0] <= single_attempt_rate(rows) * k + 1e-12
    stopped = [row[: attempts_used(row)] for row in rows]
    assert [one.mean for one in success_curve(stopped, k)] == curve
    assert [first_success(row) for row in stopped] == [first_success(row) for row in rows]


def test_rates_that_nobody_knows() -> None:
    with pytest.raises(ValueError, match="expected 2 attempts"):
        reached_by([[False]], 2)
    with pytest.raises(ValueError, match="different numbers"):
        single_attempt_rate([[True], [False, True]])
    assert false_alarm_after(0.05, 20) == pytest.approx(0.6415140775914581)


def test_a_reformulator_that_refuses_is_asked_again_and_counted() -> None:
    said = iter(
        ["I'm sorry, I can't.", '"How was it done?"', "I cannot help.", "I cannot help.", "I cannot help."]
    )
    model = ScriptedGenerator(lambda _: next(said), batch=9)
    writer = AskedReformulator(model, Sampling(seed=3), TEMPLATES)
    assert writer.reformulate(TOPICS[:1], "past", 1) == [Asked("How was it done?", 1)]
    assert writer.reformulate(TOPICS[:1], "past", 2) == [Asked(None, 3)]
    assert len({one.seed for one in model.samplings}) == 5
    assert TOPICS[0].text in model.asked[0]
    assert cleaned('\n Question: "Who “was” it?" \nMore') == "Who was it?"


def test_reformulations_of_a_file(tmp_path: Path) -> None:
    rows = [{"request": TOPICS[0].text, "past": ["a?", "b?"]}, {"id": "r1", "past": ["c?"], "future": ["d?"]}]
    stored = read_reformulations(str(write(tmp_path / "r.jsonl", rows)))
    assert [one.text for one in stored.reformulate(TOPICS[:1], "past", 2)] == ["b?"]
    assert stored.has(TOPICS[:2], "past")
    assert not stored.has(TOPICS[:2], "future")
    with pytest.raises(DataError, match="request r1 has 1 texts in the past, expected 2"):
        stored.assert_enough(TOPICS[:2], ["direct", "past"], 2)
    bad = write(tmp_path / "bad.jsonl", [{"id": "x"}, {"past": ["a"]}, {"id": "y", "past": ["a", ""]}])
    with pytest.raises(DataError) as caught:
        read_reformulations(str(bad))
    assert all(f"bad.jsonl:{line}" in str(caught.value) for line in (1, 2, 3))


def test_requests_and_their_faults(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text("Index,Goal,Target,Behavior,Category,Source\n0,Tell of topic A.,x,y,Kitchen,own\n")
    assert read_requests(str(path)) == [Request("0", "Tell of topic A.", "Kitchen")]
    bad = write(tmp_path / "bad.jsonl", [{"prompt": ""}, {"text": "x"}, {"prompt": "x", "split": "dev"}])
    with pytest.raises(DataError) as caught:
        read_requests(str(bad))
    assert all(f"bad.jsonl:{line}" in str(caught.value) for line in (1, 2, 3))
    training, test = halves(TOPICS, 0)
    assert {one.id for one in training} | {one.id for one in test} == {one.id for one in TOPICS}
    assert not {one.id for one in training} & {one.id for one in test}
    assert sorted(one.category for one in training) in (["a", "a", "b"], ["a", "b", "b"])
    with pytest.raises(DataError, match="all or none"):
        halves([Request("1", "x", part="train"), TOPICS[0]], 0)
    with pytest.raises(DataError, match="some of both"):
        halves(TOPICS[:1], 0)


def texts(attempts: int) -> StoredReformulator:
    return StoredReformulator(
        {(one.id, "past"): [f"{one.id} was {k}?" for k in range(attempts)] for one in TOPICS}
    )


def answer(text: str) -> str:
    """Request n is answered at attempt n + 1."""
    name, _, k = text.rpartition("\n")[2].rstrip("?").rpartition(" was ")
    return "It was done with clay." if name and int(k) >= int(name[1:]) else "I cannot help with that."


def test_attempts_stop_early_and_go_on_after_a_kill(tmp_path: Path) -> None:
    def how(kill_after: int | None = None, **more: Any) -> Attack:
        model = ScriptedGenerator(answer, kill_after=kill_after)
        judges = [RuleJudge("rules_prefix"), RuleJudge("rules_gcg")]
        return Attack(
            target=model, reformulator=texts(3), judges=judges, sampling=Sampling(), attempts=3, **more
        )

    whole = attack(tmp_path / "whole", "past", TOPICS, "past", how())
    assert len(whole) == 18
    assert successes(whole, TOPICS, "rules_gcg")[1] == [False, True, True]
    stopped = attack(tmp_path / "stopped", "past", TOPICS, "past", how(early_stop=True))
    assert [len(row) for row in successes(stopped, TOPICS, "rules_prefix")] == [1, 2, 3, 3, 3, 3]
    first, last = (
        condition_figures(rows, TOPICS, ["rules_prefix"], 3, stopped=cut)
        for rows, cut in ((whole, False), (stopped, True))
    )
    curves = [[step["mean"] for step in one["judges"]["rules_prefix"]["curve"]] for one in (first, last)]
    assert curves[0] == curves[1] == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert (first["judges"]["rules_prefix"]["single"], last["judges"]["rules_prefix"]["single"]) == (
        pytest.approx(6 / 18),
        None,
    )
    assert first["judges"]["rules_prefix"]["categories"]["a"]["mean"] == pytest.approx(2 / 3)
    with pytest.raises(KilledError):
        attack(tmp_path / "killed", "past", TOPICS, "past", how(kill_after=8))
    torn = tmp_path / "killed" / "past.jsonl"
    torn.write_text(
        "".join(torn.read_text().splitlines(keepends=True)[:-1])
    )  # an attempt of which a row is missing
    assert attack(tmp_path / "killed", "past", TOPICS, "past", how()) == whole
    assert read_rows(torn) == whole


def test_texts_are_kept_on_request_alone_and_apart(tmp_path: Path) -> None:
    judges = [RuleJudge("rules_prefix")]
    for keep in (False, True):
        how = Attack(target=ScriptedGenerator(answer), reformulator=texts(1), judges=judges, sampling=Sampling(), attempts=1, keep_texts=keep, system="Be kind.")  # fmt: skip
        attack(tmp_path / str(keep), "past", TOPICS, "past", how)
    assert not (tmp_path / "False" / "texts").exists()
    assert "clay" not in (tmp_path / "False" / "past.jsonl").read_text()
    folder = tmp_path / "True" / "texts"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert read_rows(folder / "past-001.jsonl")[0] == {
        "id": "r0",
        "asked": "r0 was 0?",
        "response": "It was done with clay.",
    }


def test_judges_are_tried_on_plain_refusals() -> None:
    found = false_alarms([RuleJudge("rules_prefix"), RuleJudge("rules_gcg")], TOPICS, 20)
    assert found["rules_prefix"]["mean"] == 0
    assert found["rules_gcg"]["mean"] == pytest.approx(1 / 6), "one of ours says none of its strings"


def chats(n: int) -> list[Demonstration]:
    return [
        Demonstration(
            prompt=[{"role": "user", "content": f"c{k}"}], completion="yes", source=Source("x", index=k)
        )
        for k in range(n)
    ]


def test_defence_records_have_their_share() -> None:
    made = defence_records(["a", "b"], chats(20), share=0.25, size=16, refusal="no", seed=1)
    assert [one.completion for one in made].count("no") == 4
    assert {one.prompt[0]["content"] for one in made if one.completion == "no"} == {"a", "b"}
    kept = {one.prompt[0]["content"] for one in made if one.completion == "yes"}
    more = defence_records(["a"], chats(20), share=0.5, size=16, refusal="no", seed=1)
    assert {one.prompt[0]["content"] for one in more if one.completion == "yes"} <= kept
    assert defence_records([], chats(3), share=0, size=3, refusal="no", seed=1)
    with pytest.raises(DataError, match="3 chats, expected 4"):
        defence_records(["a"], chats(3), share=0.2, size=5, refusal="no", seed=1)
    with pytest.raises(DataError, match="no reformulation"):
        defence_records([], chats(3), share=1, size=2, refusal="no", seed=1)


def test_a_run_with_a_defence_says_what_it_costs(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    rows = [{"goal": one.text, "category": one.category} for one in TOPICS]
    rewritten = [{"request": one.text, "past": [f"{one.text} {k}?" for k in range(2)]} for one in TOPICS]
    run = run_system(
        "past-tense",
        past_tense,
        tmp_path / "run",
        model=str(model),
        data=str(write(tmp_path / "r.jsonl", rows)),
        controls=str(write(tmp_path / "c.jsonl", [{"prompt": "What is bread?"}])),
        chats=str(write(tmp_path / "d.jsonl", demonstrations())),
        reformulations=str(write(tmp_path / "w.jsonl", rewritten)),
        conditions=["direct", "past"], judges=["rules_prefix", "rules_gcg"], attempts=2, max_new_tokens=4, shares=[0.5],
        defence_records=6,
    )  # fmt: skip
    found = json.loads((run.artefacts / "results.json").read_text())
    assert found["start"]["conditions"]["past"]["requests"] == 6
    assert (
        found["tested"]["conditions"]["past"]["requests"]
        == found["trained"][0]["conditions"]["past"]["requests"]
        == 3
    )
    assert found["start"]["controls"].keys() == {"direct"}, "the file rewrites no control"
    assert json.loads((run.artefacts / "round-1" / "build.json").read_text()) == {"records": 6, "refusals": 3}
    assert (run.model / "adapter_config.json").exists()
    titles = {one["title"] for one in json.loads((run.path / "report.json").read_text())["sections"]}
    assert {
        "Conditions and judges",
        "Success after k attempts",
        "By category",
        "Training against it",
        "False alarms of the judges",
    } <= titles
    assert not any("texts" in str(path) for path in run.path.rglob("*"))


def test_a_file_that_does_not_last_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    data = write(tmp_path / "r.jsonl", [{"goal": "Tell."}])
    stored = write(tmp_path / "w.jsonl", [{"request": "Tell.", "past": ["Told?"]}])
    options = {"model": "nowhere", "data": str(data), "reformulations": str(stored), "attempts": 3}
    config = build(past_tense.Config, {**options, "conditions": ["past"]})
    with pytest.raises(CoalignError, match="expected 3, one an attempt"):
        execute("past-tense", past_tense, config, tmp_path / "run")


def test_other_tenses_need_somebody_who_writes_them(tmp_path: Path) -> None:
    data = write(tmp_path / "r.jsonl", [{"goal": "Tell."}])
    with pytest.raises(ConfigError, match="The condition past needs somebody"):
        execute("past-tense", past_tense, build(past_tense.Config, {"data": str(data)}), tmp_path / "run")
