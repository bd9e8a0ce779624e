"""`coalign run deal` and `coalign generate --reward` on a tiny model."""

from __future__ import annotations

import pytest

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.decoding import deal
from coalign.report.html import read_report
from tests.cli.conftest import coalign as coalign  # the command line in this process
from tests.preference.tiny_runs import write

REWARDS = ["max_words:2@2", "no_commas"]


@pytest.fixture
def prompts(tmp_path):
    rows = [
        {"id": f"p{n}", "prompt": f"Say {n}.", "constraints": [{"verifier": "max_characters", "n": 5 + n}]}
        for n in range(4)
    ]
    return write(tmp_path / "prompts.jsonl", rows)


def config(model, prompts, **changes):
    values = {
        "model": model, "prompts": prompts, "reward": REWARDS, "candidates": 4, "lookahead": 2, "max_new_tokens": 6,
        "best_of": 3, "device": "cpu", "dtype": "float32", **changes,
    }  # fmt: skip
    return deal.Config(**values)


def work(folder, one):
    run = Run.start(folder, "deal", one, seed=0)
    deal.run(one, run)
    return run


def test_a_run_reports_every_way_to_answer(tiny_model, prompts, tmp_path):
    run = work(tmp_path / "run", config(tiny_model, prompts, alignment_prompt="Be brief."))
    report = read_report(run.report)
    assert [one.title for one in report.sections][:3] == ["Rewards", "Fluency guard", "All ways to answer"]
    samples = next(one for one in report.sections if one.kind == "samples")
    assert list(samples.columns) == ["Plain", "Prompted", "Best of 3", "Deal"]
    rows = read_rows(run.artefacts / "deal.measured.jsonl")
    assert [row["id"] for row in rows] == ["p0", "p1", "p2", "p3"]
    assert set(rows[0]["values"]) == {"at most 2 words", "no commas"}
    figures = run.status()["figures"]
    assert figures["reward_after"] >= figures["reward_before"]


def test_the_prompts_own_constraints_are_rewarded_where_nothing_is_named(tiny_model, prompts, tmp_path):
    run = work(tmp_path / "run", config(tiny_model, prompts, reward=[], best_of=0, limit=2))
    rows = read_rows(run.artefacts / "deal.measured.jsonl")
    assert len(rows) == 2
    assert set(rows[0]["values"]) == {"constraints"}


def test_what_cannot_be_used_is_said_before_a_model_is_loaded(tiny_model, prompts, tmp_path):
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "hi", "id": "a"}\n{"prompt": "ho", "id": "a"}\n')
    with pytest.raises(DataError, match=r"bare.jsonl:2: id: 'a' occurs twice"):
        work(tmp_path / "one", config("absent", bare))
    bare.write_text('{"prompt": "hi"}\n')
    with pytest.raises(DataError, match=r"bare.jsonl:1: constraints"):
        work(tmp_path / "two", config("absent", bare, reward=["constraints"]))
    with pytest.raises(ConfigError, match="no reward"):
        work(tmp_path / "three", config(tiny_model, bare, reward=[]))
    with pytest.raises(ValueError, match="adapter_rank has no effect"):
        config(tiny_model, prompts, adapter_rank=4)


def test_generate_with_a_reward(coalign, tiny_model, prompts, tmp_path):
    def generate(out, *options):
        common = (
            "--model",
            tiny_model,
            "--prompts",
            str(prompts),
            "--max-new-tokens",
            "5",
            "--device",
            "cpu",
        )
        return coalign("generate", *common, "--out", str(tmp_path / out), *options)

    both = ("--reward", "must_include:a,b@2", "--reward", "max_words:3", "--option", "lookahead=2")
    result = generate("out.jsonl", *both)
    assert result.code == 0, result.err
    assert "deal" in result.err
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4
    one = ("--method", "best-of-n", "--reward", "must_include:a,b", "--option", "best_of=2")
    result = generate("best.jsonl", *one)
    assert result.code == 0, result.err
    bad = generate("x.jsonl", "--reward", "max_wrods:3")
    assert bad.code != 0
    assert "Did you mean max_words" in bad.err
    assert not (tmp_path / "x.jsonl.partial").exists(), "a mistake leaves nothing behind"
