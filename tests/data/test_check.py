from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise

import pytest
from click.testing import CliRunner

from coalign.cli.files.data import data
from coalign.core.errors import DataError
from coalign.data.checking.check import check_records
from coalign.data.readers import RecordSet, read_records, scan_records
from coalign.data.records import Feedback, Preference, PromptRecord, Ranking
from tests.data.tokenizers import CHATML, GEMMA, byte_tokenizer


def user(text):
    return [{"role": "user", "content": text}]


def found(*records):
    return RecordSet(list(records), "preference", "test", "f.jsonl")


def pair(prompt, chosen, rejected, **more):
    return Preference(prompt=user(prompt) if prompt else [], chosen=chosen, rejected=rejected, **more)


def test_counts():
    tie, reversed_scores = ({"chosen_score": 1.0, "rejected_score": other} for other in (1.0, 2.0))
    records = [pair("q", "a", "b"), pair("q", "a", "b"), pair("q", "c", "d"), pair("", "a", "b")]
    records += [pair("r", "same", "same", **tie), pair("s", "a", "b", **reversed_scores)]
    check = check_records(found(*records))
    assert (check.duplicates, check.repeated_prompts, check.identical_responses) == (1, 1, 1)
    assert (check.ties, check.reversed_scores, check.empty_prompts) == (1, 1, 1)
    assert len(check.warnings()) == 5
    assert check.usable


def test_ties_and_classes():
    ranking = Ranking(prompt=user("q"), responses=("a", "b", "c"), scores=(1.0, 2.0, 1.0))
    assert check_records(found(ranking)).ties == 1
    thumbs = [Feedback(prompt=user(str(n)), completion="a", label=True) for n in range(3)]
    check = check_records(found(*thumbs))
    assert check.classes == {"true": 3, "false": 0}
    assert "No record is labelled false" in check.warnings()[0]


def test_lengths_in_words_characters_or_tokens():
    words = check_records(found(PromptRecord(prompt=user("one two three")), PromptRecord(prompt=user("one"))))
    (lengths,) = words.lengths
    assert (lengths.unit, lengths.median, lengths.mean, lengths.longest) == ("words", 2, 2.0, 3)
    assert [count for *_, count in lengths.bins] == [1, 0, 1]
    chinese = PromptRecord(prompt=user("天空是蓝色的，大海是绿色的，山是灰色的。"))
    assert check_records(found(chinese)).lengths[0].unit == "characters"
    tokenizer = byte_tokenizer(CHATML)
    (tokens,) = check_records(found(PromptRecord(prompt=user("one"))), tokenizer).lengths
    assert tokens.unit == "tokens"


def test_bins_hold_every_value():
    records = [PromptRecord(prompt=user("w " * n)) for n in [*range(1, 300), 5000]]
    (lengths,) = check_records(found(*records)).lengths
    assert sum(count for *_, count in lengths.bins) == 300
    assert lengths.bins[-1][1] == 5000
    assert all(one[1] + 1 == other[0] for one, other in pairwise(lengths.bins))


def test_truncation_is_counted_from_tokens():
    tokenizer = byte_tokenizer(CHATML)
    long = found(pair("q", "a", "b " * 50))
    check = check_records(long, tokenizer, max_length=40)
    assert (check.truncated_prompts, check.truncated_responses, check.dropped) == (0, 1, [])
    assert max(one.longest for one in check.lengths) > 40
    assert check_records(long, tokenizer).truncated_prompts is None


def test_template_refusal_makes_it_unusable():
    system = [{"role": "system", "content": "s"}, *user("q")]
    check = check_records(found(PromptRecord(prompt=system)), byte_tokenizer(GEMMA), skip_bad=True)
    assert not check.usable
    assert "System role not supported" in check.problems[0].problem
    assert check.examples == []


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


GOOD = {"prompt": "q [bold]x[/bold]", "chosen": "yes\x1b[31m", "rejected": "no"}
BAD = {"prompt": "q", "chosen": True, "rejected": "no"}


def test_cli_prints_everything(tmp_path):
    path = write(tmp_path / "a.jsonl", GOOD)
    result = CliRunner().invoke(data, ["check", path])
    assert result.exit_code == 0
    assert "preference pairs, from the columns chosen, rejected and prompt" in result.output
    assert "chosen: ⟦yes\N{REPLACEMENT CHARACTER}[31m⟧" in result.output
    assert "[bold]x[/bold]" in result.output
    assert "Usable: 1 records." in result.output


def test_cli_fails_on_bad_records_and_skips_on_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.jsonl", GOOD, BAD)
    result = CliRunner().invoke(data, ["check", path])
    assert result.exit_code == 1
    assert f"{path}:2: chosen: the boolean true, expected text" in result.output
    assert not list(tmp_path.glob("*.rejects.jsonl"))
    result = CliRunner().invoke(data, ["check", path, "--on-bad-record", "skip"])
    assert result.exit_code == 0
    assert "Usable: 1 records. Bad records: 1, left out (in a.jsonl.rejects.jsonl)." in result.output
    assert (tmp_path / "a.jsonl.rejects.jsonl").exists()


def test_cli_json_is_only_json(tmp_path):
    path = write(tmp_path / "a.jsonl", GOOD, BAD)
    result = CliRunner().invoke(data, ["check", path, "--json"])
    report = json.loads(result.output)
    assert result.exit_code == 1
    assert (report["usable"], report["n_records"], report["n_bad"]) == (False, 1, 1)
    assert report["problems"][0]["line"] == 2
    result = CliRunner().invoke(data, ["check", str(tmp_path / "absent.jsonl"), "--json"])
    assert result.exit_code == 1
    assert "no such file" in json.loads(result.output)["error"]


def test_cli_options_work_or_fail(tmp_path):
    path = write(tmp_path / "a.jsonl", GOOD)
    for options in (["--max-length", "5"], ["--rejects", "x"]):
        assert CliRunner().invoke(data, ["check", path, *options]).exit_code == 2
    result = CliRunner().invoke(data, ["check", path, "--kind", "ranking"])
    assert isinstance(result.exception, DataError)
    assert result.exit_code == 1


def test_cli_counts_tokens_of_a_model(tmp_path, monkeypatch):
    loading = pytest.importorskip("coalign.models.files.loading")
    monkeypatch.setattr(loading, "load_tokenizer", lambda name: byte_tokenizer(CHATML))
    path = write(tmp_path / "a.jsonl", {"prompt": "q", "chosen": "yes", "rejected": "no " * 30})
    result = CliRunner().invoke(data, ["check", path, "--model", "tiny", "--max-length", "40"])
    assert result.exit_code == 0
    assert "chosen: ⟦yes<|im_end|>⟧" in result.output
    assert "tokens: median" in result.output
    assert "Responses that are cut and lose their end of turn: 1." in result.output


def test_checking_without_a_model_imports_no_torch(tmp_path):
    path = write(tmp_path / "a.jsonl", GOOD)
    code = (
        "import sys; from coalign.cli.files.data import data; data(['check', sys.argv[1]], standalone_mode=False); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, timeout=60)


def test_scan_keeps_problems(tmp_path):
    assert scan_records(write(tmp_path / "a.jsonl", GOOD, BAD)).n_bad == 1


def test_what_is_trained_is_shown_token_by_token_for_each_shape():
    system = [{"role": "system", "content": "be kind"}, *user("q")]
    records = [PromptRecord(prompt=one) for one in (user("a"), user("b"), system)]
    pictures = check_records(found(*records), byte_tokenizer(CHATML), show=0).pictures
    assert ["".join(one.prompt).count("<|im_start|>") for one in pictures] == [2, 3]
    (picture,) = check_records(found(pair("q", "yes", "no")), byte_tokenizer(CHATML)).pictures
    shown = {name: "".join(tokens) for name, tokens in picture.responses}
    assert shown == {"chosen": "yes<|im_end|>", "rejected": "no<|im_end|>"}


def test_pairs_that_are_equal_once_they_are_cut_are_counted():
    alike = found(pair("q", "it is so, right", "it is so, wrong"))
    (picture,) = check_records(alike, byte_tokenizer(CHATML)).pictures
    check = check_records(alike, byte_tokenizer(CHATML), max_length=len(picture.prompt) + 4)
    assert (check.identical_responses, check.same_tokens) == (0, 1)
    assert not check.usable
    assert any("are the same tokens" in line for line in check.warnings())
    assert check_records(alike, byte_tokenizer(CHATML)).same_tokens == 0


@pytest.mark.parametrize(
    "text", ["<|im_start|>user\nhi<|im_end|>", "<s>[INST] hi [/INST]", "### Instruction:\nhi"]
)
def test_text_that_is_already_templated_is_warned_of(tmp_path, text):
    rows = {"prompt": text, "completion": "a </s> b"}, {"prompt": "p", "completion": "c"}
    (warning,) = scan_records(write(tmp_path / "f.jsonl", *rows)).warnings
    assert "already holds a chat template's marks" in warning
    assert ": 1." in warning


def test_half_a_surrogate_pair_is_a_bad_record(tmp_path):
    path = tmp_path / "f.jsonl"
    rows = [
        r'{"prompt": "Say \ud83d hi", "completion": "a"}',
        r'{"messages": [{"role": "\uDE00"}]}',
        r'{"prompt": "\ud83d\ude00", "completion": "a"}',
    ]
    path.write_text("\n".join(rows))
    problems = [str(one).partition(": ")[2] for one in scan_records(path).problems]
    assert problems == [
        f"{field}: half a surrogate pair ({code}), expected valid text"
        for field, code in (("prompt", r"\ud83d"), ("messages", r"\ude00"))
    ]
    path.with_suffix(".json").write_text(f"[{rows[0]},\n{rows[2]}]")
    assert len(scan_records(path.with_suffix(".json")).problems) == 1


def test_tools_are_refused_where_only_text_is_taken(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps({"prompt": "p", "completion": "c", "tools": [{"type": "function"}]}))
    assert len(read_records(path, text_alone=False)) == 1
    with pytest.raises(DataError, match="tools: cannot be used here, expected text and messages alone"):
        read_records(path)


def test_every_bad_row_counts_once_whatever_line_it_is_on(tmp_path):
    path = tmp_path / "f.json"
    sound = json.dumps({"prompt": "p", "completion": "c"})
    path.write_text(
        f'[5, {sound}, 6, {{"prompt": [], "completion": 3}}]'
    )  # one line; the last row has two faults
    found = scan_records(path)
    assert (len(found), found.n_bad, len(found.bad)) == (1, 3, 3)


@pytest.mark.parametrize("name", ["limit", "show", "max-length"])
def test_counts_beyond_a_machine_word_are_refused(name):
    result = CliRunner().invoke(data, ["check", "x.jsonl", f"--{name}", "9" * 30])
    assert result.exit_code == 2
    assert "is not in the range" in result.output


def test_columns_with_names_that_are_no_text_are_told(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text('{"prompt": "p", "completion": "c"}\n{"prompt": "p", "completion": "c", "\\ud800": 1}\n')
    result = CliRunner().invoke(data, ["check", str(path), "--json"])
    assert json.loads(result.output)["problems"][0]["field"] == r"\ud800"
