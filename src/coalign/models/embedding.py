"""Sentence embeddings of unit length: mean-pooled hidden states of an encoder, or those of a causal language model."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.core.errors import ModelError
from coalign.models.batching import length_batches
from coalign.models.devices import pick_device
from coalign.models.files.places import locate
from coalign.models.modules import evaluation, unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coalign.models.generation.generator import TransformersGenerator

logger = logging.getLogger(__name__)

_LONGEST = 512
_PASS = 4096
"""Tokens of a pass."""
Pooling = Literal["mean", "last"]


@dataclass(frozen=True)
class SentenceEncoder:
    """An encoder with its tokenizer. Make one with `load_encoder`.

    Attributes:
        max_length: tokens that are read of a text; the rest is cut off and counted in the log.
    """

    model: nn.Module
    tokenizer: Any
    max_length: int

    @property
    def size(self) -> int:
        """Coordinates of an embedding."""
        return self.model.config.hidden_size  # type: ignore[union-attr, return-value]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, whole."""
        return (
            self.tokenizer(list(texts), add_special_tokens=True, verbose=False)["input_ids"] if texts else []
        )

    def encode(self, texts: Sequence[str], *, batch_size: int = 32) -> Tensor:
        """[n, D] float32 embeddings of unit length, on the CPU; texts of similar length share a batch."""
        device = next(self.model.parameters()).device
        full = self.ids(texts)
        cut = sum(len(ids) > self.max_length for ids in full)
        if cut:
            logger.warning(
                "%d of %d texts are longer than %d tokens: only their beginning is embedded.",
                cut,
                len(full),
                self.max_length,
            )
        from coalign.models.scoring.products import inference

        order = sorted(range(len(texts)), key=lambda row: len(full[row]))
        result = torch.zeros(len(texts), self.size)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            inputs = self.tokenizer(
                [texts[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            ).to(device)
            with inference():
                hidden = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None].to(hidden.dtype)
            means = (hidden * mask).sum(1) / mask.sum(1)
            result[rows] = torch.nn.functional.normalize(means.float(), dim=-1).cpu()
        return result


@dataclass(frozen=True)
class CausalEncoder:
    """A causal language model as an encoder: what its last layer makes of a text, without the output layer. It was not
    trained for that; its states tell texts apart less well than an encoder's.

    Attributes:
        generator: model and tokenizer.
        pooling: `mean`: over the tokens of a text; `last`: at its last token, the only one that sees all of it.
    """

    generator: TransformersGenerator
    pooling: Pooling = "mean"

    @property
    def size(self) -> int:
        config: Any = unwrap(self.generator.model).config
        return config.get_text_config(decoder=True).hidden_size

    @property
    def max_length(self) -> int | None:
        return self.generator.context

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, as of a prompt without a chat template."""
        return [self.generator.encode(text, row) for row, text in enumerate(texts)]

    def passes(self, ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """Rows that are computed together: of similar length, as many as a batch may hold tokens."""
        most = min(self.generator.batch_tokens, _PASS)
        return length_batches(list(map(len, ids)), lambda longest: most // longest)

    def pooled(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """[n, D] float32 embeddings of texts as tokens, one at least each, on the CPU."""
        device = self.generator.device
        lengths = torch.tensor([len(one) for one in ids], device=device)
        rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True).to(
            device
        )
        mask = torch.arange(rows.shape[1], device=device) < lengths[:, None]
        from coalign.models.scoring.products import inference

        trunk: Any = unwrap(self.generator.model)
        with evaluation(self.generator.model), inference():
            hidden = trunk.base_model(
                rows, attention_mask=mask.long(), use_cache=False
            ).last_hidden_state.float()
            if self.pooling == "last":
                found = hidden[torch.arange(len(ids), device=device), lengths - 1]
            else:
                found = (hidden * mask[..., None]).sum(1) / lengths[:, None]
        return torch.nn.functional.normalize(found, dim=-1).cpu()

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[n, D] float32 embeddings of unit length, on the CPU."""
        ids = self.ids(texts)
        found = torch.zeros(len(ids), self.size)
        for rows in self.passes(ids):
            found[rows] = self.pooled([ids[row] for row in rows])
        return found


def load_encoder(name: str = "default-encoder", *, device: str = "auto") -> SentenceEncoder:
    """A sentence encoder by `default-encoder` (all-MiniLM-L6-v2), folder or hub id. Safetensors only.

    Raises:
        ModelError: it cannot be found or read.
    """
    from transformers import AutoModel, AutoTokenizer

    place = locate(name)
    where: dict[str, Any] = {"revision": place.revision, "local_files_only": place.cached_only}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place.path, **where)
        model = AutoModel.from_pretrained(place.path, use_safetensors=True, **where)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{place.name} cannot be loaded as a sentence encoder: {error}") from error
    return SentenceEncoder(
        model.to(pick_device(device)).eval(), tokenizer, _max_length(place.path, tokenizer)
    )


def _max_length(path: str, tokenizer: Any) -> int:
    """What the encoder was trained on (`sentence_bert_config.json`), else what its tokenizer allows."""
    stated = Path(path) / "sentence_bert_config.json"
    if stated.is_file():
        return int(json.loads(stated.read_text(encoding="utf-8"))["max_seq_length"])
    return min(int(tokenizer.model_max_length), _LONGEST)
