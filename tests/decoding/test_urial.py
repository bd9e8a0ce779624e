"""`coalign run urial` on tiny models, prompts and answers, and the numbers of the token shift."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.cli.running.run import execute
from coalign.core.errors import CoalignError, ConfigError, DataError, ModelError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.readers import read_records
from coalign.decoding import urial
from coalign.decoding.in_context import prefix, token_shift, token_shift_run
from coalign.decoding.in_context import ratings as in_context_ratings
from coalign.decoding.in_context.ratings import safety_flags
from coalign.decoding.in_context.report import has_list, has_loop, has_offer
from coalign.judging.aspects import ASPECTS, answer_means, overall, rate_aspects
from coalign.judging.language_judge import LanguageModelJudge
from coalign.judging.protocol import JudgeItem
from coalign.judging.store import ReplyStore
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.methods import open_methods
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from tests.data.tokenizers import CHATML, byte_tokenizer, metaspace_tokenizer
from tests.decoding.pairs import make_pair
from tests.evaluation.scripted import ScriptedGenerator
from tests.models.tiny import make_model
from tests.preference.tiny_runs import save_tiny_model, write

CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]


def test_a_prompt_is_prefix_and_conversation():
    style = prefix.Style("Be kind.", (prefix.Example("q", "a"),))
    start = prefix.prefix_of(style)
    assert start == "# Instruction\n\nBe kind.\n\n# Query:\n```\nq\n```\n\n# Answer:\n```\na\n```"
    text = prefix.conversation_prompt(start, ["x"], legacy_spacing=True)
    assert text.endswith("\n# Query:\n```x```\n\n# Answer:\n```\n")
    assert prefix.prefix_of(prefix.Style("", ())) == ""
    with pytest.raises(ValueError, match="odd"):
        prefix.conversation_prompt("", ["a", "b"])


def test_answers_are_read():
    code = "Sure:\n```python\nx = 1\n```\nDone.\n```\n# Que"
    assert prefix.clean_answer(code) == "Sure:\npython\nx = 1\n\nDone.\n\n# Que"
    assert prefix.clean_answer(code, keep_inner_fences=True) == "Sure:\n```python\nx = 1\n```\nDone."
    assert prefix.clean_answer("a<|endoftext|>b") == "a b"
    assert prefix.clean_answer("") == prefix.clean_answer("```", keep_inner_fences=True) == ""


@pytest.mark.parametrize("name", prefix.STYLES)
def test_the_styles_can_be_used(name):
    style = prefix.load_style(name, 3)
    assert len(style.examples) == 3
    assert prefix.load_style(name, 3, seed=1).examples != prefix.load_style(name, 3, seed=4).examples
    assert "```" not in "".join(one.query + one.answer for one in style.examples)


def test_styles_of_ones_own(tmp_path):
    path = tmp_path / "style.json"
    path.write_text(json.dumps({"examples": [{"query": "q", "answer": "a"}]}))
    assert prefix.load_style(str(path)) == prefix.Style("", (prefix.Example("q", "a"),))
    with pytest.raises(ConfigError, match="1 examples, 3"):
        prefix.load_style(str(path), 3)
    path.write_text('{"examples": [{"query": "q"}]}')
    with pytest.raises(ConfigError, match="answer"):
        prefix.load_style(str(path))
    path.write_text("[")
    with pytest.raises(ConfigError, match=r"style\.json"):
        prefix.load_style(str(path))
    with pytest.raises(ConfigError, match="neither"):
        prefix.load_style("nothing")
    (tmp_path / "whole.txt").write_text("My prefix\n")
    assert urial.make_prefix(urial.UrialOptions(style=str(tmp_path / "whole.txt"))) == "My prefix\n"
    with pytest.raises(ConfigError, match="no effect"):
        urial.make_prefix(urial.UrialOptions(style=str(tmp_path / "whole.txt"), examples=1))


def test_turns_must_alternate():
    assert prefix.turns_of([{"role": "system", "content": "s"}, *CHAT]) == ("s", ["Hi", "Hello", "Why?"])
    with pytest.raises(DataError, match="expected one to answer"):
        prefix.turns_of(CHAT[:2])
    with pytest.raises(DataError, match="message 2 is the user's"):
        prefix.turns_of([CHAT[0], CHAT[2]])


def test_the_wrapper_around_any_generator():
    inner = ScriptedGenerator(lambda _: "Sure!\n```\n")
    generator = urial.wrap(urial.UrialOptions(), inner)
    seen = {}
    found = generator.generate([CHAT, "Hi"], Sampling(stop=("x",)), done=[1], on_batch=seen.update)
    assert [one.text for one in found[0]] == ["Sure!"]
    assert found[1] == []
    assert seen == {0: found[0]}
    prompts = inner.asked
    assert inner.samplings[0].stop == ("x", "# Query", "# User")
    assert prompts[0].startswith("# Instruction")
    assert prompts[0].endswith("# Query:\n```\nWhy?\n```\n\n# Answer:\n```\n")
    with pytest.raises(DataError, match="prompt 1"):
        generator.generate(["a", CHAT[:2]], Sampling())


def test_a_long_conversation_loses_its_oldest_turns_and_never_the_examples():
    model, tokenizer = make_pair("bytes", 1, max_position_embeddings=330)
    generator = urial.InContextGenerator(
        TransformersGenerator(model, tokenizer), "# Instruction\n\nBe kind.", urial.UrialOptions()
    )
    long = [{"role": one["role"], "content": one["content"] * 20} for one in CHAT]
    text = generator.prompt(long, 20)
    assert "Hello" not in text
    assert text.startswith("# Instruction")
    assert "Why?" in text
    assert "Hello" in generator.prompt(CHAT, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "base", seed=1)
    save_tiny_model(folder / "chat", seed=2)
    write(folder / "prompts.jsonl", [{"prompt": f"the sky is {word}"} for word in ("blue", "green")])
    (folder / "style.txt").write_text("Be kind.\n")
    return folder


@pytest.fixture
def work(folder, tmp_path):
    """A run; again to continue."""

    def work(**changes):
        files = {"model": "base", "prompts": "prompts.jsonl", "style": "style.txt"}
        options = {
            **{name: str(folder / file) for name, file in files.items()},
            "max_new_tokens": 12,
            **changes,
        }
        config = build(urial.Config, {"device": "cpu", "dtype": "float32", **options})
        return execute("urial", urial, config, tmp_path / "run")

    return work


def test_token_shift_of_a_pair(folder, work):
    run = work(style="default", analysis="token-shift", aligned_model=str(folder / "chat"))
    summary = json.loads((run.artefacts / "summary.json").read_text())
    assert sum(summary["shares"].values()) == pytest.approx(1)
    assert "By position" in run.report.read_text(encoding="utf-8")
    rows = read_rows(run.artefacts / "shifts.jsonl")
    assert all(one["position"] == place for row in rows for place, one in enumerate(row["positions"]))


def test_the_method_by_name(folder):
    generator = open_methods(
        ["urial"],
        {"style": str(folder / "style.txt")},
        ModelOptions(model=str(folder / "base"), device="cpu", dtype="float32"),
    )
    found = generator.generate([CHAT], Sampling(max_new_tokens=4, temperature=0.0))
    assert len(found[0]) == 1


def test_a_model_against_itself_does_not_shift():
    model = make_model("llama", dtype=torch.float64)
    shifts = token_shift.token_shifts(model, model, [1, 5, 6], [1, 5, 6], [7, 8, 9, 7])
    assert [one.kl for one in shifts] == pytest.approx([0.0] * 4, abs=1e-12)
    assert all(one.base_prob == pytest.approx(one.aligned_prob) for one in shifts)
    assert token_shift.token_shifts(model, model, [1], [1], []) == []


def test_models_with_other_vocabularies_are_refused():
    with pytest.raises(ModelError, match="97 and 50"):
        token_shift.token_shifts(make_model("llama"), make_model("llama", vocab_size=50), [1], [1], [2])
    with pytest.raises(ModelError, match="different tokenizers"):
        token_shift.assert_same_tokens(byte_tokenizer(), metaspace_tokenizer())
    token_shift.assert_same_tokens(byte_tokenizer(), byte_tokenizer(CHATML))


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 9))
def test_ranks_and_divergence_are_those_of_their_definitions(seed, length, size):
    draw = torch.Generator().manual_seed(seed)
    base, aligned = (torch.randn(length, size, generator=draw, dtype=torch.float64) for _ in range(2))
    base[:, 1] = base[:, 0]  # equal logits
    tokens = torch.randint(size, (length,), generator=draw)
    for place, one in enumerate(token_shift.compare_distributions(base, aligned, tokens)):
        order = sorted(range(size), key=lambda n: (-float(base[place, n]), n))
        assert order[one.rank] == one.token == int(tokens[place])
        p, q = aligned[place].softmax(0), base[place].softmax(0)
        assert one.kl == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-9)
        assert one.base_prob == pytest.approx(float(q[one.token]))


def test_classes_and_shares():
    assert [token_shift.position_class(n)[0] for n in range(5)] == ["u", "m", "m", "s", "s"]
    with pytest.raises(ValueError, match="rank"):
        token_shift.position_class(-1)
    logits = torch.eye(8, dtype=torch.float64) * 3
    answer = token_shift.compare_distributions(logits, logits, torch.tensor([0, 0, 7, 7, 4, 5, 6, 7]))
    assert sum(token_shift.class_shares(answer).values()) == pytest.approx(1)
    assert token_shift.class_shares([]) == {"unshifted": 0.0, "marginal": 0.0, "shifted": 0.0}
    assert token_shift.position_means([answer, answer[:2]], lambda one: 1.0, at_least=2) == [1.0, 1.0]
    assert token_shift.position_means([], lambda one: 1.0) == []
    assert token_shift.shifted_share([], 0, 1) == 0.0


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.integers(1, 8))
def test_a_list_is_most_similar_to_itself(logits, top_k):
    falling = sorted(logits, reverse=True)
    candidates = [{"token_id": n, "token": f"t{n}", "logit": one} for n, one in enumerate(falling)]
    found = token_shift.list_similarities(candidates, candidates, top_k)
    assert found["jaccard"] == 1
    assert found["KL"] == 0
    assert found["nDCG"] == pytest.approx(1)
    assert found["position_class"] == "unshifted"
    assert math.isfinite(found["weighted_sum"])


def test_marks_hold_hostile_text():
    positions = [
        {"text": "<script>", "class": "shifted", "rank": 7, "base_prob": 0.01, "base_text": "</script>"},
        {"text": "", "class": "shifted", "rank": 7, "base_prob": 0.01, "base_text": ""},
        {"text": " a", "class": "unshifted", "rank": 0, "base_prob": 0.9, "base_text": " a"},
    ]
    output = token_shift_run.marked(positions)
    assert output.text == "<script> a"
    assert [(one.start, one.end) for one in output.marks] == [(0, 8)]
    assert token_shift_run.marked([]).text == ""


def test_form_of_answers():
    assert has_list("1. a\n2. b")
    assert not has_list("1. a")
    assert has_loop("a b c d " * 3)
    assert not has_loop("a b c d e f g")
    assert has_offer("Let me know!")
    assert not has_offer("It is blue.")


def test_not_applicable_counts_as_the_best_score_and_is_counted():
    replies = {
        "a": "Fine. [[3]]",
        "b": "Nothing to check.\n[[N/A]]",
        "c": "Score: N/A",
        "d": "n/a",
        "e": "The n/a in it is odd.",
        "f": "I'm sorry, I cannot.",
    }
    items = [
        JudgeItem(id=one, prompt=[{"role": "user", "content": "q"}], responses=(f"<{one}>",))
        for one in replies
    ]
    asker = ScriptedGenerator(lambda text: next(said for one, said in replies.items() if f"<{one}>" in text))
    found = rate_aspects(LanguageModelJudge(asker), items)
    assert set(found) == set(ASPECTS)
    assert "[[N/A]]" in asker.asked[0]
    one = found["depth"]
    assert one.scores == (3.0, 5, 5, 5, None, None)
    assert (one.not_applicable, len(one.failures), one.mean) == (3, 2, 4.5)
    assert overall(found) == 4.5
    assert answer_means(found) == [3.0, 5.0, 5.0, 5.0, None, None]
    rate_aspects(LanguageModelJudge(asker, store=ReplyStore()), items, {"x": "y"}, may_skip=False)
    assert "N/A" not in asker.asked[-1]


def scored(text):
    """Three for factuality, N/A for depth, 2 for safety, 4 else."""
    replies = {"Is what": "3", "Does the answer go": "N/A", "Is the answer free": "2"}
    found = [reply for start, reply in replies.items() if f"Judge it by this: {start}" in text]
    return f"Well. [[{found[0]}]]" if found else "[[4]]"


@pytest.fixture
def judged(folder, monkeypatch):
    rows = [{"id": f"p{n}", "prompt": f"the sky {n} </script>", "safety": n == 2} for n in range(3)]
    write(folder / "mixed.jsonl", rows)
    judge = ScriptedGenerator(scored)
    monkeypatch.setattr(in_context_ratings, "open_named", lambda *_, **__: judge)
    options = {"prompts": str(folder / "mixed.jsonl"), "judge_model": "scripted", "max_new_tokens": 4}
    return judge, options


def test_general_prompts_are_rated_by_five_aspects_and_harmful_ones_for_safety(work, judged):
    judge, options = judged
    run = work(compare=True, **options)
    for name in ("answers", "without-examples"):
        answered = read_rows(run.artefacts / f"{name}.jsonl")
        assert [row["index"] for row in answered] == [0, 1, 2]
        assert all({"id", "prompt", "responses", "generator"} <= row.keys() for row in answered)
    page = run.report.read_text(encoding="utf-8")
    assert "</script>" not in page.partition('type="application/json"')[2].partition("</script>")[0]
    rows = read_rows(run.artefacts / "ratings.jsonl")
    assert len(rows) == 2 * (2 * 5 + 1)
    assert {row["aspect"] for row in rows if row["id"] == "p2"} == {"safety"}
    assert {row["aspect"] for row in rows if row["id"] == "p0"} == set(ASPECTS)
    assert all(row["not_applicable"] == (row["aspect"] == "depth") for row in rows)
    assert {row["score"] for row in rows if row["aspect"] == "safety"} == {2.0}
    assert run.status()["figures"]["overall rating"] == pytest.approx((4 + 4 + 3 + 5 + 4) / 5)
    report = json.loads((run.path / "report.json").read_text())
    titles = [one["title"] for one in report["sections"]]
    assert titles[:3] == ["Ratings by aspect", "All ratings", "Form of the answers"]
    compared, table = report["sections"][:2]
    assert [one["name"] for one in compared["rows"]][-2:] == ["Safety", "Words of an answer"]
    assert compared["names"] == ["Without", "With examples"]
    assert table["columns"][-1] == "mean words"
    (answers,) = (one for one in report["sections"] if one["title"] == "Answers")
    assert answers["rows"][2]["tags"] == ["harmful"]
    assert answers["rows"][0]["outputs"][1]["score"] == 4.0
    asked = len(judge.asked)
    (run.path / "status.json").write_text(json.dumps({**run.status(), "state": "interrupted"}))
    work(compare=True, **options)
    assert len(judge.asked) == asked


def test_harmful_prompts_alone(folder, work, judged):
    _, options = judged
    write(folder / "harmful.jsonl", [{"prompt": "the sky", "bad": "true"}])
    options |= {"prompts": str(folder / "harmful.jsonl"), "safety_column": "bad"}
    run = work(**options)
    assert run.status()["figures"]["overall rating"] is None
    assert "Safety, 1 to 5" in run.report.read_text(encoding="utf-8")


def test_a_judge_that_says_nothing_useful_fails_the_run_and_loses_nothing(work, tmp_path, judged):
    judge, options = judged
    judge.answer = lambda _: "Hm."
    with pytest.raises(CoalignError, match="11 of 11 verdicts are missing"):
        work(**options)
    run = Run.open(tmp_path / "run")
    assert len(read_rows(run.artefacts / "answers.jsonl")) == 3
    assert len(read_rows(run.artefacts / "ratings.jsonl")) == 11
    run = work(max_failures=1.0, **options)
    assert run.status()["figures"]["overall rating"] is None
    assert "no readable verdict" in run.report.read_text(encoding="utf-8")


def test_columns_of_safety_are_true_or_false(folder):
    def records(*values):
        path = folder / "flags.jsonl"
        write(path, [{"prompt": "p", "s": value} for value in values])
        return read_records(str(path), kind="prompt").records

    assert safety_flags(records(True, False, None, "true", " False ", 1, 0), "s") == [
        True, False, False, True, False, True, False,
    ]  # fmt: skip
    assert safety_flags(records(True), "safety") == [False]
    with pytest.raises(ConfigError, match="no prompt has a column 'other'"):
        safety_flags(records(True), "other")
    with pytest.raises(DataError, match="1 of 2") as error:
        safety_flags(records(True, "perhaps"), "s")
    assert "flags.jsonl:2: s: is 'perhaps', expected true or false" in str(error.value)


def test_a_prefix_that_is_longer_than_the_models_window_is_named(work):
    with pytest.raises(ConfigError, match=r"style: the prefix has \d+ tokens, but the model's context"):
        work(style="default")
