"""From logs to preferences: signals and which reply they judge, lists, faults of logs, the detector, the whole run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coalign.cli.running.run import execute
from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.curation import wildfeedback
from coalign.curation.feedback.checklists import (
    checklist_outcome,
    guided_prompt,
    leaks,
    read_checklist,
    summary_prompt,
)
from coalign.curation.feedback.detector import fit_detector, open_detector
from coalign.curation.feedback.evaluation import compare_replies
from coalign.curation.feedback.signals import (
    Signal,
    clipped,
    detection_prompt,
    locate,
    read_detection,
    windows,
)
from coalign.curation.feedback.steps import feedback_rows, unused
from coalign.judging.language_judge import LanguageModelJudge
from coalign.loops.pipeline import Kept, Rejected
from tests.evaluation.scripted import ScriptedGenerator
from tests.preference.tiny_runs import save_tiny_model, write


def talk(*texts: str) -> Any:
    return [
        {"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)
    ]


SIGNALS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8)


@given(SIGNALS)
def test_a_signal_judges_the_reply_before_it(flags: list[tuple[bool, bool]]) -> None:
    turns = talk(*(text for n in range(len(flags)) for text in (f"u{n}", f"m{n}")))
    found = locate(turns, [Signal(*one) for one in flags])
    assert [one.turn for one in found] == [n for n, one in enumerate(flags) if n and any(one)]
    for one in found:
        assert one.judged == f"m{one.turn - 1}"
        assert [turn["content"] for turn in one.prompt][-1] == f"u{one.turn - 1}"
        assert one.prompt == turns[: 2 * one.turn - 1]


def test_what_was_not_said_is_not_false() -> None:
    assert Signal(True, True).polarity == "mixed"
    assert Signal(False, False).polarity == "unclear"
    assert Signal(None, False).polarity is None
    assert Signal(True, None).polarity is None
    assert locate(talk("a", "b", "c"), [None, Signal(None, True)]) == []


def test_replies_of_the_judge_are_read_object_by_object() -> None:
    reply = """Sure:
    {"turn": 1, "satisfied": true, "dissatisfied": false, "categories": ["gratitude", "magic"]}
    {"turn_id": "2", "sat": false, "dsat": true, "category": "style", "reason": "too long"}
    {"turn": 2, "satisfied": true, "dissatisfied": true}
    {"turn": 9, "satisfied": true, "dissatisfied": false} {"turn": true} {"turn": 3, "satisfied": "yes"} {broken}"""
    assert read_detection(reply, [1, 2, 3, 4]) == {
        1: Signal(True, False, ("gratitude",)),
        2: Signal(False, True, ("style",), "too long"),
        3: Signal(None, None),
    }
    assert read_detection("no", [1]) == {}


@given(st.integers(2, 200), st.integers(1, 9), st.integers(0, 12))
def test_windows_judge_every_turn_but_the_first_once(users: int, size: int, context: int) -> None:
    turns = talk(*(f"t{n}" for n in range(2 * users - 1)))
    seen: list[int] = []
    for first, shown, before in windows(turns, size, context):
        numbers = [first + place for place in range(1, (len(shown) + 1) // 2)]
        seen += numbers
        assert shown[0] == turns[2 * first]
        assert before == turns[max(0, 2 * (first - context)) : 2 * first]
        assert (shown, len(numbers)) == (
            turns[2 * first : 2 * first + len(shown)],
            min(size, users - 1 - first),
        )
    assert seen == list(range(1, users))


def test_long_turns_are_shown_in_part_and_whole_turns_are_numbered() -> None:
    assert clipped("x" * 100, 10) == f"{'x' * 5}\n[...]\n{'x' * 5}"
    (message,) = detection_prompt(talk("first", "y" * 5000, "second", "reply", "third"), 4, clip=100)
    assert "[user, turn 5]\nsecond" in message["content"]
    assert "Turns to judge: 5, 6." in message["content"]
    assert len(message["content"]) < 5000


def window(**columns: Any) -> Any:
    return {"id": "c.0", "conversation": "c", "language": "", "preamble": [{"role": "system", "content": "S"}],
            "before": talk("old", "older"), "first": 1, "turns": talk("u1", "m1", "u2", "m2", "u3"), **columns}  # fmt: skip


def test_feedback_keeps_what_stood_before() -> None:
    flags = [
        {"satisfied": s, "dissatisfied": d, "categories": ["style"], "reason": ""}
        for s, d in ((False, True), (True, False))
    ]
    made = feedback_rows(window(signals=flags))
    first, second = (one.row for one in made)
    assert [one["content"] for one in first["prompt"]] == ["S", "old", "older", "u1"]
    assert (first["judged"], first["feedback"], first["turn"], first["polarity"]) == ("m1", "u2", 2, "dsat")
    assert (second["judged"], second["polarity"]) == ("m2", "sat")
    assert unused(first, ["style"]) == "sign left out: style"
    assert unused(first, []) is None
    assert "satisfied" in (unused(second, []) or "")
    unread, silent = (
        feedback_rows(window(signals=[None, one])) for one in (None, {**flags[0], "dissatisfied": False})
    )
    assert [one.reason for one in (*unread, *silent) if isinstance(one, Rejected)] == [
        "no turn with a signal that can be read"
    ] * 2
    assert isinstance(feedback_rows(window(signals=[{**flags[0], "dissatisfied": False}] * 2))[0], Rejected)


def test_lists_and_what_gives_them_away() -> None:
    assert read_checklist("Points:\n- short\n* in verse\n2) no numbers\nand so on\n- short") == [
        "short",
        "in verse",
        "no numbers",
    ]
    assert read_checklist("They want it short.") == []
    prompt = guided_prompt(talk("q"), ["short"], safe=True)
    assert [one["role"] for one in prompt] == ["system", "user"]
    with_system = guided_prompt(
        [{"role": "system", "content": "Be kind."}, *talk("q")], ["short"], safe=False
    )
    assert with_system[0]["content"].startswith("Be kind.\n\nThis user wants")
    assert [
        one["role"] for one in guided_prompt(talk("a", "b", "q"), ["short"], safe=False, place="user")
    ] == ["user", "assistant", "user"]
    assert leaks("As you requested, here it is.", [])
    assert leaks("Here: use no more than ten words", ["Use no more than ten words."])
    assert not leaks("The sky is blue.", ["Use no more than ten words."])
    assert "[reaction of the user]\nno" in summary_prompt(talk("q"), "r", "no", clip=50)[0]["content"]


def test_both_orders_count_and_a_tie_in_one_decides_nothing() -> None:
    assert checklist_outcome(["first", "tie"]) == "win"
    assert checklist_outcome(["second", "tie"]) == "lose"
    assert checklist_outcome(["first", "second"]) == checklist_outcome(["tie", "tie"]) == "tie"


def embeddings(labels: list[str]) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    places = torch.tensor([("sat", "dsat", "none").index(one) for one in labels])
    return 3 * torch.eye(5)[places] + torch.randn(len(labels), 5, generator=draw)


def test_a_detector_learns_keeps_and_refuses(tmp_path: Path) -> None:
    labels: Any = ["sat", "dsat", "none"] * 20
    vectors = embeddings(labels)
    found = fit_detector(vectors, labels)
    said = [one.polarity for one in found.signals(vectors)]
    assert (
        sum(one == {"none": "unclear"}.get(label, label) for one, label in zip(said, labels, strict=True))
        > 50
    )
    assert all((found.agreement[one] or 0) > 0.5 for one in ("sat", "dsat"))
    found.save(tmp_path / "detector.json")
    again = open_detector(str(tmp_path / "detector.json"), lambda texts: torch.zeros(len(texts), 5))
    assert again.signals(vectors) == found.signals(vectors)
    with pytest.raises(ConfigError, match="over 5 numbers a turn, the encoder gives 3"):
        open_detector(str(tmp_path / "detector.json"), lambda texts: torch.zeros(len(texts), 3))
    with pytest.raises(DataError, match="none with the label 'none'"):
        fit_detector(vectors[:2], ["sat", "dsat"])
    bad = write(tmp_path / "t.jsonl", [{"text": "", "label": "sat"}, {"text": "x", "label": "good"}])
    with pytest.raises(DataError) as caught:
        open_detector(str(bad), lambda texts: torch.zeros(len(texts), 3))
    assert "t.jsonl:1: text" in str(caught.value)
    assert "t.jsonl:2: label" in str(caught.value)


def test_replies_are_compared_with_the_list_and_without() -> None:
    def longer(text: str) -> str:
        first, second = (
            text.split(f"<<answer {one} ")[1].split(">>\n", 1)[1].split("\n<<end")[0] for one in "AB"
        )
        wanted = len(first) < len(second) if "few words" in text else len(first) > len(second)
        return "[[A]]" if wanted else "[[B]]"

    rows = [{"id": str(n), "prompt": talk("q"), "checklist": ["few words"]} for n in range(4)]
    judge = LanguageModelJudge(ScriptedGenerator(longer))
    after, before = ["a", "ab", "same", "long one"], ["abc", "a", "same", "x"]
    found = compare_replies(judge, rows, after, before, max_failures=0)
    assert found["with the list"]["outcomes"] == {"win": 1, "tie": 1, "lose": 2}
    assert found["without the list"]["outcomes"] == {"win": 2, "tie": 1, "lose": 1}
    assert found["with the list"]["mean"] == pytest.approx(0.375)
    assert found["with the list"]["equal"] == 1
    with pytest.raises(CoalignError, match="are missing"):
        compare_replies(
            LanguageModelJudge(ScriptedGenerator(lambda _: "hm")), rows, after, before, max_failures=0.1
        )


LOGS = [
    {"id": f"c{n}", "language": "English" if n % 2 else "Deutsch",
     "messages": talk(f"Tell of thing {n}.", f"Thing {n} is a long story.", "Shorter please.", "Short.", "Thanks!")}
    for n in range(6)
]  # fmt: skip


def scripted(text: str) -> str:
    """The judge and the expert."""
    if "Turns to judge" in text:
        return '{"turn": 1, "satisfied": false, "dissatisfied": true, "categories": ["style"]}\n{"turn": 2, "satisfied": true, "dissatisfied": false}'
    if "Reply with one word" in text:
        return "unsafe" if "thing 5" in text else "safe"
    if "What the user wants:" in text:
        return "- few words"
    if "<<answer A" in text:
        return "[[A]]"
    return "It is."


def mined(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    logs: Any = LOGS,
    say: Callable[[str], str] = scripted,
    **options: Any,
) -> Any:
    monkeypatch.setattr(wildfeedback, "open_named", lambda *_, **__: ScriptedGenerator(say))
    model = folder / "model"
    if not model.exists():
        save_tiny_model(model)
    data = write(folder / "logs.jsonl", logs)
    given = {"model": str(model), "device": "cpu", "data": str(data), "expert": "expert", "judge_model": "judge", "personal_data": "keep",
             "max_new_tokens": 5, "held_out": 0.3, "batch_size": 4, "max_length": 200, "learning_rate": 1e-3, **options}  # fmt: skip
    return execute("wildfeedback", wildfeedback, build(wildfeedback.Config, given), folder / "run")


def test_logs_become_pairs_a_model_and_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = [*LOGS, {"messages": talk("a", "b")}, {"messages": [*talk("a", "b"), {"role": "assistant", "content": "c"}]},
            {"conversation": [{**one, "language": "x", "toxic": False} for one in talk("", "b", "c")]},
            {"conversations": [{"from": "human", "value": "hm"}, {"from": "gpt", "value": "b"}, {"from": "observation", "value": "c"}]}]  # fmt: skip
    run = mined(tmp_path, monkeypatch, logs=logs)
    first = run.artefacts / "round-1"
    faults = json.loads((first / "conversations" / "manifest.json").read_text())["steps"][0]["rejected"]
    assert faults == {
        "no turn of the user after a reply": 1, "two turns of the assistant in a row": 1, "an empty turn of the user": 1, "a turn of a tool": 1,
    }  # fmt: skip
    rows = [*read_rows(first / "training.jsonl"), *read_rows(first / "held-out.jsonl")]
    assert len(rows) == 5, "thing 5 is unsafe"
    assert {row["chosen"] for row in rows} == {"It is."}
    assert all(row["rejected"].endswith("a long story.") and len(row["prompt"]) == 1 for row in rows)
    assert rows[0]["made_of"]["checklist"] == ["few words"]
    counts = {
        one["name"]: one["rejected"]
        for one in json.loads((first / "pairs" / "manifest.json").read_text())["steps"]
    }
    assert counts["use"] == {"satisfied: nothing to be better than": 6}
    assert counts["safe requests"] == {"unsafe": 1}
    assert (first / "sft" / "adapter_config.json").exists()
    assert any(run.model.glob("*.safetensors"))
    found = json.loads((run.artefacts / "results.json").read_text())
    assert found["with the list"]["requests"] == len(read_rows(first / "held-out.jsonl")) >= 1
    assert run.records == first / "training.jsonl"
    titles = {one["title"] for one in json.loads((run.path / "report.json").read_text())["sections"]}
    assert {
        "Conversations",
        "Signs of dissatisfaction",
        "Languages",
        "Trained model against start model",
    } <= titles
    assert "Masked personal data" not in titles


def test_a_judge_that_prefers_by_place_leaves_no_own_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ScriptedGenerator(lambda text: "Better." if "This user wants" in text else "Base.")
    monkeypatch.setattr(wildfeedback, "open_generator", lambda _: own)
    with pytest.raises(CoalignError, match=r"No pair is left.*preferred by the list: the list: tie \(5\)"):
        mined(tmp_path, monkeypatch, version="on-policy", expert=None, temperature=1.0)


def test_a_long_dialogue_in_several_languages_is_cut_into_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [text for n in range(200) for text in (f"Frage {n}? 你好", f"Réponse {n}.")]
    asked: list[str] = []

    def say(text: str) -> str:
        if "Turns to judge" in text:
            asked.append(text)
            last = text.rpartition("Turns to judge: ")[2].split(".")[0].split(", ")[-1]
            return f'{{"turn": {last}, "satisfied": false, "dissatisfied": true}}'
        return scripted(text)

    run = mined(
        tmp_path,
        monkeypatch,
        logs=[{"messages": talk(*texts)}, *LOGS[:2]],
        say=say,
        window=20,
        history=2,
        max_length=150,
    )
    rows = read_rows(run.artefacts / "round-1" / "training.jsonl") + read_rows(
        run.artefacts / "round-1" / "held-out.jsonl"
    )
    assert len(asked) == 10 + 2
    assert max(map(len, asked)) < 5000
    assert sum(row["made_of"]["conversation"] == "0" for row in rows) == 10
    assert max(len(row["prompt"]) for row in rows) <= 2 * 22 + 1


def test_turns_in_a_row_are_joined_on_request_and_languages_are_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = [
        {
            **one,
            "messages": [one["messages"][0], {"role": "user", "content": "Please."}, *one["messages"][1:]],
        }
        for one in LOGS
    ]
    run = mined(
        tmp_path,
        monkeypatch,
        logs=logs,
        merge_turns=True,
        languages=["English"],
        held_out=0.0,
        moderate=False,
    )
    rows = read_rows(run.artefacts / "round-1" / "training.jsonl")
    assert len(rows) == 3
    assert rows[0]["prompt"][0]["content"] == "Tell of thing 1.\n\nPlease."
    assert "nothing is claimed" in run.status()["headline"]


def test_what_is_missing_is_told_before_anything_is_read(tmp_path: Path) -> None:
    for options, message in (
        ({}, "somebody who writes"),
        ({"expert": "x", "detector": "trained"}, "labelled turns"),
    ):
        unreadable = tmp_path / "unreadable.jsonl"
        unreadable.write_text("no JSON")
        config = build(wildfeedback.Config, {"data": str(unreadable), **options})
        with pytest.raises(ConfigError, match=message):
            execute("wildfeedback", wildfeedback, config, tmp_path / message[:3])


def test_kept_columns_of_a_step_are_rows() -> None:
    assert isinstance(
        feedback_rows(
            window(signals=[{"satisfied": False, "dissatisfied": True, "categories": [], "reason": ""}, None])
        )[0],
        Kept,
    )
