"""Reference log-probabilities from the cache are those of the live reference, and the cache knows what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coalign.core.errors import ConfigError
from coalign.models.adapters import disabled_adapter
from coalign.training.examples import prepare_examples
from coalign.training.options import TrainingOptions
from coalign.training.reference import with_reference
from tests.models.tiny import make_model
from tests.training.helpers import PAIRS, PAIRS_FREE, adapted, logged, make_examples, train


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_cached_equals_live(tmp_path: Path) -> None:
    losses = []
    for cached in (False, True):
        model, examples = adapted(), make_examples(16)
        if cached:
            with disabled_adapter(model):
                examples = with_reference(examples, model, folder=tmp_path, batch_tokens=64)
        trainer = train(model, PAIRS, tmp_path / "out", examples)
        losses.append([row["loss"] for row in logged(trainer)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_second_time_nothing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, examples = make_model("llama"), make_examples(6)
    first = with_reference(examples, model, folder=tmp_path)
    monkeypatch.setattr("coalign.training.reference.score_responses", None)
    second = with_reference(examples, model, folder=tmp_path)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.reference, other.reference, strict=True))


def test_key_knows_model_and_data(tmp_path: Path) -> None:
    model, examples = make_model("llama"), make_examples(6)
    with_reference(examples, model, folder=tmp_path)
    assert len(files(tmp_path)) == 1
    with_reference(make_examples(6, seed=1), model, folder=tmp_path)
    assert len(files(tmp_path)) == 2
    with torch.no_grad():
        next(iter(model.parameters()))[3, 5] += 1e-3
    with_reference(examples, model, folder=tmp_path)
    assert len(files(tmp_path)) == 3


def test_an_adapter_shares_its_base_s_file(tmp_path: Path) -> None:
    with_reference(make_examples(6), make_model("llama", scale=1.0), folder=tmp_path)
    model = adapted()
    with disabled_adapter(model):
        with_reference(make_examples(6), model, folder=tmp_path)
    assert len(files(tmp_path)) == 1


def test_full_model_needs_no_second_copy(tmp_path: Path) -> None:
    model, examples = make_model("llama", scale=1.0), make_examples(8)
    scored = with_reference(examples, model, folder=tmp_path)
    first = logged(train(model, PAIRS, tmp_path / "out", scored))[0]
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-6)


def test_live_reference_is_refused_where_there_is_none() -> None:
    options = TrainingOptions(reference_logps="live")
    with pytest.raises(ConfigError, match="test_pairs_free compares with no reference"):
        prepare_examples([], PAIRS_FREE, None, options)  # pyright: ignore[reportArgumentType]
