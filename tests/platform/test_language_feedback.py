"""Pairs from language feedback: requests, what is dropped, whole runs with pictures and with a reward model and PPO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.data.media.conversations import MARK
from coalign.data.readers import read_records
from coalign.data.records import Judgment, Messages, Preference
from coalign.models.types import Generation, Sampling
from coalign.platform import align_anything
from coalign.platform.language_feedback import improvement
from coalign.platform.language_feedback.duels import duel
from coalign.platform.language_feedback.pairs import overlap, teaches_nothing, tell_pairs
from coalign.platform.language_feedback.prompts import neutral, to_criticise, to_refine
from tests.data.media.making import encoded, picture
from tests.models.tiny_vision import save_tiny_llava
from tests.preference.tiny_runs import WORDS, run_system, save_tiny_model, write

ASKED: Messages = [{"role": "user", "content": f"{MARK}What is it?"}]


def test_a_critique_is_asked_of_prompt_and_response_with_the_picture_once() -> None:
    (turn,) = to_criticise(ASKED, f"A cat {MARK} <image> <|video_pad|>")
    assert turn["content"].count(MARK) == 1
    assert "A cat image image video" in turn["content"]
    several: Messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    ]
    (turn,) = to_criticise(several, "So.")
    assert "System: Be brief.\n\nUser: Hello\n\nAssistant: Yes?\n\nUser: Why?" in turn["content"]


def test_a_refinement_sees_the_response_or_not() -> None:
    turns = to_refine(ASKED, "A <image> cat", f"It is a dog {MARK}.")
    assert [one["role"] for one in turns] == ["user", "assistant", "user"]
    assert turns[0] == ASKED[0]
    assert turns[1]["content"] == "A image cat"
    assert turns[2]["content"].startswith("It is a dog image.")
    (turn,) = to_refine(ASKED, "A cat", "It is a dog.", "x,c")
    assert turn["content"].startswith(ASKED[0]["content"])
    assert "It is a dog." in turn["content"]
    assert "A cat" not in turn["content"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<audio>", "audio"),
        ("<|image_1|>", "image"),
        ("<IMG>", "img"),
        ("a <b> c", "a <b> c"),
        ("image", "image"),
    ],
)
def test_placeholders_become_words(text: str, said: str) -> None:
    assert neutral(text) == said


@given(st.text(), st.text())
def test_only_pairs_that_differ_teach_something(response: str, refinement: str) -> None:
    why = teaches_nothing(response, refinement)
    assert (why is None) == bool(
        response.split() and refinement.split() and response.split() != refinement.split()
    )
    assert teaches_nothing(f" {response}", f"{response}\n") is not None


@given(st.lists(st.sampled_from(["red", "Blue", "cat"])), st.lists(st.sampled_from(["red", "blue", "dog"])))
def test_overlap_is_the_share_of_kinds_of_words(critique: list[str], refinement: list[str]) -> None:
    found = overlap(" ".join(critique), ", ".join(refinement))
    kinds = {*refinement}
    expected = len(kinds & {one.lower() for one in critique}) / len(kinds) if kinds else 0.0
    assert found == expected


def test_figures_of_pairs() -> None:
    rows = [{"response": "a", "critique": "b c", "refinement": "b d e"}, {"response": "a a a", "critique": "x", "refinement": "x"}]  # fmt: skip
    assert tell_pairs(rows) == pytest.approx(
        {
            "mean words, response": 2,
            "mean words, critique": 1.5,
            "mean words, refinement": 2,
            "critique overlap": (1 / 3 + 1) / 2,
        }
    )
    assert tell_pairs([]) == {}


def test_duels_count_ties_half_and_leave_out_what_has_no_value() -> None:
    texts = [("a", "b"), ("a", "b"), ("a", "b"), ("a", "b c")]
    found = duel([0.0, 1.0, 1.0, float("nan")], [1.0, 1.0, 0.0, 1.0], texts)
    assert found == {"win rate": 0.5, "win rate, length-controlled": pytest.approx(0.5), "compared": 3.0}
    assert duel([float("nan")], [1.0], [("a", "b")]) == {}


def test_critiques_without_words_are_not_learnt() -> None:
    said = ["Too short.", "None", "", "  "]
    records = [Judgment(prompt=ASKED, completion="A cat", judgment=one) for one in said]
    (one,) = improvement.critique_demonstrations(records)
    assert one.completion == "Too short."
    assert one.prompt == to_criticise(ASKED, "A cat")


class Scripted:
    """Answers by the last message, and counts what it was asked."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self.asked = answers, 0

    def generate(self, prompts: Any, sampling: Sampling, **how: Any) -> list[list[Generation]]:
        self.asked += len(prompts)
        found = []
        for one in prompts:
            last = one[-1]["content"]
            text = next((said for key, said in self.answers.items() if key in last), "")
            found.append([Generation(text, [1], "stop")])
        return found


def test_pairs_that_teach_nothing_are_rejected_with_a_reason(tmp_path: Path) -> None:
    prompts = write(
        tmp_path / "p.jsonl", [{"id": one, "prompt": one} for one in ("good", "same", "mute", "uncritical")]
    )
    model = Scripted({"Better!": "better", "Same!": "said", "Mute!": "", "": "said"})
    critic = Scripted({"\ngood\n": "Better!", "\nsame\n": "Same!", "\nmute\n": "Mute!"})
    done = improvement.improve(
        tmp_path / "made",
        read_records(prompts, kind="prompt").records,
        lambda: model,
        lambda: critic,
        refine_on="x,y,c",
        sampling=Sampling(max_new_tokens=4),
        critique_sampling=Sampling(max_new_tokens=4),
        batch=2,
    )
    (pair,) = improvement.pairs_of(done.rows())
    assert (pair.chosen, pair.rejected, pair.extra["critique"]) == ("better", "said", "Better!")
    assert done.reasons() == {
        "criticised: empty critique": 1,
        "pairs: identical": 1,
        "pairs: empty refinement": 1,
    }
    assert (model.asked, critic.asked) == (7, 4)


SMALL = {"device": "cpu", "max_new_tokens": 4, "critique_tokens": 5, "batch_size": 2, "max_steps": 1, "save_steps": 0,
         "learning_rate": 1e-2}  # fmt: skip


def test_a_run_with_pictures(tmp_path: Path) -> None:
    """Feedback model, pairs and DPO over an image-text-to-text model of random weights."""
    save_tiny_llava(tmp_path / "llava")
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(encoded(picture(24, 24)))
    seen = {"prompt": "what is in the picture", "images": ["a.png"]}
    data = write(
        tmp_path / "critiques.jsonl",
        [
            {**seen, "prompt": f"what is {one}", "response": "a cat", "judgment": "it is red"}
            for one in WORDS[:3]
        ],
    )
    prompts = write(
        tmp_path / "prompts.jsonl",
        [{**seen, "id": "1"}, {**seen, "id": "2", "prompt": "which is it", "images": ["b.png"]}],
    )
    run = run_system(
        "align-anything", align_anything, tmp_path / "run", model=str(tmp_path / "llava"), data=str(data),
        prompts=str(prompts), max_length=2000, request_batch=1, **SMALL,
    )  # fmt: skip
    pairs = read_records(str(run.path), kind="preference", text_alone=False).records
    assert pairs
    assert all(isinstance(one, Preference) and len(one.pictures) == 1 for one in pairs)
    assert any((run.model).glob("*.safetensors"))
    shown = read_rows(run.path / "stages" / "improvement" / "artefacts" / "improvement" / "kept.jsonl")
    assert {Path(one["images"][0]).name for one in shown} <= {"a.png", "b.png"}
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = write(tmp_path / "bad.jsonl", [{**seen, "id": "1"}, {**seen, "id": "2", "images": ["bad.png"]}])
    with pytest.raises(DataError, match=r"bad.jsonl:2: images: .*not a picture"):
        run_system(
            "align-anything", align_anything, tmp_path / "no", model="nowhere", prompts=str(bad), **SMALL
        )
    with pytest.raises(ConfigError, match="no prompts with pictures"):
        run_system(
            "align-anything", align_anything, tmp_path / "ppo", model=str(tmp_path / "llava"), prompts=str(prompts),
            optimise="ppo", **SMALL,
        )  # fmt: skip


def test_a_reward_model_and_ppo_from_given_pairs(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "tiny")
    rows = [{"prompt": f"the sky is {one}", "chosen": one, "rejected": "no"} for one in WORDS[:6]]
    pairs = write(tmp_path / "pairs.jsonl", rows)
    prompts = write(
        tmp_path / "prompts.jsonl", [{"id": one, "prompt": f"the sky is {one}"} for one in WORDS[:4]]
    )
    small = {key: value for key, value in SMALL.items() if key != "critique_tokens"}
    given = {"model": str(tmp_path / "tiny"), "pairs": str(pairs), "prompts": str(prompts), "optimise": "ppo",
             "stage": ["ppo.prompts_per_step=2", "ppo.eval_fraction=0.25"], **small}  # fmt: skip
    run = run_system("align-anything", align_anything, tmp_path / "run", **given)
    stages = {one.name: Run(one) for one in (run.path / "stages").iterdir()}
    assert stages.keys() == {"reward-model", "ppo"}
    used = stages["ppo"].config()
    assert (used["reward_clip"], used["average"], used["beta"], used["whiten"]) == (
        50.0,
        "responses",
        0.02,
        False,
    )
    assert stages["reward-model"].config()["reward_l2"] == 0.0005
    assert json.loads((run.path / "status.json").read_text())["state"] == "done"

    def saved() -> dict[str, int]:
        """When each stage's weights were written."""
        weights = (run.path / "stages").rglob("model/*.safetensors")
        return {str(one): one.stat().st_mtime_ns for one in weights}

    before = saved()
    assert len(before) == 2
    run_system("align-anything", align_anything, tmp_path / "run", **given)
    assert saved() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to do"),
        ({"pairs": "pairs.jsonl", "optimise": "ppo"}, "PPO needs prompts"),
        ({"pairs": "pairs.jsonl", "stage": ["dpo.betta=1"]}, "dpo.betta.*no such option"),
        ({"pairs": "pairs.jsonl", "stage": ["dpo.beta=x"]}, "stages.dpo.*beta"),
    ],
)
def test_what_cannot_be_done_is_said_before_a_model_is_loaded(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(CoalignError, match=message):
        run_system("align-anything", align_anything, tmp_path / "run", model="nowhere", **options)
