"""A reward model gives one number everywhere: in training, in coalign, in plain Transformers, saved and read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch.nn.functional import softplus

from coalign.core.errors import CoalignError, DataError, ModelError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.data.records import Ranking
from coalign.models.reward_model import load_reward_model
from coalign.training.losses.bradley_terry import bradley_terry_losses, record_means
from coalign.training.reward_models import fit
from coalign.training.reward_models.report import margins_of, quality
from coalign.training.reward_models.task import (
    RewardExample,
    RewardLossOptions,
    RewardTask,
    make_examples,
    score_scales,
)
from tests.preference.tiny_runs import (
    assert_complete,
    feedback,
    pairs,
    rankings,
    run_system,
    save_tiny_model,
    write,
)

CHAT = [
    [{"role": "user", "content": "What is the sky like?"}, {"role": "assistant", "content": text}]
    for text in ("The sky is fine.", "I will not say 3", "x")
]


def start(folder: Path, rows=None, **options) -> Run:
    folder.mkdir(exist_ok=True)
    model = options.pop("model", None) or save_tiny_model(folder / "tiny")
    data = write(folder / "rows.jsonl", pairs(16) if rows is None else rows)
    given = {"eval_fraction": 0.25, "save_steps": 0, **options}
    return run_system("reward-model", fit, folder / "run", model=str(model), data=str(data), **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    rows = [{**row, "tag": "even" if at % 2 == 0 else "odd"} for at, row in enumerate(pairs(24))]
    return start(tmp_path_factory.mktemp("whole"), rows, epochs=2)


@pytest.mark.parametrize("save", ["whole", "adapter"])
def test_engine_transformers_and_a_folder_read_back_give_one_number(save, tmp_path, whole) -> None:
    run = whole if save == "whole" else start(tmp_path, save="adapter")
    more = {} if save == "whole" else {"num_labels": 1}
    tokenizer = hf.AutoTokenizer.from_pretrained(run.model)
    if save == "adapter":  # an adapter folder cannot say how its base pads
        more["pad_token_id"] = tokenizer.pad_token_id
    plain = hf.AutoModelForSequenceClassification.from_pretrained(run.model, **more).eval()
    assert plain.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    model = load_reward_model(str(run.path), device="cpu")
    engine = model.score([chat[:1] for chat in CHAT], [chat[1]["content"] for chat in CHAT])
    texts = [tokenizer.apply_chat_template(chat, tokenize=False).removesuffix("\n") for chat in CHAT]
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            assert plain(**batch).logits[:, 0].tolist() == pytest.approx(engine, abs=2e-5)
    cut = tokenizer(texts[0].removesuffix("<|im_end|>"), return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        assert abs(float(plain(**cut).logits) - engine[0]) > 1e-3  # the end of the turn is read
    groups = [[model.inputs.text(chat[:1], chat[1]["content"]) for chat in CHAT]]
    with torch.no_grad():
        assert model.inputs.rewards(model.model, groups).tolist() == pytest.approx(engine, abs=2e-5)


def test_a_run_reports_each_data_set_and_its_rewards_are_those_of_the_saved_model(whole) -> None:
    report = assert_complete(whole)
    found = json.loads((whole.artefacts / "quality.json").read_text())
    assert set(found) == {"all", "even", "odd"}
    assert found["all"]["pairs"] == found["even"]["pairs"] + found["odd"]["pairs"] == 6
    assert set(found["all"]["ece"]) == {"5", "10", "20"}
    assert {"Held-out pairs", "Reliability"} <= {one["title"] for one in report["sections"]}
    history = json.loads((whole.artefacts / "train.json").read_text())["history"]
    assert any("accuracy/even" in row for row in history)
    assert any("eval_accuracy/odd" in row for row in history)
    rows = [json.loads(line) for line in (whole.artefacts / "held_out.jsonl").read_text().splitlines()]
    assert found["all"] == json.loads(json.dumps(vars(quality(margins_of(rows)))))


def test_a_few_pairs_tell_no_temperature(whole) -> None:
    few, many = quality([0.1, 2.0, 3.0]), quality([0.1, 2.0, -3.0, 1.0] * 5)
    assert (few.temperature, few.scaled_ece) == (None, None)
    assert many.temperature
    assert many.scaled_ece is not None
    said = json.loads((whole.path / "report.json").read_text())["verdict"]
    assert "Too few pairs to tell the calibration" in said["text"]
    assert [one["label"] for one in said["figures"]] == ["Held-out pairs in the right order"]


def test_a_reward_model_is_trained_further_with_its_head(whole, tmp_path) -> None:
    before = load_reward_model(str(whole.path), device="cpu").score(["a"], ["b"])
    run = start(tmp_path, model=str(whole.path), max_steps=1, learning_rate=1e-9)
    assert load_reward_model(str(run.path), device="cpu").score(["a"], ["b"]) == pytest.approx(
        before, abs=1e-4
    )


def test_all_weights_of_a_language_model_under_an_adapter_are_trained(tmp_path) -> None:
    from coalign.training.learning import learner

    base = save_tiny_model(tmp_path / "base")
    data = str(write(tmp_path / "pairs.jsonl", pairs(8)))
    adapted = run_system("dpo", learner("dpo"), tmp_path / "dpo", model=str(base), data=data, max_steps=1)
    run = start(tmp_path / "rm", model=str(adapted.path), tuning="full", learning_rate=1e-3, max_steps=2)
    assert math.isfinite(load_reward_model(str(run.path), device="cpu").score(["a"], ["b"])[0])


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_an_encoder_learns_from_two_segments_and_is_read_alike_afterwards(tuning, tmp_path) -> None:
    from tests.preference.tiny_chat import VOCABULARY, tiny_tokenizer

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = hf.BertConfig(vocab_size=VOCABULARY, max_position_embeddings=256, **shape)
    hf.BertModel(config).save_pretrained(tmp_path / "bert")
    tiny_tokenizer(None).save_pretrained(tmp_path / "bert")
    run = start(tmp_path / "rm", model=str(tmp_path / "bert"), tuning=tuning, learning_rate=1e-3, epochs=2)
    model = load_reward_model(str(run.path), device="cpu")
    assert model.inputs.format == "pair"
    plain = hf.AutoModelForSequenceClassification.from_pretrained(run.model).eval()
    batch = hf.AutoTokenizer.from_pretrained(run.model)("a question", "an answer", return_tensors="pt")
    with torch.no_grad():
        assert float(plain(**batch).logits) == pytest.approx(
            model.score(["a question"], ["an answer"])[0], abs=1e-5
        )


def test_rankings_and_thumbs_are_learnt_from_too(tmp_path) -> None:
    assert start(tmp_path / "ranked", rankings(8), max_steps=1).state == "done"
    thumbs = [{**row, "prompt": f"Why {at % 4}?"} for at, row in enumerate(feedback(8))]
    both = thumbs + [{**row, "label": not row["label"], "completion": "no"} for row in thumbs]
    assert start(tmp_path / "thumbs", both, max_steps=1).state == "done"


REFUSED = {
    "one class": ([{**row, "label": True} for row in feedback(8)], {}, "all 8 records are labelled true"),
    "all tied": ([{**row, "scores": [1, 1, 1]} for row in rankings(8)], {}, "have the same score"),
    "no margin": (
        pairs(8, margin=1.0)[:7] + pairs(1, margin="far"),
        {"margin": "column"},
        "margin: is 'far'",
    ),
    "no margin that a float holds": (
        pairs(8, margin=1.0)[:7] + pairs(1, margin=10**400),
        {"margin": "column"},
        "margin: is 1000",
    ),
    "cut to the same": (pairs(8), {"max_length": 1}, "the same tokens, once they are cut"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_teach_nothing_are_refused_in_words(name, tmp_path) -> None:
    rows, options, words = REFUSED[name]
    with pytest.raises(DataError, match=words) as error:
        start(tmp_path, rows, **options)
    assert "Traceback" not in str(error.value)


def test_options_without_effect_are_refused() -> None:
    for wrong in ({"margin_scale": 2.0}, {"reference_logps": "live"}, {"tuning": "full", "save": "adapter"}):
        with pytest.raises((ValueError, CoalignError)):
            fit.Config(data="x", **wrong)


def test_a_reward_that_is_no_number_is_an_error(whole) -> None:
    model = load_reward_model(str(whole.path), device="cpu")
    with torch.no_grad():
        model.model.score.weight.fill_(math.nan)
    with pytest.raises(ModelError, match="1 of 1 rewards that are not numbers"):
        model.score(["a"], ["b"])


def test_the_loss_by_hand() -> None:
    better, worse, margins = (
        torch.tensor(one, dtype=torch.float64) for one in ([2.0, 0.0], [0.5, 1.0], [1.0, 0.0])
    )
    z = better - worse - margins
    expected = 0.9 * softplus(-z) + 0.1 * softplus(z) + 0.01 * (better + worse) ** 2
    found = bradley_terry_losses(better, worse, margins, label_smoothing=0.1, center_rewards_coefficient=0.01)
    torch.testing.assert_close(found, expected)
    assert record_means(found, torch.tensor([0, 0]), 2).tolist() == pytest.approx([float(found.mean()), 0.0])


def test_terms_that_keep_rewards_near_zero_and_near_their_scores() -> None:
    better, worse = (
        torch.tensor([2.0, 0.0], dtype=torch.float64),
        torch.tensor([0.5, 1.0], dtype=torch.float64),
    )
    scores = (
        torch.tensor([1.0, math.nan], dtype=torch.float64),
        torch.tensor([-1.0, math.nan], dtype=torch.float64),
    )
    plain = bradley_terry_losses(better, worse)
    bounded = bradley_terry_losses(better, worse, reward_l2=0.1)
    torch.testing.assert_close(bounded, plain + 0.1 * (better**2 + worse**2))
    anchored = bradley_terry_losses(better, worse, score_weight=0.5, scores=scores)
    near = torch.tensor([0.5 * (1.0 + 2.25), 0.0], dtype=torch.float64)  # a pair without scores has no term
    torch.testing.assert_close(anchored, plain + near)


def test_absolute_scores_are_standardised_in_their_data_set() -> None:
    def ranked(tag, scores, absolute=True):
        return Ranking(
            prompt="?",
            responses=tuple(map(str, scores)),
            scores=scores,
            absolute=absolute,
            extra={"tag": tag},
        )

    records = [ranked("a", (1.0, 3.0)), ranked("a", (5.0, 7.0)), ranked("b", (1.0, 0.0), absolute=False)]
    scales = score_scales(records)
    assert scales == {"a": (4.0, pytest.approx(math.sqrt(5)))}
    made = make_examples(records, [one.responses for one in records], "none", scales)
    assert made[0].scores == pytest.approx((-3 / math.sqrt(5), -1 / math.sqrt(5)))
    assert made[2].scores == ()
    batch = RewardTask(Known(), RewardLossOptions(score_weight=1.0), ["a", "b"]).collate(made)
    assert batch["scores"].isnan().tolist() == [False] * 4 + [True] * 2


def example(values, rewards, margin=0.0, tag="") -> tuple[RewardExample, list[float]]:
    return RewardExample("1", tag, tuple(rewards), tuple(values), margin), rewards


class Known:
    """Rewards that stand in the examples."""

    def rewards(self, model, groups):
        return torch.tensor([reward for group in groups for reward in group], requires_grad=True)


def test_a_record_is_the_mean_of_its_pairs_with_the_margin_of_their_scores() -> None:
    options = RewardLossOptions(margin="scores", margin_scale=0.5)
    task = RewardTask(Known(), options, [""])
    ranked, _ = example((3.0, 1.0, 1.0), (0.2, 0.1, -0.4), margin=None)
    pair, _ = example((0.0, 1.0), (1.0, 1.0), margin=2.0)
    batch = task.collate([ranked, pair])
    losses = task.loss(torch.nn.Identity(), batch, None).losses
    first = [math.log1p(math.exp(-(gap - 1.0))) for gap in (0.1, 0.6)]
    assert losses.tolist() == pytest.approx([sum(first) / 2, math.log1p(math.exp(1.0))], rel=1e-5)
    assert task.count(batch) == 2


def test_balanced_lengths_are_counted_in_run_and_report(tmp_path: Path) -> None:
    rows = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if place % 4 == 0 else row
        for place, row in enumerate(pairs(16))
    ]
    run = start(tmp_path, rows, balance_lengths=[1000], max_steps=1)
    buckets = read_rows(run.artefacts / "length_balance.jsonl")
    assert [one["low"] for one in buckets] == [0, 1000]
    assert min(buckets[0]["longer"], buckets[0]["shorter"]) > 0
    assert buckets[0]["longer"] != buckets[0]["shorter"]
    assert "Lengths of pairs" in run.report.read_text(encoding="utf-8")


def test_lengths_of_rankings_are_not_balanced(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected pairs"):
        start(tmp_path, rankings(), balance_lengths=[10])
