"""An encoder of text pairs with a two-way, a three-way and a regression head, and its training loss."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.core.errors import ModelError
from coalign.core.files import atomic_path, write_json
from coalign.evaluation.factuality.options import Head

IGNORED = -100
"""Label of a row or token that a head does not learn from."""
DESCRIPTION = "alignment.json"
"""File that marks a folder as a pair classifier and holds what its weights do not say."""


class PairLogits(NamedTuple):
    """What the heads say of B pairs.

    Attributes:
        bin: [B, 2] not aligned, aligned.
        tri: [B, 3] aligned, neutral, contradicting.
        reg: [B, 1] degree of alignment, in the unit of its target (0 to 1).
        mlm: [B, T, V] logits of masked tokens, where they were asked for.
    """

    bin: Tensor
    tri: Tensor
    reg: Tensor
    mlm: Tensor | None = None


class MaskedHead(nn.Module):
    """The masked language model's head: dense layer, GELU, norm, and the embedding matrix as output layer."""

    def __init__(self, width: int, embeddings: nn.Embedding, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width, eps=eps)
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings))
        self.tied = [embeddings]  # in a list, so that the weight is not a second parameter

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, H] to [B, T, V]."""
        return F.linear(self.layer_norm(F.gelu(self.dense(hidden))), self.tied[0].weight, self.bias)


class PairClassifier(nn.Module):
    """Encoder and heads (arXiv 2305.16739, section 3).

    The pair's state is the encoder's pooled output, or tanh of a dense layer on the first token where the encoder has
    no pooler. Dropout is applied to it before the two classifiers, not before the regression.

    Args:
        encoder: a Hugging Face encoder.
        masked: give it the head of masked language modelling, for training.
        dropout: probability.
    """

    def __init__(self, encoder: Any, *, masked: bool = False, dropout: float = 0.1) -> None:
        super().__init__()
        width = encoder.config.hidden_size
        self.encoder = encoder
        self.pooler = None if getattr(encoder, "pooler", None) is not None else nn.Linear(width, width)
        self.bin_layer = nn.Linear(width, 2)
        self.tri_layer = nn.Linear(width, 3)
        self.reg_layer = nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)
        eps = getattr(encoder.config, "layer_norm_eps", 1e-5)
        self.mlm_head = MaskedHead(width, encoder.get_input_embeddings(), eps) if masked else None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> PairLogits:
        """The logits of every head for inputs [B, T]."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types)
        hidden = output.last_hidden_state
        pooled = output.pooler_output if self.pooler is None else torch.tanh(self.pooler(hidden[:, 0]))
        return PairLogits(
            bin=self.bin_layer(self.dropout(pooled)),
            tri=self.tri_layer(self.dropout(pooled)),
            reg=self.reg_layer(pooled),
            mlm=self.mlm_head(hidden) if self.mlm_head is not None and self.training else None,
        )

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """What Transformers' trainer calls to recompute activations; `gradient_checkpointing_enable` in older versions."""
        self.encoder.activation_checkpointing_enable(**settings)

    def gradient_checkpointing_enable(self, **settings: Any) -> None:
        self.encoder.gradient_checkpointing_enable(**settings)


def head_scores(logits: PairLogits, head: Head) -> Tensor:
    """[B] alignment under one head: P(aligned) of the three-way head (`nli`) or of the two-way head (`bin`), or the
    regression's own number (`reg`), which no function bounds.
    """
    if head == "nli":
        return logits.tri.softmax(-1)[:, 0]
    return logits.bin.softmax(-1)[:, 1] if head == "bin" else logits.reg[:, 0]


def joint_sums(logits: PairLogits, labels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Summed losses and counted rows of the heads in the order mlm, bin, tri, reg.

    Cross-entropies of the two classifiers are divided by log 2 and log 3, so that chance costs 1; the regression's
    is the squared error; masked tokens cost plain cross-entropy. Rows and tokens labelled `IGNORED` count nowhere.

    Args:
        labels: `bin` [B], `tri` [B], `reg` [B] and, with masked tokens, `mlm` [B, T].

    Returns:
        Two vectors of four; a head without rows has sum 0.
    """
    zero = logits.reg.sum() * 0
    regressed = labels["reg"] != IGNORED
    errors = torch.where(regressed, logits.reg[:, 0] - labels["reg"], 0)
    sums = [
        zero if logits.mlm is None else _entropy(logits.mlm.flatten(0, 1), labels["mlm"].flatten()),
        _entropy(logits.bin, labels["bin"]) / math.log(2),
        _entropy(logits.tri, labels["tri"]) / math.log(3),
        (errors**2).sum(),
    ]
    none = torch.zeros((), dtype=torch.long, device=logits.reg.device)
    counts = [
        none if logits.mlm is None else (labels["mlm"] != IGNORED).sum(),
        (labels["bin"] != IGNORED).sum(),
        (labels["tri"] != IGNORED).sum(),
        regressed.sum(),
    ]
    return torch.stack(sums), torch.stack(counts)


def weigh(sums: Tensor, counts: Tensor, *, mlm_weight: float = 0.5) -> Tensor:
    """`w S_mlm / N_mlm + S_bin / N_bin + S_tri / N_tri + S_reg / N_reg`; a head without rows adds nothing.

    So a head's part is a mean over its own rows: one with a single row weighs as much as one with thirty.
    """
    return (head_weights(sums, mlm_weight) * sums / counts.clamp(min=1)).sum()


def head_weights(sums: Tensor, mlm_weight: float = 0.5) -> Tensor:
    """[4] weights of the heads in the order of `joint_sums`, of the type and on the device of `sums`."""
    return torch.tensor([mlm_weight, 1.0, 1.0, 1.0], dtype=sums.dtype, device=sums.device)


def _entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)


def save_pair_classifier(model: PairClassifier, tokenizer: Any, path: Path, *, max_length: int) -> Path:
    """Write weights (safetensors, without the masked head), the encoder's configuration and the tokenizer."""
    from safetensors.torch import save_file

    weights = {
        name: value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith("mlm_head.")
    }
    with atomic_path(path) as folder:
        folder.mkdir()
        save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
        model.encoder.config.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
        write_json(folder / DESCRIPTION, {"format": 1, "max_length": max_length})
    return path


def save_as_difference(
    model: PairClassifier, tokenizer: Any, path: Path, *, max_length: int, base: str, rank: int
) -> Path:
    """Write what training changed of the encoder `base` at low rank, and the heads: a few megabytes for a small encoder.

    `load_pair_classifier` needs the base; its weights are recognised by their checksum.
    """
    from safetensors.torch import save_file

    from coalign.models.files.defaults import sha256
    from coalign.models.files.differences import low_rank_difference
    from coalign.models.files.places import locate

    weights = {
        name: value.detach().cpu()
        for name, value in model.state_dict().items()
        if not name.startswith("mlm_head.")
    }
    old = {f"encoder.{name}": value for name, value in pretrained_encoder(base).state_dict().items()}
    place = Path(locate(base).path)
    with atomic_path(path) as folder:
        folder.mkdir()
        save_file(
            low_rank_difference(weights, old, rank),
            str(folder / "model.safetensors"),
            metadata={"format": "pt"},
        )
        model.encoder.config.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
        of = {"name": base, "sha256": sha256(place / "model.safetensors")}
        write_json(folder / DESCRIPTION, {"format": 2, "max_length": max_length, "base": of})
    return path


def load_pair_classifier(path: Path) -> tuple[PairClassifier, int]:
    """What `save_pair_classifier` or `save_as_difference` wrote, in evaluation mode, and its most tokens of a pair.

    Raises:
        ModelError: the folder is not one, is damaged, or is a difference to weights that this machine has not.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoConfig

    try:
        description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
        weights = load_file(str(path / "model.safetensors"))
        if (base := description.get("base")) is not None:
            weights = _added_to(base, weights, path)
        model = PairClassifier(new_encoder(AutoConfig.from_pretrained(str(path))))
        model.load_state_dict(weights)
        return model.eval(), int(description["max_length"])
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{path}: not a whole alignment model ({' '.join(str(error).split())[:300]})."
        ) from error


def _added_to(base: Mapping[str, str], difference: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    from coalign.models.files.defaults import sha256
    from coalign.models.files.differences import with_difference
    from coalign.models.files.places import locate

    weights = Path(locate(base["name"]).path) / "model.safetensors"
    if not weights.is_file() or sha256(weights) != base["sha256"]:
        raise ModelError(f"{path}: made for other weights of {base['name']} than those in {weights.parent}.")
    encoder = pretrained_encoder(base["name"])
    return with_difference({f"encoder.{name}": one for name, one in encoder.state_dict().items()}, difference)


def new_encoder(config: Any) -> Any:
    """An encoder with random weights."""
    from transformers import AutoModel

    return AutoModel.from_config(config)


def pretrained_encoder(name: str, revision: str | None = None) -> Any:
    """The encoder of a model folder or hub id, in float32. Safetensors only.

    Raises:
        ModelError: it cannot be found or read.
    """
    from transformers import AutoModel

    from coalign.models.files.loading import load_pretrained

    return load_pretrained(AutoModel, name, what="encoder", revision=revision, dtype=torch.float32)
