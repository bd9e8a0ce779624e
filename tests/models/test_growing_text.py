"""Texts tokenised as they grow, and the texts of single tokens, against the tokenizer on whole texts."""

from __future__ import annotations

import itertools
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from coalign.models.generation.growing_text import GrowingText, TextEncoder, TokenTexts
from tests.data.tokenizers import CHATML, byte_tokenizer, metaspace_tokenizer

TEXTS = st.text(alphabet="the skybluÀé東🙂 \n.,1", max_size=40)


BYTES, METASPACE = byte_tokenizer(CHATML), metaspace_tokenizer(CHATML)
BOTH = pytest.mark.parametrize("tokenizer", [BYTES, METASPACE], ids=["bytes", "metaspace"])


@BOTH
@settings(max_examples=150)
@given(prompt=TEXTS, parts=st.lists(TEXTS, max_size=5))
def test_a_growing_text_has_the_tokens_of_the_whole(tokenizer, prompt, parts):
    encoder = TextEncoder(tokenizer)
    text = GrowingText(encoder, prompt)
    for grown in itertools.accumulate(parts, initial=""):
        assert text.ids(grown) == encoder.whole(prompt + grown)
    assert text.verify("".join(parts))


def merging_tokenizer():
    """Merges across words, as no tokenizer should."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(["it is so it is so it is so in 2024 we've paid"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=None)


def test_a_tokenizer_that_merges_words_is_asked_whole_texts():
    encoder = TextEncoder(merging_tokenizer())
    assert not encoder.by_words
    assert GrowingText(encoder, "it is").ids(" so") == encoder.whole("it is so")


def test_a_wrong_split_is_noticed_at_the_end(caplog):
    encoder = TextEncoder(merging_tokenizer())
    encoder.by_words = True  # as if the trials had not shown it
    text = GrowingText(encoder, "")
    with caplog.at_level(logging.WARNING):
        assert not text.verify("it is so it is so")
    assert "merges words" in caplog.text
    assert not encoder.by_words
    assert text.ids("it is so") == encoder.whole("it is so")


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=150)
@given(TEXTS, TEXTS)
def test_token_texts_add_up(before, text):
    texts = TokenTexts(BYTES, ids_of(BYTES, before), frozenset(BYTES.all_special_ids))
    parts = [texts.push(one) for one in ids_of(BYTES, text)]
    assert "".join(one or "" for one in parts) == text
    assert all("\ufffd" not in one for one in parts if one)


@BOTH
def test_a_leading_space_is_kept_and_special_tokens_have_no_text(tokenizer):
    context = ids_of(tokenizer, "the sky")
    texts = TokenTexts(tokenizer, context, frozenset(tokenizer.all_special_ids))
    ids = ids_of(tokenizer, "the sky is")[len(context) :]
    assert "".join(texts.push(one) or "" for one in ids) == " is"
    assert texts.push(tokenizer.eos_token_id) == ""
