from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import RobertaForSequenceClassification

from coalign.core.errors import ConfigError, ModelError
from coalign.evaluation.factuality.functions import (
    FunctionOptions,
    entailment_label,
    load_checkpoint,
    load_function,
)
from coalign.evaluation.factuality.model import load_pair_classifier, save_pair_classifier
from coalign.models.generation.first_token import FirstTokenLayer
from tests.evaluation.encoders import (
    encoder_config,
    pair_classifier,
    pair_tokenizer,
    published_layout,
    save_encoder,
)

PAIRS = [("the sky is blue", "it rains"), ("a cat sat on a mat", "a cat sat")]


@pytest.mark.parametrize("position_ids", [True, False])
@pytest.mark.parametrize("mlm_head", [True, False])
def test_the_published_layout_gives_the_models_scores(
    tmp_path: Path, position_ids: bool, mlm_head: bool
) -> None:
    model = pair_classifier()
    path = published_layout(tmp_path / "a.ckpt", model, position_ids=position_ids, mlm_head=mlm_head)
    loaded, longest = load_checkpoint(path, heads=2)
    assert longest == 64
    inputs = pair_tokenizer()(*PAIRS[1], return_tensors="pt")
    with torch.no_grad():
        for ours, theirs in zip(model(**inputs)[:3], loaded(**inputs)[:3], strict=True):
            assert torch.equal(ours, theirs)


def test_a_checkpoint_needs_its_tokenizer_and_every_weight(tmp_path: Path) -> None:
    model = pair_classifier()
    path = published_layout(tmp_path / "a.ckpt", model, position_ids=True, mlm_head=True)
    with pytest.raises(ConfigError, match="width is 16"):
        load_function(FunctionOptions(str(path)))
    pair_tokenizer().save_pretrained(tmp_path / "tokens")
    (tmp_path / "tokens" / "config.json").write_text('{"model_type": "roberta"}')
    found = load_function(FunctionOptions(str(path), tokenizer=str(tmp_path / "tokens"), device="cpu"))(PAIRS)
    assert all(0 < one < 1 for one in found.scores)
    state = {f"base_model.{k.removeprefix('encoder.')}": v for k, v in model.state_dict().items()}
    torch.save({"state_dict": {**state, "base_model.base_model.x": torch.zeros(1)}}, path)
    with pytest.raises(ModelError, match=r"tri_layer|bin_layer|reg_layer"):
        load_checkpoint(path)
    torch.save({"state_dict": {"w": torch.zeros(1)}}, path)
    with pytest.raises(ModelError, match="not an alignment checkpoint"):
        load_checkpoint(path)


def test_our_own_folder_reads_back_equal(tmp_path: Path) -> None:
    model = pair_classifier()
    folder = save_pair_classifier(model, pair_tokenizer(), tmp_path / "m", max_length=40)
    loaded, longest = load_pair_classifier(folder)
    assert longest == 40
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    for head in ("nli", "bin", "reg"):
        assert len(load_function(FunctionOptions(str(folder), head=head, device="cpu"))(PAIRS).scores) == 2  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="entailment has no effect"):
        load_function(FunctionOptions(str(folder), entailment="0"))
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="not a whole alignment model"):
        load_pair_classifier(folder)


def test_any_nli_classifier_scores_by_its_entailment_label(tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
    config = encoder_config(num_labels=3, id2label=names, label2id={v: k for k, v in names.items()})
    model = RobertaForSequenceClassification(config).eval()
    save_encoder(model, tmp_path / "nli")
    found = load_function(FunctionOptions(str(tmp_path / "nli"), device="cpu"))
    assert found.max_length == 64
    inputs = pair_tokenizer()(*PAIRS[0], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits.softmax(-1)[0, 2]
    assert found(PAIRS).scores[0] == pytest.approx(float(expected), abs=1e-6)
    with pytest.raises(ConfigError, match="'bin' is not there"):
        load_function(FunctionOptions(str(tmp_path / "nli"), head="bin"))
    with pytest.raises(ConfigError, match="tokenizer has no effect"):
        load_function(FunctionOptions(str(tmp_path / "nli"), tokenizer="x"))


class MeanClassifier(RobertaForSequenceClassification):
    """A classifier that reads every token."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> object:
        hidden = self.roberta(input_ids, attention_mask=attention_mask).last_hidden_state
        return SimpleNamespace(logits=self.classifier(hidden.mean(1, keepdim=True)))


KINDS = [(RobertaForSequenceClassification, True), (MeanClassifier, False)]


@pytest.mark.parametrize(("kind", "short"), KINDS)
def test_the_last_layer_is_cut_short_only_where_the_scores_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, short: bool
) -> None:
    torch.manual_seed(0)
    model = kind(encoder_config(num_labels=2, id2label={0: "entailment", 1: "neutral"})).eval()
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(10)
    save_encoder(model, tmp_path / "nli")
    loader = "transformers.AutoModelForSequenceClassification.from_pretrained"
    monkeypatch.setattr(loader, kind.from_pretrained)  # type: ignore[attr-defined]
    found = load_function(FunctionOptions(str(tmp_path / "nli"), device="cpu"))
    used = found.score.args[0]  # type: ignore[attr-defined]
    assert isinstance(used.roberta.encoder.layer[-1], FirstTokenLayer) == short
    inputs = pair_tokenizer()(*PAIRS[0], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits.softmax(-1)[0, 0]
    assert found(PAIRS[:1]).scores[0] == pytest.approx(float(expected), abs=1e-6)


def test_unclear_labels_are_asked_for() -> None:
    plain = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    with pytest.raises(ConfigError, match="do not say"):
        entailment_label(plain, None, "x")
    assert entailment_label(plain, "2", "x") == 2
    assert entailment_label(plain, "LABEL_1", "x") == 1
    with pytest.raises(ConfigError, match="is not a label"):
        entailment_label(plain, "entailment", "x")
    assert entailment_label({0: "entailment", 1: "not_entailment"}, None, "x") == 0
    with pytest.raises(ConfigError, match="do not say"):
        entailment_label({0: "entailment", 1: "odd"}, None, "x")


def test_a_language_model_is_not_taken_for_a_classifier(tmp_path: Path) -> None:
    from transformers import RobertaModel

    save_encoder(RobertaModel(encoder_config()), tmp_path / "m")
    with pytest.raises(ModelError, match="missing and would be random"):
        load_function(FunctionOptions(str(tmp_path / "m"), device="cpu"))
