"""Trainings on several sources: what is read, what each gives, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.json as pa_json
import pytest
from click.testing import CliRunner

from coalign.cli.files.data import data
from coalign.core.errors import ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import load_file
from coalign.data.records import Preference
from coalign.training.learning import learner
from coalign.training.material import LearningOptions, read_material
from tests.contract.killing import Killed, watched
from tests.preference.tiny_runs import (
    assert_complete,
    assert_same_weights,
    demonstrations,
    feedback,
    notes,
    pairs,
    rankings,
    write,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files of pairs with other prompts and other columns, and bad records in the second."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", pairs(12))
    renamed = [{"question": f"{row['prompt']} Why?", **row} for row in pairs(8)]
    for row in renamed:
        del row["prompt"]
    equal = {"question": "x", "chosen": "y", "rejected": "y"}
    write(tmp_path / "b.jsonl", [*renamed, {"question": "x", "chosen": 1, "rejected": "y"}, equal])
    return tmp_path


MIX: list[Any] = [
    "a.jsonl,max=10",
    {"path": "b.jsonl", "weight": 2.5, "tag": "bee", "columns": {"prompt": "question"}},
]
OPTIONS: dict[str, Any] = {"on_bad_record": "skip", "eval_fraction": 0.25, "max_steps": 2}


def test_a_mix_says_what_every_source_gives(learn: Any, folder: Path) -> None:
    run = learn("dpo", data=MIX, **OPTIONS)
    report = assert_complete(run)
    told = notes(run)
    assert (
        "a (a.jsonl): 12 records read, 0 rejected, 10 of 12 usable ones drawn (max), 2 held out, 8 to train"
        in told
    )
    assert (
        "bee (b.jsonl): 10 records read, 2 rejected, 8 used, 2 held out, 15 to train on in a pass (weight 2.5)"
        in told
    )
    figures = {event["tag"]: event for event in run.events("source")}
    assert figures["bee"]["share"] == pytest.approx(15 / 23)
    (plan, *_) = run.events("plan")
    assert {tag: count for tag, (count, _) in plan["sources"].items()} == {"a": 8, "bee": 15}
    assert (
        sum(tokens for _, tokens in plan["sources"].values())
        == plan["prompt_tokens"] + plan["response_tokens"]
    )
    card = (run.model / "README.md").read_text()
    assert all(
        "65.2 % of the mix" in text and "Loss, bee" in text
        for text in (card.replace("\\", ""), json.dumps(report))
    )
    (table,) = [one for one in report["sections"] if one["title"] == "Sources"]
    assert [row[0] for row in table["rows"]] == ["a", "bee"]
    assert {"loss/a", "loss/bee"} <= run.status()["figures"].keys()
    rejects = read_rows(run.path / "rejects.jsonl")
    assert [(row["file"], row["tag"], row["line"]) for row in rejects] == [
        ("b.jsonl", "bee", 9),
        ("b.jsonl", "bee", 10),
    ]


def test_a_mix_goes_on_however_it_is_written(learn: Any, folder: Path) -> None:
    run = learn("simpo", data=MIX, **OPTIONS)
    texts = ["a.jsonl,max=10", "b.jsonl,column.prompt=question,tag=bee,weight=2.5"]
    assert learn("simpo", data=texts, **OPTIONS).path == run.path
    assert load_file(run.path / "config.yaml")["data"] == [{"path": "a.jsonl", "max": 10}, MIX[1]]
    assert_same_weights(run, learn("simpo", run="again", data=texts, **OPTIONS))


def test_one_file_is_as_it_was(learn: Any, folder: Path) -> None:
    run = learn("dpo", data="a.jsonl", **OPTIONS)
    assert load_file(run.path / "config.yaml")["data"] == "a.jsonl"
    assert notes(run) == "a.jsonl: preference pairs, from the columns chosen, rejected and prompt (text)"
    assert not run.events("source")
    assert not [name for name in run.status()["figures"] if name.startswith("loss/")]


def config(**options: Any) -> LearningOptions:
    return LearningOptions(**options)


def test_ids_of_a_mix_differ_and_records_know_their_source(folder: Path) -> None:
    options = {
        "data": ["a.jsonl", "b.jsonl,column.prompt=question"],
        "on_bad_record": "skip",
        "eval_fraction": 0,
    }
    found = read_material(config(**options), "preference").training
    assert len({one.id for one in found}) == len(found) == 20
    assert {one.source.of for one in found} == {"a", "b"}
    assert found[12].id == "b:0"


def test_kinds_are_converted_source_by_source(tmp_path: Path) -> None:
    paths = [str(write(tmp_path / f"{n}.jsonl", rows)) for n, rows in enumerate((pairs(4), rankings(3)))]
    found = read_material(config(data=paths, eval_fraction=0), "preference").training
    assert len([one for one in found if isinstance(one, Preference)]) == 7
    thumbs = [[row for row in feedback() if row["label"] == up] for up in (True, False)]
    sides = [str(write(tmp_path / f"thumbs{n}.jsonl", rows)) for n, rows in enumerate(thumbs)]
    assert len(read_material(config(data=sides, eval_fraction=0), "feedback").training) == 8
    with pytest.raises(DataError, match="labelled"):
        read_material(config(data=sides[0], eval_fraction=0), "feedback")


def test_options_hold_where_a_source_says_nothing(tmp_path: Path) -> None:
    rows = [
        {"asked": row["prompt"], "completion": row["completion"], "text": "t"} for row in demonstrations(6)
    ]
    path = write(tmp_path / "a.jsonl", rows)
    found = read_material(config(data=str(path), column=["prompt=asked"], limit=5), "demonstration")
    assert (len(found.training), len(found.held_out)) == (3, 2)
    texts = read_material(
        config(data=str(path), kind="prompt", column="prompt=asked", eval_fraction=0), "prompt"
    )
    assert len(texts.training) == 6
    evaluated = config(
        data=str(path),
        eval_data=[f"{path},tag=x", str(write(tmp_path / "b.jsonl", rows))],
        column="prompt=asked",
    )
    material = read_material(evaluated, "demonstration")
    assert (len(material.training), len(material.held_out)) == (6, 12)
    assert "x (" in material.notes[-2]
    assert "all held out" in material.notes[-1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["a.jsonl", "a*.jsonl"], "a.jsonl: belongs to two sources, a.jsonl and a\\*.jsonl"),
        (["a.jsonl", "b.jsonl"], "b.jsonl:9: chosen: the number 1, expected text"),
        (["a.jsonl", "c.jsonl"], "c.jsonl: no such file"),
        (["a.jsonl,weight=0.01"], "no record is left to learn from"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_mixed_is_refused(data: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_material(config(data=data, eval_fraction=0), "preference")


def test_a_mix_of_demonstrations_and_rankings_is_refused_where_they_are_learnt_differently(
    learn: Any, tmp_path: Path
) -> None:
    paths = [
        str(write(tmp_path / f"{n}.jsonl", rows)) for n, rows in enumerate((demonstrations(), rankings()))
    ]
    with pytest.raises(DataError, match="a mix of demonstrations"):
        learn("aft", data=paths)


def test_two_files_where_one_makes_sense_are_refused(tmp_path: Path) -> None:
    from coalign.cli.running.run import command

    result = CliRunner().invoke(command("awp"), ["--data", "a.csv", "--data", "b.csv"])
    assert result.exit_code == 2
    assert "--data takes one value and was given 2: a.csv, b.csv" in result.output


def test_a_glob_that_the_shell_expanded_is_explained() -> None:
    from coalign.cli.running.run import command

    result = CliRunner().invoke(command("dpo"), ["--data", "a.jsonl", "b.jsonl", "c.jsonl"])
    assert result.exit_code == 2
    assert (
        "(b.jsonl c.jsonl). A flag takes one word: several files are a flag each, or a glob in quotes."
        in result.output
    )


def test_flags_and_a_file_say_the_same(folder: Path) -> None:
    from coalign.cli.flags import ConfigCommand

    seen: list[Any] = []
    command = ConfigCommand("dpo", learner("dpo").Config, lambda one, out: seen.append(one), help="")
    (folder / "c.yaml").write_text(
        "data: [{path: a.jsonl, max: 10}, {path: b.jsonl, tag: bee}]\ncolumn: {prompt: question}\n"
    )
    flags = ["--data", "a.jsonl,max=10", "--data", "b.jsonl,tag=bee", "--column", "prompt=question"]
    for given in (flags, ["--config", "c.yaml"]):
        result = CliRunner().invoke(command, given)
        assert result.exit_code == 0, result.output
    assert seen[0] == seen[1]
    assert seen[0].column == {"prompt": "question"}
    with pytest.raises(ConfigError, match="expected a source"):
        CliRunner().invoke(
            command, ["--config", str(write(folder / "d.yaml", [{"data": 5}]))], catch_exceptions=False
        )


def test_the_check_takes_a_mix(folder: Path) -> None:
    given = [
        "check",
        "a.jsonl,max=10",
        "b.jsonl,weight=2.5,tag=bee,column.prompt=question",
        "--on-bad-record",
        "skip",
    ]
    result = CliRunner().invoke(data, [*given, "--rejects", "r.jsonl"])
    assert result.exit_code == 0, result.output
    assert [row["tag"] for row in read_rows(Path("r.jsonl"))] == ["bee"]
    assert "bee     preference        9      9     2.5         22  68.8%" in result.output
    report = json.loads(CliRunner().invoke(data, [*given, "--json"]).output)
    assert report["usable"]
    assert [one["capped"] for one in report["mix"]["sources"]] == [10, 9]
    assert [one["source"] for one in report["sources"]] == ["a.jsonl", "b.jsonl"]
    write(folder / "c.jsonl", pairs(13)[11:])
    result = CliRunner().invoke(data, ["check", "a.jsonl", "c.jsonl"])
    assert "Records that an earlier source has exactly so: 1." in result.output
    assert CliRunner().invoke(data, ["check", "a.jsonl", "b.jsonl"]).exit_code == 1


def test_the_check_says_what_sources_of_several_kinds_are_together(folder: Path) -> None:
    write(folder / "p.jsonl", pairs(3))
    write(folder / "d.jsonl", demonstrations(3))
    write(folder / "r.jsonl", rankings(3))
    result = CliRunner().invoke(data, ["check", "p.jsonl", "d.jsonl"])
    assert result.exit_code == 0
    assert (
        "kinds preference and demonstration, which are read together only as demonstration." in result.output
    )
    write(folder / "j.jsonl", [{"prompt": "p", "completion": "c", "judgment": "Too short."}])
    result = CliRunner().invoke(data, ["check", "r.jsonl", "j.jsonl"])
    assert result.exit_code == 1
    assert "no training takes their responses together" in result.output
    assert result.output.endswith("Not usable together.\n")
    write(folder / "q.jsonl", [{"prompt": "p"}])
    assert CliRunner().invoke(data, ["check", "r.jsonl", "q.jsonl"]).exit_code == 0  # to be read as prompts


def test_evaluation_records_that_are_trained_on_are_said(learn: Any) -> None:
    run = learn("sft", demonstrations(8), eval_data=demonstrations(9)[6:], max_steps=1)
    assert (
        "warning: 2 of 3 evaluation records have a prompt that is trained on: 2 in the same words"
        in notes(run)
    )
    assert [event["exact"] for event in run.events("overlap")] == [2]
    for place in (run.model / "README.md", run.report):
        assert "2 of 3 evaluation records have a prompt that is trained on" in place.read_text()


def test_the_log_of_a_mix_is_read_by_others(learn: Any, folder: Path) -> None:
    log = learn("sft", data=MIX, **OPTIONS).path / "events.jsonl"
    tables = [pd.read_json(log, lines=True).to_dict("records"), pa_json.read_json(log).to_pylist()]
    for rows in tables:
        assert [row["tag"] for row in rows if row["event"] == "source"] == ["a", "bee"]
        assert [row["loss/bee"] > 0 for row in rows if row["event"] == "train" and row["step"] == 1][:1] == [
            True
        ]


def test_a_mix_that_is_killed_ends_like_the_undisturbed_one(learn: Any, folder: Path) -> None:
    """Caps, weights and the split are drawn again alike, and an option's rejects and events are not doubled."""
    options = {**OPTIONS, "max_steps": 4, "save_steps": 1}
    whole = learn("dpo", run="whole", data=MIX, **options)
    steps: list[int] = []

    def kill(path: Path, row: bytes) -> None:
        steps.extend([1] * (path.name == "events.jsonl" and b'"train"' in row))
        if len(steps) == 3:
            raise Killed

    with watched(kill), pytest.raises(Killed):
        learn("dpo", data=MIX, **options)
    run = learn("dpo", data=MIX, **options)
    assert_same_weights(whole, run)
    assert read_rows(run.path / "rejects.jsonl") == read_rows(whole.path / "rejects.jsonl")
    (table,) = [one for one in assert_complete(run)["sections"] if one["title"] == "Sources"]
    assert [row[0] for row in table["rows"]] == ["a", "bee"], "each once, however often the run was started"
