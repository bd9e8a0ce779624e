"""Tiny encoders of text pairs and their tokenizer, and checkpoints in the published layout."""

from __future__ import annotations

import collections
import pathlib
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, RobertaConfig

from coalign.evaluation.factuality.model import PairClassifier, new_encoder
from coalign.evaluation.factuality.pair_scoring import PairScorer

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_TEXT = "the a red blue box holds four five coins . , ? ! yes no sky is sea grass green it rains snow cat dog sat on mat"
WORDS = tuple(_TEXT.split())
VOCABULARY = 120
SCALE = 10.0


def pair_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """Words, and RoBERTa's frame of a pair: `<s> a </s></s> b </s>`."""
    words = [*SPECIAL, *WORDS]
    words += [f"w{i}" for i in range(VOCABULARY - len(words))]
    core = Tokenizer(WordLevel({one: i for i, one in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    core.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    given: Any = dict(zip(names, SPECIAL, strict=True))
    given |= {"model_max_length": max_length, "model_input_names": ["input_ids", "attention_mask"]}
    return PreTrainedTokenizerFast(tokenizer_object=core, **given)


def save_encoder(model: Any, folder: Path) -> Path:
    """A model and the tokenizer of pairs in one folder."""
    model.save_pretrained(folder)
    pair_tokenizer().save_pretrained(folder)
    return folder


def encoder_config(**changes: Any) -> RobertaConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    tables = {"vocab_size": VOCABULARY, "max_position_embeddings": 66, "type_vocab_size": 1}
    return RobertaConfig(**{**sizes, **ids, **tables, "layer_norm_eps": 1e-5, **changes})


def pair_classifier(seed: int = 2, **changes: Any) -> PairClassifier:
    """Random weights, larger than usual, so that scores differ."""
    torch.manual_seed(seed)
    model = PairClassifier(new_encoder(encoder_config(**changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(SCALE)
    return model


def published_layout(
    path: Path, model: PairClassifier, *, position_ids: bool, mlm_head: bool, **extra: Any
) -> Path:
    """A file with the keys of the published checkpoints, besides the weights what Lightning leaves in one."""
    state = collections.OrderedDict(
        (name.replace("encoder.", "base_model.", 1) if name.startswith("encoder.") else name, value)
        for name, value in model.state_dict().items()
        if not name.endswith("position_ids")
    )
    if position_ids:
        state["base_model.embeddings.position_ids"] = torch.arange(66)[None]
    if mlm_head:
        shapes = {"bias": (VOCABULARY,), "dense.weight": (16, 16), "decoder.weight": (VOCABULARY, 16)}
        state |= {f"mlm_head.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    kept = {"best_model_path": pathlib.PurePosixPath("a/b"), "score": torch.ones(1)}
    content = {
        "epoch": 2, "global_step": 10, "pytorch-lightning_version": "1.7.7", "state_dict": state, "loops": {},
        "callbacks": {"checkpoint": kept}, "lr_schedulers": [{}], "hparams_name": "kwargs",
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 1e-5}]}],
        "hyper_parameters": {"model": "roberta-base", "using_pretrained": False}, **extra,
    }  # fmt: skip
    torch.save(content, path)
    return path


class Counting:
    """A `PairScorer` whose score of a pair comes from a table, and which counts what it computes."""

    def __init__(self, scorer: PairScorer) -> None:
        self.scorer = scorer
        self.rows = 0
        self.inner = scorer.score
        scorer.score = self.count

    def count(self, inputs: Any) -> torch.Tensor:
        self.rows += len(inputs["input_ids"])
        return self.inner(inputs)
