"""Self-J: labels, the loss on two views, graders as judges and rewards, selective answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import CoalignError, ConfigError, DataError, ModelError
from coalign.core.options import build
from coalign.core.system import load_system
from coalign.decoding.search.selective import Options, SelectiveGenerator
from coalign.judging.graders import GraderFacts, grader, load_grader, read_grader, write_grader
from coalign.judging.protocol import JudgeItem
from coalign.judging.rewards.mix import Draft, RewardMix, Weighted
from coalign.judging.rewards.specs import RewardOptions, build_rewards
from coalign.measures.selective import selective_curve, threshold_for
from coalign.models.types import Generation, Sampling
from coalign.rewards.self_grading.training import Answered, make_views
from coalign.rewards.self_j import combined_quality, quality_labels
from coalign.training.distillation import TokenExample
from coalign.training.losses.self_distillation import self_distillation_terms
from coalign.training.self_distillation import SelfDistillation, TwoViews
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.tiny import make_model
from tests.preference.tiny_runs import run_system, save_tiny_model, write

GRADES = st.lists(st.tuples(st.floats(0, 9), st.floats(-1, 1)), min_size=1, max_size=20)


@given(GRADES, st.floats(0, 1))
@settings(deadline=None)
def test_qualities_and_labels_rise_with_both_parts(rows: list[tuple[float, float]], weight: float):
    graded, similarity = zip(*rows, strict=True)
    for scaling in ("unit", "rank"):
        quality = combined_quality(graded, similarity, weight=weight, scaling=scaling)  # type: ignore[arg-type]
        assert ((quality >= 0) & (quality <= 1)).all()
        better = combined_quality([9.0] * len(rows), [1.0] * len(rows), weight=weight)
        assert (better >= quality - 1e-12).all() or scaling == "rank"
    for cut in ("equal_width", "equal_frequency"):
        labels = quality_labels(quality, cut)  # type: ignore[arg-type]
        assert set(labels) <= set(range(10))
        order = np.argsort(quality, kind="stable")
        assert (np.diff(np.array(labels)[order]) >= 0).all()


def test_labels_of_equal_frequency_are_tenths():
    labels = quality_labels(np.linspace(0.4, 0.5, 40).tolist(), "equal_frequency")
    assert np.bincount(labels).tolist() == [4] * 10
    assert quality_labels([0.3] * 5, "equal_frequency") == [5] * 5


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=20))
@settings(deadline=None)
def test_the_selective_curve_ends_at_the_mean_and_is_best_by_quality(rows: list[tuple[int, float]]):
    scores, quality = zip(*rows, strict=True)
    curve, best = selective_curve(scores, quality), selective_curve(quality, quality)
    assert curve.mean_quality[-1] == pytest.approx(np.mean(quality))
    assert (best.mean_quality >= curve.mean_quality - 1e-12).all()
    assert best.area >= curve.area - 1e-12
    reached = threshold_for(curve, 0.5)
    for threshold in set(scores):
        kept = [worth for score, worth in rows if score >= threshold]
        if np.mean(kept) >= 0.5:
            assert reached is not None
            assert reached[0] <= threshold or math.isclose(float(np.mean(kept)), 0.5)


def test_items_of_one_score_are_answered_together():
    curve = selective_curve([2.0, 1.0, 1.0, 0.0], [1.0, 0.9, 0.1, 0.0])
    assert threshold_for(curve, 0.66) == (1.0, 0.75)
    assert threshold_for(curve, 0.9) == (2.0, 0.25)
    assert threshold_for(selective_curve([1.0], [0.3]), 0.4) is None
    with pytest.raises(ValueError, match="not finite"):
        selective_curve([math.nan], [1.0])


def test_the_divergence_teaches_the_view_with_less_alone():
    torch.manual_seed(0)
    teacher, student = (torch.randn(4, 7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    labels, ends = torch.tensor([1, 2, 3, 6]), torch.tensor([False, True, False, True])
    terms = self_distillation_terms(teacher, student, labels, ends)
    assert [len(one) for one in terms] == [4, 4, 2]
    by = torch.autograd.grad(terms[2].sum(), [teacher, student], allow_unused=True, retain_graph=True)
    assert by[0] is None
    assert by[1] is not None
    assert by[1][ends].abs().sum() == 0
    expected = torch.nn.functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(
        -1
    )[~ends]
    torch.testing.assert_close(terms[2], expected)
    far = torch.tensor([[0.0, -2000.0]], dtype=torch.float64)
    values = self_distillation_terms(far, far.clone(), torch.tensor([0]), torch.tensor([False]))
    assert all(float(one) == 0 for one in values)


def views(count: int) -> list[TwoViews]:
    draw = torch.Generator().manual_seed(1)
    made = []
    for place in range(count):
        pair = []
        for longer in (4, 0):
            request = torch.randint(3, 60, (3 + longer + place % 3,), generator=draw).tolist()
            pair.append(TokenExample([*request, 5 + place % 4, 1], [False] * len(request) + [True, True]))
        made.append(TwoViews(f"v{place}", *pair))
    return made


def gradient(model: Any, groups: list[list[TwoViews]], **weights: Any) -> torch.Tensor:
    """Of one optimizer step over micro-batches, as the trainer divides."""
    task = SelfDistillation(**weights)
    model.zero_grad()
    batches = [task.collate(one) for one in groups]
    count = sum(task.count(one) for one in batches)
    for batch in batches:
        (task.loss(model, batch, None).losses / count).sum().backward()  # type: ignore[arg-type]
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


def test_gradients_depend_neither_on_padding_nor_on_order_nor_on_the_split():
    model: Any = make_model("llama").double()
    data = views(6)
    whole = gradient(model, [data])
    for groups in ([data[::-1]], [data[:1], data[1:4], data[4:]], [[one] for one in data]):
        torch.testing.assert_close(gradient(model, groups), whole)
    total = torch.zeros_like(whole)
    for terms in ((1.0, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 2.0)):
        task = SelfDistillation()
        task.weights = terms
        batch = task.collate(data)
        model.zero_grad()
        (task.loss(model, batch, None).losses / task.count(batch)).sum().backward()  # type: ignore[arg-type]
        total += torch.cat([one.grad.flatten() for one in model.parameters()])
    torch.testing.assert_close(total, whole)


def test_views_of_different_targets_are_refused():
    one, other = TokenExample([1, 2, 3], [False, True, True]), TokenExample([1, 2, 4], [False, True, True])
    with pytest.raises(ValueError, match="x: the two views have the targets"):
        TwoViews("x", one, other)


class Scripted:
    """A generator that gives first tokens and their probabilities."""

    def __init__(self, *steps: list[tuple[str, float]]) -> None:
        self.steps = steps
        self.asked: list[Any] = []

    def generate(self, prompts: Any, sampling: Sampling, **how: Any) -> Any:
        self.asked += prompts
        steps = self.steps[: sampling.max_new_tokens]
        tops = [[(text, math.log(p)) for text, p in step] for step in steps]
        made = [
            [
                Generation(
                    "5",
                    [1],
                    tokens=[step[0][0] for step in steps],
                    logprobs=[0.0] * len(steps),
                    top_logprobs=tops,
                )
            ]
            for _ in prompts
        ]
        how["on_batch"](dict(enumerate(made)))
        return made


ITEM = JudgeItem(
    id="a", prompt=[{"role": "user", "content": "Two and two?"}], responses=("Four.",), reference="4"
)


def test_a_digit_is_read_after_a_space_of_its_own():
    digits = [("7", 0.3), ("3", 0.1), ("no", 0.6)]
    spaced = Scripted([("▁".replace("▁", " "), 1.0)], digits)
    (found,) = grader(spaced, GraderFacts(first_tokens=2), name="g").rate([ITEM])  # type: ignore[arg-type]
    assert found.score == pytest.approx(6.0)
    (found,) = grader(Scripted(digits), GraderFacts(), name="g").rate([ITEM])  # type: ignore[arg-type]
    assert found.score == pytest.approx(6.0)
    assert "reference" in spaced.asked[0][0]["content"]


def test_a_reply_without_a_digit_is_missing_not_zero():
    (found,) = grader(Scripted([("no", 1.0)]), GraderFacts(), name="g").rate([ITEM])  # type: ignore[arg-type]
    assert (found.score, found.failure) == (None, "malformed")


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the facts of a grader beside it."""
    folder = save_tiny_model(tmp_path_factory.mktemp("graders") / "g")
    template = folder.parent / "own.j2"
    template.write_text("{{ answers[0] }} 0 to 9?")
    write_grader(folder, GraderFacts(template=str(template)))
    return folder


def test_a_grader_is_a_judge_and_a_reward(graded: Path):
    facts = read_grader(str(graded))
    assert facts is not None
    assert facts.template == str(graded / "grader.j2")
    judge = load_grader(str(graded), device="cpu")
    (rating,) = judge.rate([ITEM])
    mix = build_rewards(RewardOptions(reward=[f"model:{graded},device=cpu"]))
    (value,) = mix([Draft(0, ITEM.prompt, "Four.")])
    assert rating.score is None or value == pytest.approx(rating.score)
    with pytest.raises(ConfigError, match="label has no effect on a grader"):
        build_rewards(RewardOptions(reward=[f"model:{graded},label=x"]))


def test_what_is_no_grader_is_said(graded: Path, tmp_path: Path):
    plain = save_tiny_model(tmp_path / "plain")
    assert read_grader(str(plain)) is None
    with pytest.raises(ModelError, match="is no grader"):
        load_grader(str(plain))
    (plain / "grader.json").write_text('{"height": 3}')
    with pytest.raises(ModelError, match=r"grader\.json: not the facts of a grader"):
        read_grader(str(plain))


class Lengths:
    """A reward by length; what is empty cannot be scored."""

    name = "length"
    lowest = -1.0

    def score(self, drafts: Any) -> list[float]:
        return [float(len(one.text)) if one.text else math.nan for one in drafts]


class Says:
    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def generate(self, prompts: Any, sampling: Sampling, **how: Any) -> Any:
        made = [[Generation(text, [1, 2], logprobs=[0.0, 0.0])] for text in self.texts]
        how["on_batch"](dict(enumerate(made)))
        return made


def test_answers_below_the_threshold_are_declined():
    rewards = RewardMix([Weighted(Lengths())])
    options = Options(decline_below=3.0, decline_text="I pass.", reward=["max_words:3"])
    generator = SelectiveGenerator(Says("four", "two", "no"), rewards, options)  # type: ignore[arg-type]
    kept: dict[int, Any] = {}
    found = generator.generate(["a", "b", "c"], Sampling(), on_batch=kept.update)
    assert [one[0].text for one in found] == ["four", "two", "I pass."]
    assert (generator.answered, generator.declined) == (2, 1)
    assert kept[2][0] == found[2][0]
    assert (found[2][0].length, found[2][0].logprobs, found[2][0].finish_reason) == (0, [], "stop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decline_below": math.nan}, "not a finite number"),
        ({"decline_below": 1.0, "normalise": True}, "normalise has no effect"),
        ({"decline_below": 1.0, "reward": ["max_word:3"]}, "Did you mean max_words"),
    ],
)
def test_thresholds_that_cannot_be(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        Options(**options)


def config(**given: Any) -> Any:
    return build(load_system("self-j").Config, {"data": "d.jsonl", "device": "cpu", **given}, where="test")


def test_judgements_that_do_not_fit_are_left_out_and_none_left_is_an_error(tmp_path: Path):
    from coalign.core.runs import Run
    from coalign.data.records import Demonstration

    run = Run(tmp_path)
    answered = [
        Answered(
            Demonstration(
                prompt=[{"role": "user", "content": f"q{n}"}], completion="right", extra={"id": str(n)}
            ),
            "short" if n else "long " * 200,
        )
        for n in range(3)
    ]
    labels, tokenizer = {"0": 1, "1": 4, "2": 9}, byte_tokenizer(CHATML)
    examples, facts = make_views(answered, labels, tokenizer, config(max_length=900), run)
    assert [one.id for one in examples] == ["1", "2"]
    assert facts.first_tokens == 1
    assert len(examples[0].more.ids) > len(examples[0].less.ids)
    with pytest.raises(DataError, match="None of 3 judgements fits into max_length 50"):
        make_views(answered, labels, tokenizer, config(max_length=50), run)
    with pytest.raises(DataError, match="No answer has a label"):
        make_views(answered, {}, tokenizer, config(), run)


def test_labels_of_one_kind_are_an_error(tmp_path: Path):
    save_tiny_model(tmp_path / "tiny")
    write(tmp_path / "d.jsonl", [{"prompt": "q?", "completion": "a"}, {"prompt": "r?", "completion": "a"}])
    (tmp_path / "t.j2").write_text("{{ answers[0] }}?")
    options = {
        "data": str(tmp_path / "d.jsonl"),
        "model": str(tmp_path / "tiny"),
        "max_failures": 1.0,
        "max_new_tokens": 2,
    }
    with pytest.raises(CoalignError, match=r"nothing to tell apart|No answer has a grade"):
        run_system(
            "self-j",
            load_system("self-j"),
            tmp_path / "run",
            **options,
            judge_template=tmp_path / "t.j2",
            label_weight=1.0,
            eval_fraction=0.5,
            device="cpu",
        )


def test_a_model_that_was_not_trained_to_grade_has_its_reply_begun(tmp_path: Path):
    from coalign.judging.prompts import load_template
    from coalign.rewards.self_grading.training import begun_template

    asked = load_template("rate", begun_template(tmp_path / "grade.j2")).render(ITEM, bare=True)
    plain = load_template("rate").render(ITEM, bare=True)
    assert asked[:-1] == plain
    assert asked[-1] == {"role": "assistant", "content": "Score:"}
