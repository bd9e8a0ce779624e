"""The small recogniser and any other CTC model of Transformers behind one interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coalign.core.errors import CoalignError, ModelError
from coalign.core.runs import Run
from coalign.speech.ctc import recogniser as recognisers
from coalign.speech.ctc.recogniser import load_recogniser
from coalign.speech.ctc.recogniser_options import RecogniserOptions, open_recogniser
from coalign.speech.ctc.training import Clip, CTCTrainingOptions, ctc_losses, train_recogniser
from coalign.speech.ctc.vocabulary import Vocabulary
from tests.speech.tiny import TEXTS, tiny_recogniser, tone


def test_padding_changes_nothing() -> None:
    found = tiny_recogniser()
    short, long = tone(0.5, 1), tone(0.9, 2)
    with torch.no_grad():
        logits, lengths = found.logits([short, long])
        alone, own = found.logits([short])
    assert lengths[0] == own[0]
    assert torch.allclose(logits[0, : lengths[0]], alone[0, : own[0]], atol=1e-5)


def test_a_streaming_recogniser_sees_no_future() -> None:
    """Its recurrent layers; features are normalised over the utterance before them."""
    (layer,) = tiny_recogniser(streaming=True).model.layers
    assert len(layer) == 1
    assert not layer[0].bidirectional
    assert len(tiny_recogniser().model.layers[0]) == 2


def test_very_short_audio_has_a_frame() -> None:
    found = tiny_recogniser()
    assert found.logps(np.zeros(10, np.float32)).shape == (1, len(found.vocabulary))


def test_long_audio_in_chunks_has_every_frame_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tiny_recogniser()
    samples = tone(5.3)
    whole = found.logps(samples)
    monkeypatch.setattr(recognisers, "CHUNK_SECONDS", 1.0)
    monkeypatch.setattr(recognisers, "CONTEXT_SECONDS", 0.5)
    parts = found.logps(samples)
    assert abs(len(parts) - len(whole)) <= 1
    assert np.allclose(np.exp(parts).sum(-1), 1, atol=1e-4)


def test_save_and_load(tmp_path: Path) -> None:
    found = tiny_recogniser()
    again = load_recogniser(str(found.save(tmp_path / "model")), device="cpu")
    samples = tone(0.7)
    assert np.allclose(found.logps(samples), again.logps(samples), atol=1e-6)
    assert again.vocabulary.tokens == found.vocabulary.tokens
    assert again.frame_seconds == found.frame_seconds == 0.02
    files = {"config.json", "model.safetensors", "vocab.json", "preprocessor_config.json"}
    assert {path.name for path in (tmp_path / "model").iterdir()} >= files


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert"])
def test_models_of_transformers(kind: str, tmp_path: Path) -> None:
    import transformers

    vocabulary = Vocabulary.of_texts(TEXTS)
    config_class, model_class = (getattr(transformers, f"{kind}{part}") for part in ("Config", "ForCTC"))
    config = config_class(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 4), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, num_feat_extract_layers=2, pad_token_id=0,
    )  # fmt: skip
    model_class(config).save_pretrained(tmp_path)
    vocabulary.save(tmp_path)
    found = load_recogniser(str(tmp_path), device="cpu")
    assert found.samples_per_frame == 20
    logps = found.logps(tone(0.3))
    assert logps.shape[1] == len(vocabulary)
    assert len(logps) == pytest.approx(0.3 * 16_000 / 20, abs=2)
    with torch.no_grad():
        _, lengths = found.logits([tone(0.2), tone(0.3)])
    assert lengths.tolist() == sorted(lengths.tolist())


def test_what_is_no_recogniser_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_recogniser(str(tmp_path / "absent"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="not a CTC recogniser"):
        load_recogniser(str(tmp_path))


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    tiny_recogniser().save(tmp_path / "model")
    Vocabulary.of_texts(["abcdefghijklmnopqrstuvwxyzäöü"]).save(tmp_path / "model")
    with pytest.raises(ModelError, match="the vocabulary has"):
        load_recogniser(str(tmp_path / "model"))


def test_a_new_recogniser_depends_on_the_seed_alone() -> None:
    options = RecogniserOptions(device="cpu", hidden_size=8, layers=1, streaming=True)
    torch.manual_seed(5)
    first = open_recogniser(options, TEXTS, 1)
    torch.manual_seed(6)
    second = open_recogniser(options, TEXTS, 1)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_ctc_losses_are_sums_over_a_sequence() -> None:
    logits = torch.zeros(2, 4, 3, dtype=torch.float64)
    losses = ctc_losses(logits, torch.tensor([4, 1]), [[1], [1, 2]], 0)
    paths = 4 * 5 / 2  # stretches of frames that emit the token
    assert losses[0] == pytest.approx(-np.log(paths * 3.0**-4))
    assert losses[1] == 0, "no alignment exists"


def clips() -> list[Clip]:
    good = [Clip(f"c{i}", TEXTS[i], samples=tone(1.0, i)) for i in range(4)]
    return [
        *good,
        Clip("silent", TEXTS[0], samples=np.zeros(16_000, np.float32)),
        Clip("short", TEXTS[0], samples=tone(0.1)),
        Clip("empty", "", samples=tone(0.5)),
    ]


def test_training_counts_what_it_leaves_out(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.artefacts.mkdir()
    found = tiny_recogniser()
    before = [one.clone() for one in found.model.parameters()]
    options = CTCTrainingOptions(max_steps=3, batch_size=2, save_steps=0)
    fitted, left_out = train_recogniser(found, clips(), options, run)
    assert fitted.steps == 3
    reasons = ("silent", "text longer than the audio", "no text in the vocabulary")
    assert dict(left_out) == dict.fromkeys(reasons, 1)
    assert any(not torch.equal(a, b) for a, b in zip(before, found.model.parameters(), strict=True))
    with pytest.raises(CoalignError, match="1 x silent"):
        train_recogniser(found, clips()[4:5], options, run)
