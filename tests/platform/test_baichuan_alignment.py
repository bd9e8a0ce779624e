"""Which stages the recipe has, by what is given, and what they are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import ConfigError, DataError
from coalign.core.runs import Run
from coalign.platform.baichuan_alignment import Config, stages


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def parts(tmp_path: Path, **given: Any) -> dict[str, Any]:
    run = Run(tmp_path / "run")
    run.artefacts.mkdir(parents=True, exist_ok=True)
    return {one.name: one for one in stages(Config(**given), run)}


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return write(tmp_path / "pairs.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"})


def test_the_whole_line(tmp_path: Path, pairs: str) -> None:
    found = parts(tmp_path, prompts="p", demonstrations="d", preferences=pairs)
    assert [*found] == ["curated", "tuned", "rewarding", "reinforced", "merged"]
    reinforced = found["reinforced"].options
    assert (reinforced["model"], reinforced["prompts"], reinforced["reward"]) == (
        "${tuned}",
        ["${curated}"],
        ["model:${rewarding}"],
    )
    assert (reinforced["samples"], reinforced["kl_top_k"], reinforced["kl_in"], reinforced["ptx_data"]) == (
        3,
        500,
        "advantage",
        "d",
    )
    assert found["merged"].options["models"] == ["${tuned}", "${reinforced}"]
    assert found["rewarding"].options["score_weight"] == 0


def test_scores_in_the_pairs_are_learnt(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 4, "score_rejected": 2}
    assert (
        parts(tmp_path, preferences=write(tmp_path / "x.jsonl", row))["rewarding"].options["score_weight"]
        == 0.1
    )


def test_each_part_stands_alone(tmp_path: Path) -> None:
    assert [*parts(tmp_path, demonstrations="d")] == ["tuned"]
    assert [*parts(tmp_path, prompts="p")] == ["curated"]
    assert [*parts(tmp_path, prompts="p", curate=False, reward=["max_words:3"])] == ["reinforced"]
    merged = parts(tmp_path, merge_with=["a", "b"], merge_method="linear")["merged"].options
    assert (merged["models"], merged["method"], merged["base"]) == (["a", "b"], "linear", "default")
    with pytest.raises(ConfigError, match="alone cannot be merged"):
        parts(tmp_path, merge_with=["a"])
    with pytest.raises(ConfigError, match="no effect without --prompts"):
        parts(tmp_path, reward=["max_words:3"])


def test_prompts_are_curated_by_what_is_asked_for(tmp_path: Path) -> None:
    steps = parts(tmp_path, prompts="p", template=0.7, anchors=4, best=0.25, judge_model="j")[
        "curated"
    ].options
    assert steps["model"] == "j"
    assert [one if isinstance(one, str) else next(iter(one)) for one in steps["steps"]] == [
        "exact",
        "template",
        "diverse",
        "anchors",
        "top",
    ]
    plain = parts(tmp_path, prompts="p", diverse=False)["curated"]
    assert "model" not in plain.options
    assert not plain.shares


def test_complements_become_demonstrations(tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", {"prompt": "Tell me of bees.", "complement": "For a child."})
    (made,) = parts(tmp_path, complements=file)["completing"].options["data"]
    (row,) = map(json.loads, Path(made).read_text().splitlines())
    assert "Tell me of bees." in row["prompt"][0]["content"]
    assert row["completion"] == [{"role": "assistant", "content": "For a child."}]
    bad = write(tmp_path / "bad.jsonl", {"prompt": "x", "complement": "y"}, {"prompt": "x"})
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        parts(tmp_path, complements=bad)
