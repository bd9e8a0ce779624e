"""Sentence embeddings: mean-pooled hidden states of an encoder, of unit length."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import ModelError
from coalign.models.devices import pick_device
from coalign.models.files.places import locate

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

_LONGEST = 512


@dataclass(frozen=True)
class SentenceEncoder:
    """An encoder with its tokenizer. Make one with `load_encoder`.

    Attributes:
        max_length: tokens that are read of a text; the rest is cut off and counted in the log.
    """

    model: nn.Module
    tokenizer: Any
    max_length: int

    def encode(self, texts: Sequence[str], *, batch_size: int = 32) -> Tensor:
        """[n, D] float32 embeddings of unit length, on the CPU; texts of similar length share a batch."""
        device = next(self.model.parameters()).device
        full = (
            self.tokenizer(list(texts), add_special_tokens=True, verbose=False)["input_ids"] if texts else []
        )
        cut = sum(len(ids) > self.max_length for ids in full)
        if cut:
            logger.warning(
                "%d of %d texts are longer than %d tokens: only their beginning is embedded.",
                cut,
                len(full),
                self.max_length,
            )
        order = sorted(range(len(texts)), key=lambda row: len(full[row]))
        result = torch.zeros(len(texts), self.model.config.hidden_size)  # type: ignore[union-attr]
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            inputs = self.tokenizer(
                [texts[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            ).to(device)
            with torch.no_grad():
                hidden = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None].to(hidden.dtype)
            means = (hidden * mask).sum(1) / mask.sum(1)
            result[rows] = torch.nn.functional.normalize(means.float(), dim=-1).cpu()
        return result


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
