"""`coalign generate`: the file it writes, and how it goes on after a kill."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from coalign.core.files import read_rows
from coalign.data.readers import read_records
from coalign.data.records import Reply
from coalign.measures.declining import IDK
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Generation
from tests.preference.tiny_runs import save_tiny_model, write

WORDS = ("sea", "sky", "a", "green")
OUT = Path("out.jsonl")


@pytest.fixture
def generate(coalign, tiny_model, tmp_path, monkeypatch):
    """The command in a folder of its own, from `prompts.jsonl` into `OUT`."""
    monkeypatch.chdir(tmp_path)
    write(Path("prompts.jsonl"), [{"prompt": f"say {word}"} for word in WORDS])

    def call(*argv, model=tiny_model, prompts="prompts.jsonl", out=OUT):
        return coalign("generate", "--model", model, "--prompts", prompts, "--out", str(out), *argv)

    return call


def test_rows_in_the_order_of_the_prompts(generate):
    result = generate("--samples", "2", "--max-new-tokens", "6", "--logprobs", "--top-p", "0.9")
    assert result.code == 0
    assert result.out.strip() == str(OUT)
    assert "samples/s" in result.err
    made = read_rows(OUT)
    assert [one["prompt"][-1]["content"] for one in made] == [f"say {word}" for word in WORDS]
    assert all(len(one["responses"]) == len(one["finish_reasons"]) == 2 for one in made)
    assert [len(logps) for logps in made[0]["logprobs"]] == made[0]["tokens"]
    assert not Path("out.jsonl.partial").exists()


def test_a_killed_command_goes_on(generate, monkeypatch):
    command = ["--max-new-tokens", "5", "--batch-size", "1"]
    generate(*command, out="whole.jsonl")
    decode, calls = TransformersGenerator._decode, []

    def killed(self, part, job, meter):
        calls.append(part)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(self, part, job, meter)

    monkeypatch.setattr(TransformersGenerator, "_decode", killed)
    assert generate(*command).code == 130
    assert not OUT.exists()
    other = generate(*command, "--temperature", "0")
    assert other.code == 2
    assert "temperature: 1.0 there, 0.0 now" in other.err
    assert "2 of 4 prompts are done" in generate(*command).err
    assert len(calls) == 5
    assert read_rows(OUT) == read_rows(Path("whole.jsonl"))
    again = generate(*command)
    assert again.code == 2
    assert "--overwrite" in again.err
    assert generate(*command, "--overwrite").code == 0


def test_stop_texts_and_plain_prompts(generate):
    result = generate("--plain", "--max-new-tokens", "3", "--stop", r"\n", "--stop", "a, b")
    assert result.code == 0
    assert len(read_rows(OUT)) == 4
    write(Path("chat.jsonl"), [{"prompt": [{"role": "user", "content": "hi"}]}])
    refused = generate("--plain", prompts="chat.jsonl", out="b.jsonl")
    assert refused.code == 2
    assert "--plain" in refused.err


@pytest.mark.parametrize(
    ("argv", "prompts", "code", "said"),
    [(["--top-p", "2"], "prompts.jsonl", 2, "--top-p"), ([], "nowhere.jsonl", 1, "nowhere.jsonl")],
)
def test_bad_options_and_files_are_refused_before_the_model_is_loaded(generate, argv, prompts, code, said):
    result = generate(*argv, model="absent/model", prompts=prompts)
    assert result.code == code
    assert said in result.err
    assert not OUT.exists()


def test_methods_are_listed_with_their_options(coalign):
    result = coalign("generate", "--list-methods")
    assert result.code == 0
    assert "nudging (" in result.out
    assert "gamma=FLOAT" in result.out


def test_rows_of_another_model_are_not_continued(generate, tiny_model, tmp_path, monkeypatch):
    """The name is the same, the weights are not."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    command = ["--max-new-tokens", "4", "--batch-size", "1"]
    decode, calls = TransformersGenerator._decode, []

    def killed(self, part, job, meter):
        calls.append(part)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(self, part, job, meter)

    monkeypatch.setattr(TransformersGenerator, "_decode", killed)
    assert generate(*command, model="model").code == 130
    save_tiny_model(model, seed=9)
    other = generate(*command, model="model")
    assert other.code == 2
    assert "identity: the model under this name is another one now" in other.err
    assert len(read_rows(Path("out.jsonl.partial"))) == 2
    save_tiny_model(model)
    assert generate(*command, model="model").code == 0


def test_a_second_process_is_refused(generate):
    """While one writes, the other neither runs nor writes."""
    script = (
        "import sys; from pathlib import Path; from coalign.core.files import hold_file;"
        "lock = hold_file(Path('out.jsonl.partial'), hint=''); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    refused = generate("--max-new-tokens", "3")
    assert refused.code == 1
    assert "out.jsonl.partial is in use by another process" in refused.err
    assert not OUT.exists()
    other.communicate()
    assert generate("--max-new-tokens", "3").code == 0


def test_what_is_not_good_enough_is_declined(generate):
    asked = ("--max-new-tokens", "4", "--temperature", "0", "--decline-below")
    assert generate(*asked, "0.5", "--reward", "must_include:zebra").code == 0
    assert {one["responses"][0] for one in read_rows(OUT)} == {IDK}
    options = ("--option", "selective.decline_text=no", "--overwrite")
    assert generate(*asked, "0.5", "--reward", "must_include:zebra@-1", *options).code == 0
    assert "no" in {one["responses"][0] for one in read_rows(OUT)}
    assert generate(*asked, "0", "--reward", "must_include:zebra", "--overwrite").code == 0
    assert IDK not in {one["responses"][0] for one in read_rows(OUT)}
    refused = generate(*asked, "0.5", "--overwrite")
    assert refused.code == 2
    assert "--decline-below needs something to compare with" in refused.err


def test_trajectories_with_tools_are_rows_that_training_reads(generate, monkeypatch):
    """And the same command goes on after a kill with the text of an undisturbed run."""
    pytest.importorskip("jsonschema")
    Path("own.py").write_text(
        'def twice(word: str) -> str:\n    """Says a word twice.\n\n    Args:\n        word: it.\n    """\n    return word * 2\n'
    )
    monkeypatch.setattr("coalign.loops.rows.TOGETHER", 2)
    asked = []

    def scripted(self, prompts, sampling, **how):
        asked.append(sampling.seed)
        if killed and len(asked) == 3:
            raise KeyboardInterrupt
        call = '<tool_call>{"name": "twice", "arguments": {"word": "sea"}}</tool_call>'
        return [[Generation("It is." if "seasea" in str(one) else call)] for one in prompts]

    monkeypatch.setattr(TransformersGenerator, "generate", scripted)
    monkeypatch.setattr(TransformersGenerator, "context", None)  # the tiny model's has no room for a schema
    command = ["--tools", "own.py:twice", "--seed", "5"]
    killed = False
    result = generate(*command, out="whole.jsonl")
    assert result.code == 0
    assert "With twice: tools are written" in result.err
    killed, asked[:] = True, []
    assert generate(*command).code == 130
    killed = False
    assert "tools: ['own.py:twice'] there" in generate("--tools", "own.py:other", "--seed", "5").err
    assert generate(*command).code == 0
    assert read_rows(OUT) == read_rows(Path("whole.jsonl"))
    record = read_records(OUT, kind="demonstration", text_alone=False).records[2]
    assert isinstance(record.completion, Reply)
    assert record.completion.steps[1]["content"] == "seasea"
    assert str(record.completion) == "It is."
    assert record.tools


def test_what_does_not_go_with_tools_is_named(generate):
    result = generate("--tools", "python", "--prefill", "So")
    assert result.code == 2
    assert "--prefill does not go with --tools" in result.err
    assert "'browser' is no tool" in generate("--tools", "browser").err
    assert "max_steps has no effect without tools" in generate("--max-steps", "3").err
    write(Path("seen.jsonl"), [{"prompt": "What is it?", "images": ["one.png"]}])
    Image.new("RGB", (8, 8)).save("one.png")
    result = generate("--tools", "python", prompts="seen.jsonl")
    assert result.code == 1
    assert "images: pictures cannot be used here" in result.err


def test_answers_fit_a_schema(generate):
    pytest.importorskip("llguidance")
    schema = Path("schema.json")
    schema.write_text('{"enum": ["sea", [1, null]]}')
    assert generate("--json-schema", str(schema), "--max-new-tokens", "30").code == 0
    assert all(json.loads(text) in ("sea", [1, None]) for row in read_rows(OUT) for text in row["responses"])
    schema.write_text('{"not": {}}')
    refused = generate("--json-schema", str(schema), "--overwrite")
    assert refused.code != 0
    assert "schema.json/not: is not supported" in refused.err
