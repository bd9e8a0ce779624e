"""CUT: which tokens are criticised, the contrasts, the prompts; critics, rounds of criticism and their end."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.encoding import encode_records
from coalign.data.readers import read_records
from coalign.data.records import Judgment, Messages, Source
from coalign.judging.protocol import Rating, Rubric
from coalign.judging.verifiers.constraints import parse_constraints
from coalign.models.scoring.engine import score_responses
from coalign.models.types import ResponseLogps, Responses
from coalign.preference import cut
from coalign.preference.critiques import critics, judgments
from coalign.preference.cut import contrast_token_loss, cut_loss, inappropriate_tokens
from coalign.training.objective import ScoredBatch
from tests.evaluation.scripted import ScriptedGenerator
from tests.models.tiny import make_model
from tests.preference.batches import evaluate
from tests.preference.fitting import fit_tiny
from tests.preference.tiny_chat import VOCABULARY, tiny_tokenizer
from tests.preference.tiny_runs import save_tiny_model

run = partial(evaluate, "cut")


def judged_batch(shapes: list[tuple[int, bool]], *, seed: int = 0) -> ScoredBatch:
    """A record for every (answer length, judged); log-probabilities at random, with gradient."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([length for length, judged in shapes for _ in range(1 + judged)])
    index = torch.tensor([row for row, (_, judged) in enumerate(shapes) for _ in range(1 + judged)])
    logps = -2 * torch.rand(int(lengths.sum()), generator=draw, dtype=torch.float64)
    scored = ResponseLogps(logps.requires_grad_(True), lengths, torch.arange(len(lengths)))
    return ScoredBatch(scored, None, index, torch.full((len(lengths),), torch.nan))


def naive_losses(batch: ScoredBatch, threshold: float, alpha: float) -> list[float]:
    tokens = [[math.exp(one) for one in part.tolist()] for part in batch.policy.split()]
    losses = []
    for rows in batch.groups():
        answers = [tokens[row] for row in rows.tolist()]
        likelihood = -sum(math.log(p) for p in answers[-1]) / len(answers[-1])
        if len(answers) == 1:
            losses.append(likelihood)
            continue
        plain, judged = answers
        contrast = 0.0
        for p, j in zip(plain, judged, strict=True):
            contrast -= alpha * math.log(1 - p) if j / p > threshold else math.log(p)
        losses.append((contrast / len(plain) + likelihood) / 2)
    return losses


shapes = st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=5)


@given(shapes=shapes, seed=st.integers(0, 999), threshold=st.sampled_from([1.0, 1.2, 3.0]))
@settings(max_examples=50)
def test_the_objective_equals_a_loop(shapes: list[tuple[int, bool]], seed: int, threshold: float) -> None:
    batch = judged_batch(shapes, seed=seed)
    losses = run(batch, threshold=threshold, unlikelihood_weight=0.5)
    assert losses.losses.tolist() == pytest.approx(naive_losses(batch, threshold, 0.5))
    judged = torch.tensor([one for _, one in shapes])
    assert losses.metrics["inappropriate"].isnan().tolist() == (~judged).tolist()
    assert all(not values.requires_grad and len(values) == len(shapes) for values in losses.metrics.values())


def test_the_order_of_records_does_not_matter() -> None:
    batch = judged_batch([(3, True), (2, False), (4, True)], seed=3)
    parts = batch.policy.split()
    order = [3, 4, 0, 1, 2]
    moved = ScoredBatch(
        ResponseLogps(torch.cat([parts[row] for row in order]), batch.policy.lengths[order], torch.arange(5)),
        None,
        torch.tensor([0, 0, 1, 1, 2]),
        batch.values,
    )
    torch.testing.assert_close(run(moved).losses, run(batch).losses[[2, 0, 1]])


@given(st.lists(st.tuples(st.floats(-1e4, 0), st.floats(-1e4, 0)), min_size=1, max_size=6))
@settings(max_examples=60)
def test_losses_and_gradients_stay_finite(pairs: list[tuple[float, float]]) -> None:
    plain = torch.tensor([one for one, _ in pairs], dtype=torch.float64, requires_grad=True)
    judged = torch.tensor([other for _, other in pairs], dtype=torch.float64)
    for flags in (inappropriate_tokens(judged, plain, threshold=1.1), torch.ones(len(pairs)).bool()):
        terms = contrast_token_loss(plain, flags, unlikelihood_weight=1.0)
        (gradient,) = torch.autograd.grad(terms.sum(), plain)
        assert bool(terms.isfinite().all())
        assert bool(gradient.isfinite().all())
        assert bool((terms[flags] <= -math.log(1e-5) + 1e-9).all())


def test_equal_probabilities_criticise_nothing() -> None:
    logps = torch.tensor([-0.1, -3.0], requires_grad=True)
    flags = inappropriate_tokens(logps, logps, threshold=1.0)
    assert flags.tolist() == [False, False]
    assert not flags.requires_grad


def test_what_the_loss_does_not_read_gets_no_gradient() -> None:
    contrast = torch.tensor([2.0, 5.0], requires_grad=True)
    loss = cut_loss(contrast, torch.tensor([4.0, 3.0]), torch.tensor([True, False]))
    assert loss.tolist() == [3.0, 3.0]
    assert torch.autograd.grad(loss.sum(), contrast)[0].tolist() == [0.5, 0.0]


def test_rows_that_do_not_fit_are_refused() -> None:
    batch = judged_batch([(2, True), (3, False)])
    with pytest.raises(ValueError, match="one or two prompts"):
        run(replace(batch, record_index=torch.zeros(3, dtype=torch.long)))
    with pytest.raises(ValueError, match="same tokens"):
        run(replace(batch, record_index=torch.tensor([0, 1, 1])))


# records


def judgment(said: str, label: bool | None = None, prompt: Messages | None = None) -> Judgment:
    asked: Messages = [{"role": "user", "content": "Name a prime."}] if prompt is None else prompt
    rest: Any = {"completion": "Nine.", "source": Source("file.jsonl", 3, 2), "extra": {"id": "a"}}
    return Judgment(prompt=asked, judgment=said, label=label, **rest)


@pytest.mark.parametrize(
    ("said", "label", "fine"),
    [
        ("Nine is not prime.", None, False),
        ("", None, True),
        (" None ", None, True),
        ("null.", None, True),
        ("None of this is true.", None, False),
        ("Nine is not prime.", True, True),
        ("", False, False),
    ],
)
def test_which_answers_are_fine(said: str, label: bool | None, fine: bool) -> None:
    assert judgments.is_appropriate(judgment(said, label)) is fine


def test_a_negative_verdict_needs_words() -> None:
    judgments.check_judgments([judgment("Wrong.", False), judgment("", True), judgment("")])
    with pytest.raises(DataError, match=r"file\.jsonl:3: judgment"):
        judgments.check_judgments([judgment("None", False)])
    with pytest.raises(DataError, match="without words"):
        judgments.judgment_contexts(judgment(" ", False))


def test_a_criticised_answer_has_two_prompts_and_a_fine_one() -> None:
    record = judgment("Nine is not prime.")
    plain, judged = judgments.judgment_contexts(record)
    assert plain.prompt == record.prompt
    assert judged.prompt[-1]["content"].startswith("Name a prime.")
    assert judged.prompt[-1]["content"].endswith("Nine is not prime.")
    assert [one.completion for one in (plain, judged)] == ["Nine.", "Nine."]  # type: ignore[attr-defined]
    assert plain.source == judged.source == record.source
    assert plain.extra == judged.extra == record.extra
    assert record.prompt == [{"role": "user", "content": "Name a prime."}]
    assert len(judgments.judgment_contexts(judgment("None"))) == 1


def test_the_judgment_goes_into_the_last_turn_and_braces_stay() -> None:
    chat: Messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Print {x}"},
    ]
    judged = judgments.judged_prompt(chat, "Not {y} but {x}.")
    assert judged[0] == chat[0]
    assert "Print {x}" in judged[1]["content"]
    assert "Not {y} but {x}." in judged[1]["content"]
    assert judgments.judged_prompt([], "Bad.")[0]["role"] == "user"


@given(flags=st.lists(st.booleans(), max_size=30), ratio=st.floats(0, 2), seed=st.integers(0, 9))
@settings(max_examples=60)
def test_downsampling_keeps_the_criticised_and_a_share_of_the_fine(
    flags: list[bool], ratio: float, seed: int
) -> None:
    records = [judgment("None" if fine else "Wrong.") for fine in flags]
    kept = judgments.keep_appropriate(records, ratio, seed=seed, appropriate=judgments.is_appropriate)
    wrong = flags.count(False)
    assert sum(not judgments.is_appropriate(one) for one in kept) == wrong
    assert sum(map(judgments.is_appropriate, kept)) == min(flags.count(True), round(ratio * wrong))
    places = [next(row for row, record in enumerate(records) if record is one) for one in kept]
    assert places == sorted(places)


def test_contexts_through_the_scoring_engine() -> None:
    """Two prompts a record, one response each, scored in one pass: the tokens line up by order."""
    tokenizer, model = tiny_tokenizer(), make_model("llama", vocab_size=VOCABULARY)
    records = [judgment("Nine is not prime."), judgment("None")]
    groups = [judgments.judgment_contexts(record) for record in records]
    encoded = encode_records([one for group in groups for one in group], tokenizer).records
    responses = Responses(
        [one.prompt_ids for one in encoded],
        [one.response_ids[0] for one in encoded],
        list(range(len(encoded))),
    )
    index = torch.tensor([row for row, group in enumerate(groups) for _ in group])
    batch = ScoredBatch(score_responses(model, responses), None, index, torch.full((3,), torch.nan))
    losses = run(batch)
    plain, judged, _ = batch.policy.split()
    assert not torch.equal(plain, judged)
    assert losses.losses.tolist() == pytest.approx(naive_losses(batch, 1.2, 0.5), rel=1e-4)
    losses.losses.mean().backward()
    assert all(one.grad is not None and bool(one.grad.isfinite().all()) for one in model.parameters())


def test_answers_that_were_cut_stay_aligned() -> None:
    tokenizer = tiny_tokenizer()
    plain, judged = judgments.judgment_contexts(judgment("Nine is not prime."))
    (long,) = encode_records([judged], tokenizer).records
    limit = len(long.prompt_ids) + 2
    encoded = encode_records([plain, judged], tokenizer, max_length=limit).records
    assert [len(one.response_ids[0]) for one in encoded] == [6, 2]
    aligned = judgments.align_answers([replace(one, record_index=0) for one in encoded], limit)
    assert [one.response_ids[0] for one in aligned] == [encoded[1].response_ids[0]] * 2
    assert aligned[0].truncated
    apart = judgments.align_answers(encoded, limit)
    assert apart == encoded


def test_training(tmp_path: Path) -> None:
    records = [judgment("Nine is not prime." if n % 2 else "None") for n in range(6)]
    # short enough that the answer is cut under the judged prompt
    judged = encode_records([judgments.judgment_contexts(records[1])[1]], tiny_tokenizer()).records[0]
    result = fit_tiny(tmp_path, records, "cut", max_steps=3, max_length=len(judged.prompt_ids) + 3)
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert losses[-1] < losses[0]
    assert any("inappropriate" in row for row in result.history)


ROUNDS: dict[str, Any] = {"rounds": 2, "max_new_tokens": 6, "eval_fraction": 0.25, "learning_rate": 1e-3}


def prompts(n: int = 8, **columns: Any) -> list[dict[str, Any]]:
    limits = [{"verifier": "max_words", "n": 1}, {"verifier": "must_include", "keywords": ["sky"]}]
    return [{"prompt": f"Say {i}.", **(columns or {"constraints": limits})} for i in range(n)]


class Judge:
    """Rates by the answer's length, with a word about it."""

    name = "test"

    def __init__(self, failing: bool = False) -> None:
        self.failing = failing
        self.asked: list[Any] = []

    def rate(self, items: Any, *, rubric: Any = None, scale: Any = None, label: str = "") -> list[Rating]:
        self.asked += [(one.id, rubric, scale) for one in items]
        if self.failing:
            return [Rating(id=one.id, score=None, failure="malformed", reply="Hm.") for one in items]
        return [
            Rating(id=one.id, score=float(min(len(one.responses[0]), 10)), reply="Too short.\n[[2]]")
            for one in items
        ]

    compare: Any = None


def answered(text: str, name: str = "a") -> critics.Answered:
    return critics.Answered(name, [{"role": "user", "content": "Say it."}], text)


def test_programs_name_what_is_broken() -> None:
    constraints = parse_constraints([{"verifier": "max_words", "n": 2}, {"verifier": "max_words", "n": 9}])
    critic = critics.ConstraintCritic({"a": constraints})
    fine, broken = critic([answered("two words"), answered("now there are four")])
    assert fine == critics.Criticism("", True, 1.0)
    assert broken is not None
    assert not broken.fine
    assert broken.score == 0.5
    assert "at most 2 words" in broken.text
    assert "9" not in broken.text


def test_a_judge_criticises_with_its_reasons() -> None:
    judge = Judge()
    rubric = Rubric(criteria="length")
    critic = critics.JudgeCritic(lambda _: judge, None, fine_from=7.0, rubric=rubric)
    short, long = critic([answered("no"), answered("long enough", "b")])
    assert short == critics.Criticism("Too short.", False, 2.0)
    assert long is not None
    assert long.fine
    assert judge.asked[0] == ("a", rubric, critics.SCALE)
    with pytest.raises(CoalignError, match="verdicts are missing"):
        critics.JudgeCritic(lambda _: Judge(failing=True), None, fine_from=7.0)([answered("x")])
    assert critics.JudgeCritic(lambda _: Judge(failing=True), None, fine_from=7.0, max_failures=1.0)(
        [answered("x")]
    ) == [None]


def test_what_a_critic_said_belongs_to_its_weights_and_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        critics, "open_named", lambda *_, **__: ScriptedGenerator(lambda _: "Too short. [[8]]")
    )
    replies, asked = tmp_path / "replies.jsonl", [answered("it is fine")]
    for seed in (0, 1):
        model = save_tiny_model(tmp_path / "critic", seed=seed)
        options = critics.CriticOptions(critic=str(model), max_failures=1.0)
        for _ in range(2):  # the second one asks nobody, and finds the file free
            said = critics.open_critic(options, {}, replies, "cpu")(asked)
            assert said == [critics.Criticism("Too short.", True, 8.0)]
        assert len(read_rows(replies)) == seed + 1


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("It is wrong.\n[[3]]", "It is wrong."),
        ("[[3]]", ""),
        ("Bad [[3]] answer.\n**[[3]]**\n", "Bad  answer."),
        ("", ""),
    ],
)
def test_the_verdict_is_no_part_of_the_criticism(reply: str, words: str) -> None:
    assert critics.without_verdict(reply) == words


def report_of(run: Run) -> dict[str, Any]:
    assert run.state == "done"
    return json.loads((run.path / "report.json").read_text())


def test_rounds_answer_criticise_and_learn(learn: Any) -> None:
    run = learn("cut", prompts=prompts(), **ROUNDS)
    titles = [section["title"] for section in report_of(run)["sections"]]
    assert titles[:2] == ["Rounds", "Held-out prompts side by side"]
    first, second = (run.artefacts / f"round-{n}" for n in (1, 2))
    asked = [{row["id"] for row in read_rows(folder / "propose.jsonl")} for folder in (first, second)]
    assert [len(one) for one in asked] == [3, 3]
    assert not asked[0] & asked[1], "every round has fresh prompts"
    assert read_records(first / "build.jsonl").kind == "judgment", "the data of `cut --data`"
    wrong = [row["judgment"] for row in read_rows(first / "build.jsonl") if not row["label"]]
    assert all(one.startswith("The reply does not keep to this") for one in wrong)
    for folder in (first, second):
        assert json.loads((folder / "model.json").read_text())["model"] == str(folder / "model")
    held_out = (first / "heldout-before.jsonl", second / "heldout-after.jsonl")
    assert [len(read_rows(one)) for one in held_out] == [2, 2]
    assert (run.model / "README.md").exists()
    assert run.status()["figures"].keys() == {"fine_before", "fine_after"}
    config = build(cut.Config, run.config())
    assert (config.threshold, config.unlikelihood_weight) == (1.1, 1.0), "the official recipe of rounds"


def test_a_round_without_faults_trains_nothing(learn: Any) -> None:
    rows = prompts(4, constraints=[{"verifier": "max_words", "n": 500}])
    with pytest.raises(DataError, match="found no fault in any answer"):
        learn("cut", prompts=rows, **{**ROUNDS, "rounds": 1})


def test_a_language_model_criticises(learn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critics, "LanguageModelJudge", lambda *rest, **more: Judge())
    critic = {"critic": "http://127.0.0.1:9/v1", "fine_from": 10.0}
    options = {**ROUNDS, **critic, "rounds": 1, "eval_fraction": 0}
    run = learn("cut", prompts=prompts(4, topic="none"), **options)
    (row, *_) = read_rows(run.artefacts / "round-1" / "measure.jsonl")
    assert (row["judgment"], row["score"]) == ("Too short.", min(len(row["responses"][0]), 10))
    assert "http://127.0.0.1:9/v1" in json.dumps(report_of(run)["facts"])
    assert "Nothing was held out" in report_of(run)["verdict"]["text"]


def test_prompts_that_cannot_be_judged_are_named(learn: Any) -> None:
    rows = prompts(4)
    del rows[2]["constraints"]
    with pytest.raises(DataError, match="1 of 4 prompts") as caught:
        learn("cut", prompts=rows, eval_fraction=0.0)
    assert "run-prompts.jsonl:3" in str(caught.value)
    assert "--critic" in str(caught.value)
    with pytest.raises(DataError, match="for 9 rounds"):
        learn("cut", None, "nine", prompts=rows, rounds=9)


def test_neither_data_nor_prompts(learn: Any) -> None:
    with pytest.raises(ConfigError, match="judged answers"):
        learn("cut")


def test_offline_training_keeps_its_recipe() -> None:
    config = build(cut.Config, {"data": "a"})
    assert (config.threshold, config.unlikelihood_weight) == (1.2, 0.5)
