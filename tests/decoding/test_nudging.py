"""`coalign run nudging` on tiny models: runs, baselines, back ends, wrong options; its check's world and outcome."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from functools import partial

import pytest

from coalign.checks.options import CheckOptions
from coalign.checks.papers.decoding.nudging import OPENING, alone, begun, check, ensembled, nudged
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.words import sums
from coalign.cli.running.run import execute
from coalign.core.errors import ConfigError, ModelError
from coalign.core.files import append_rows, read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.decoding import nudging
from coalign.decoding.collaboration import two_models
from coalign.decoding.collaboration.guided import BASE, NUDGING, Guided, Turn
from coalign.decoding.collaboration.remote_speakers import approximate_length, chunk_of, continued
from coalign.decoding.collaboration.report import marks_of
from coalign.decoding.collaboration.two_prompts import (
    PromptOptions,
    aligned_messages,
    aligned_prompt,
    base_prompt,
)
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.methods import open_methods
from coalign.models.options import ModelOptions
from coalign.models.types import Generation, Sampling
from tests.data.tokenizers import CHATML, GEMMA, byte_tokenizer, metaspace_tokenizer
from tests.decoding.pairs import make_pair
from tests.preference.tiny_runs import save_tiny_model, write

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "base", seed=1, template=None)
    save_tiny_model(folder / "small", seed=2)
    write(folder / "prompts.jsonl", [{"prompt": f"the sky is {word}"} for word in ("blue", "green", "here")])
    return folder


def config(folder, *, without=(), **changes):
    files = {"model": "base", "nudging_model": "small", "prompts": "prompts.jsonl"}
    values = {
        **{name: str(folder / file) for name, file in files.items()}, "device": "cpu", "dtype": "float32",
        "max_new_tokens": 16, "gamma": 0.005, "base_chunk_tokens": 5, "nudging_chunk_tokens": 5,
    }  # fmt: skip
    kept = {name: value for name, value in values.items() if name not in without}
    return build(nudging.Config, {**kept, **changes})


OF_NUDGING = ("gamma", "nudging_chunk_tokens")
"""Options that the baselines refuse."""


def rows_of(run):
    return read_rows(run.artefacts / "answers.jsonl")


def test_a_whole_run(folder, tmp_path):
    run = execute("nudging", nudging, config(folder), tmp_path / "run")
    rows = rows_of(run)
    assert [row["index"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert row["responses"][0].strip() == row["responses"][0]
        assert len(row["nudges"]) == len(row["rounds"]) == len(row["ends"])
        assert 0 <= row["nudge_tokens"] <= row["tokens"][0]
        assert "".join(row["responses"][0][a:b] for a, b, _ in row["spans"]) == row["responses"][0]
    assert run.status()["figures"]["answers"] == 3
    page = run.report.read_text(encoding="utf-8")
    assert "Where the aligned model spoke" in page
    assert "Why answers ended" in page


def test_samples_are_drawn_and_all_kept(folder, tmp_path):
    run = execute("nudging", nudging, config(folder, samples=3, temperature=1.0), tmp_path / "run")
    (row, *_) = rows_of(run)
    assert len(row["samples"]) == 2
    assert len(set(row["responses"])) > 1


@pytest.mark.parametrize(
    "changes", [{"combine": "ensemble"}, {"combine": "proxy-tuning", "plain_model": "small"}]
)
def test_baselines(folder, tmp_path, changes):
    if "plain_model" in changes:
        changes = {**changes, "plain_model": str(folder / "small")}
    run = execute("nudging", nudging, config(folder, without=OF_NUDGING, **changes), tmp_path / "run")
    assert all(row["tokens"][0] for row in rows_of(run))
    assert "Nudged tokens" not in run.report.read_text(encoding="utf-8")


def test_baselines_refuse_other_tokenizers_and_temperatures(folder, tmp_path):
    save_tiny_model(folder / "other", seed=3)
    metaspace_tokenizer().save_pretrained(folder / "other")
    options = {"combine": "ensemble", "without": OF_NUDGING}
    for changes, error, message in (
        ({"nudging_model": str(folder / "other")}, ModelError, "different tokenizers"),
        ({"temperature": 1.0}, ConfigError, "temperature: ensemble"),
    ):
        with pytest.raises(error, match=message):
            execute("nudging", nudging, config(folder, **changes, **options), tmp_path / error.__name__)


class Wrapped:
    """A local model as a back end that is not known to be local."""

    def __init__(self, inner):
        self.generate = inner.generate


def test_remote_models_give_the_answers_of_local_ones(folder):
    options = config(folder, gamma=0.3)
    models = {
        side: TransformersGenerator(*make_pair("words", seed)) for side, seed in ((BASE, 3), (NUDGING, 4))
    }
    local = two_models.TwoModels(models, partial(nudging.make_talk, options), options)
    remote = dataclasses.replace(local, models={side: Wrapped(one) for side, one in models.items()})
    remote.length = local.length  # by default bytes are counted
    sampling = Sampling(max_new_tokens=16, temperature=0.0)
    prompts = [CHAT, "the sky"]
    found = local.write(prompts, sampling)
    assert remote.write(prompts, sampling) == found
    assert sum(len(one.turns) for (one,) in found) > 5
    assert not remote.local
    assert "base LlamaForCausalLM" in local.description
    assert "base Wrapped" in remote.description


def test_the_method_by_name(folder):
    generator = open_methods(
        ["nudging"],
        {"nudging-model": str(folder / "small"), "gamma": "0.005"},
        ModelOptions(model=str(folder / "base"), device="cpu", dtype="float32"),
    )
    sampling = Sampling(max_new_tokens=12, temperature=0.0, n=2)
    seen = {}
    (first, second) = generator.generate([CHAT, "the sky"], sampling, on_batch=seen.update)
    assert seen == {0: first, 1: second}
    assert first[0] == first[1]
    assert first[0].finish_reason in ("stop", "length")
    assert generator.generate([CHAT, "the sky"], sampling, done=[0])[0] == []
    assert generator.generate([], sampling) == []
    with pytest.raises(ConfigError, match="log-probabilities"):
        generator.generate([CHAT], Sampling(logprobs=True))


def test_prompts_of_both_sides():
    options = PromptOptions()
    assert base_prompt(CHAT, options) == "Be kind.\nQuestion: Hi\nAnswer: Hello\nQuestion: Why?\nAnswer: "
    assert base_prompt("Why?", PromptOptions(system="")) == "Question: Why?\nAnswer: "
    begun = [*CHAT, {"role": "assistant", "content": "Because"}]
    assert base_prompt(begun, options).endswith("Answer: Because")
    assert aligned_messages(begun, options)[-1] == {"role": "assistant", "content": "Because"}
    tokenizer = byte_tokenizer(CHATML)
    assert aligned_prompt(tokenizer, begun, options).endswith("<|im_start|>assistant\nBecause")
    folded = aligned_prompt(byte_tokenizer(GEMMA), CHAT, options)
    assert "<|start|>user\nBe kind.\nQuestion: Hi<|eot|>" in folded


def test_chunks_of_samples():
    sample = Generation(
        "héy",
        finish_reason="stop",
        logprobs=[-0.1, -0.5, -0.2, -0.3, 0.0],
        tokens=["h", "", "é", "y", "<|im_end|>"],
        top_logprobs=[[("h", -0.1)], [("?", -0.4)], [("é", -0.2)], [("y", -0.3)], [("<|im_end|>", 0.0)]],
    )
    chunk = chunk_of(sample)
    assert [one.text for one in chunk.tokens] == ["h", "é", "y"]
    assert chunk.stopped
    assert chunk.tokens[1].top_prob == pytest.approx(math.exp(-0.4))
    with pytest.raises(ModelError, match="no log-probabilities"):
        chunk_of(Generation("x"))
    assert continued("p", "x") == "px"
    assert continued(CHAT, "") == CHAT
    assert continued([*CHAT, {"role": "assistant", "content": "a"}], "b")[-1]["content"] == "ab"
    assert approximate_length("12345") == 2


def test_marks_tell_the_closing_words_apart():
    answer = Guided("a b c", (Turn("a ", "b"), Turn(" c")), "nudging_model_stop")
    row = {**nudging.answer_row(type("R", (), {"id": "x", "prompt": []}), [answer], len)}
    assert [(one.start, one.end, one.name) for one in marks_of(row)] == [
        (0, 2, "aligned model"),
        (3, 5, "aligned model, end of the answer"),
    ]
    assert (row["tokens"], row["nudge_tokens"]) == ([5], 2)


def test_solutions_are_right():
    question = sums.Sum(57, 68)
    text = sums.worked(question, "Sure .", "carry", "then", "The answer is")
    assert text == " Sure . 7 + 8 = 1 5 carry 1 then 5 + 6 + 1 = 1 2 . The answer is 1 2 5 ."
    assert sums.answer_of(text) == question.total == 125
    assert sums.answer_of("So we get 1 2 5 .") == 125
    assert sums.answer_of("the boats") is None
    assert text.startswith(OPENING)


def test_a_question_is_answered_in_half_of_the_documents_and_the_likeliest_word_begins_no_answer():
    draw, drawn = stream(0, "documents"), [sums.Sum(12, 34), sums.Sum(99, 99)]
    documents = [sums._document(drawn, draw) for _ in range(4000)]
    tokenizer = sums.make_tokenizer()
    assert all(tokenizer.pad_token_id not in tokenizer(one)["input_ids"] for one in documents[:200])
    first = Counter(
        one.partition("A : ")[2].split()[0] if "A : " in one else one.split("A :")[1].split()[0]
        for one in documents
    )
    starts = {one.split()[0] for one in sums.STARTS}
    assert sum(n for word, n in first.items() if word in starts) == pytest.approx(2000, abs=120)
    assert {word for word, _ in first.most_common(4)} == {one.split()[0] for one in sums.CHATTER}


def test_the_arms_run():
    world = sums.make_world(0, questions=2, documents=200, base_steps=30, aligned_steps=40)
    for arm in (lambda one: alone("base", one), begun, ensembled):
        assert 0 <= arm(world)["accuracy"] <= 1
    found = nudged(world)
    assert found["won against base"] + found["lost against base"] <= 4
    assert 0 <= found["nudge ratio"] <= 1


def measured_rows(accuracy, *, base=0.1, aligned=0.2, ratio=0.1, won=60, lost=10):
    found = []
    for seed, one in enumerate(accuracy):
        others = {"base": base, "base, answer begun": 1.0, "aligned": aligned, "ensemble": 0.2}
        found += [{"arm": arm, "seed": seed, "accuracy": value} for arm, value in others.items()]
        ours = {"arm": "nudged", "seed": seed, "accuracy": one, "nudge ratio": ratio}
        for side in ("base", "aligned"):
            ours |= {f"won against {side}": won, f"lost against {side}": lost}
        differ = {f"models differ, {where}": 0.5 for where in ("below 0.3", "above 0.8")}
        found.append({**ours, **differ})
    return found


@pytest.mark.parametrize(
    ("measured", "outcome"),
    [
        (measured_rows([0.9] * 5), "seen"),
        (measured_rows([0.9] * 4 + [0.2]), "seen"),
        (measured_rows([0.9] * 3 + [0.2] * 2), "not seen"),
        (measured_rows([0.9] * 5, ratio=0.5), "not seen"),
        (measured_rows([0.9] * 5, won=10, lost=10), "not seen"),
        (measured_rows([0.9] * 5, base=0.86), "not seen"),
    ],
)
def test_the_outcome(measured, outcome, tmp_path):
    run = Run.start(tmp_path / "run", "check", CheckOptions())
    append_rows(run.artefacts / "measures.jsonl", measured)
    assert check(run).outcome == outcome
