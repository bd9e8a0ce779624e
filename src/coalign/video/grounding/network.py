"""The aligner: a transformer over the frames of a video, and one over its sentences that looks at the frames."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from coalign.core.errors import ModelError
from coalign.core.files import atomic_path, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KIND = "sentence-aligner"


@dataclass(frozen=True)
class AlignerSizes:
    """Sizes of an aligner.

    Attributes:
        visual_width, text_width: of the frozen features.
        width: D of the transformer; `joint` D_p of the space in which frames and sentences are compared.
        positions: most sentences of a video that keep their order.
    """

    visual_width: int
    text_width: int
    width: int = 256
    joint: int = 64
    encoder_layers: int = 3
    decoder_layers: int = 3
    heads: int = 8
    feed_forward: int = 2048
    dropout: float = 0.1
    positions: int = 1024


def sinusoids(count: int, width: int) -> Tensor:
    """[count, width] fixed positions: sines at even, cosines at odd places, wavelengths from 2 pi to 10000 x 2 pi."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(count)[:, None] * rates
    table = torch.zeros(count, width)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()[:, : width // 2]
    return table


class Layer(nn.Module):
    """A post-norm transformer layer whose positions are added to queries and keys, never to values.

    Args:
        crosses: it also looks at a memory.
    """

    def __init__(self, sizes: AlignerSizes, *, crosses: bool) -> None:
        super().__init__()
        width = sizes.width

        def attention() -> nn.MultiheadAttention:
            return nn.MultiheadAttention(width, sizes.heads, dropout=sizes.dropout, batch_first=True)

        self.own = attention()
        self.cross = attention() if crosses else None
        self.inner = nn.Sequential(
            nn.Linear(width, sizes.feed_forward),
            nn.ReLU(),
            nn.Dropout(sizes.dropout),
            nn.Linear(sizes.feed_forward, width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if crosses else 2))
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(
        self,
        states: Tensor,
        place: Tensor,
        padding: Tensor,
        memory: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Tensor:
        """[B, N, D].

        Args:
            place: positions, to be added to `states`.
            padding: [B, N] True on padding.
            memory: values [B, T, D], keys [B, T, D], and padding [B, T].
        """
        asked = states + place
        seen, _ = self.own(asked, asked, states, key_padding_mask=padding, need_weights=False)
        states = self.norms[0](states + self.dropout(seen))
        if self.cross is not None and memory is not None:
            values, keys, hidden = memory
            seen, _ = self.cross(states + place, keys, values, key_padding_mask=hidden, need_weights=False)
            states = self.norms[1](states + self.dropout(seen))
        return self.norms[-1](states + self.dropout(self.inner(states)))


class Aligner(nn.Module):
    """Sentences and frames of a batch of videos to unit vectors whose inner products say which belong together.

    Paper, section 3 (NSVA). Weights begin as a truncated normal of deviation 0.02, biases as 0.
    """

    def __init__(self, sizes: AlignerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.width
        self.visual_in = nn.Sequential(nn.Linear(sizes.visual_width, width), nn.LayerNorm(width))
        self.text_in = nn.Sequential(nn.Linear(sizes.text_width, width), nn.LayerNorm(width))
        self.encoder = nn.ModuleList(Layer(sizes, crosses=False) for _ in range(sizes.encoder_layers))
        self.decoder = nn.ModuleList(Layer(sizes, crosses=True) for _ in range(sizes.decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.places = nn.Embedding(sizes.positions, width)
        self.visual_out = nn.Linear(width, sizes.joint)
        self.text_out = nn.Linear(width, sizes.joint)
        self.apply(_start)

    def forward(
        self,
        visual: Tensor,
        visual_padding: Tensor,
        text: Tensor,
        text_padding: Tensor,
        *,
        ordered: bool = True,
    ) -> tuple[Tensor, list[Tensor]]:
        """Unit vectors of the frames [B, T, D_p], and of the sentences after each decoder layer [B, S, D_p].

        Args:
            visual: [B, T, D_v] frozen features of the frames, and text: [B, S, D_t] of the sentences.
            visual_padding, text_padding: [B, T], [B, S] True on padding. A video has a frame and a sentence at least.
            ordered: the sentences are in the order in which they are said, and their positions count.
        """
        frames = self.visual_in(visual)
        place = sinusoids(frames.shape[1], frames.shape[2]).to(frames)
        for layer in self.encoder:
            frames = layer(frames, place, visual_padding)
        states = self.text_in(text)
        where: Tensor = torch.zeros_like(states[:1])
        if ordered:
            numbers = torch.arange(states.shape[1], device=states.device)
            where = self.places(numbers.clamp(max=self.sizes.positions - 1))[None]
        memory = (frames, frames + place, visual_padding)
        found = []
        for layer in self.decoder:
            states = layer(states, where, text_padding, memory)
            found.append(nn.functional.normalize(self.text_out(self.norm(states)), dim=-1))
        return nn.functional.normalize(self.visual_out(frames), dim=-1), found

    def similarity(self, batch: Mapping[str, Tensor], *, ordered: bool) -> Tensor:
        """[B, S, T] cosines of each video's sentences with its own frames, after the last layer.

        Args:
            batch: `visual`, `visual_padding`, `text`, `text_padding`.
        """
        frames, found = self(
            batch["visual"], batch["visual_padding"], batch["text"], batch["text_padding"], ordered=ordered
        )
        return found[-1] @ frames.transpose(1, 2)


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.MultiheadAttention):
        nn.init.trunc_normal_(module.in_proj_weight, std=0.02)
        nn.init.zeros_(module.in_proj_bias)
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def save_aligner(model: Aligner, folder: Path, **settings: Any) -> Path:
    """Write weights, sizes and `settings` (order, encoder, frames a second) to a folder, whole or not at all."""
    from safetensors.torch import save_file

    with atomic_path(folder) as temporary:
        temporary.mkdir()
        weights = {name: one.detach().cpu().contiguous() for name, one in model.state_dict().items()}
        save_file(weights, str(temporary / WEIGHTS), metadata={"format": "pt"})
        write_json(temporary / CONFIG, {"model_type": KIND, **settings, "sizes": asdict(model.sizes)})
    return folder


def load_aligner(folder: Path) -> tuple[Aligner, dict[str, Any]]:
    """An aligner and its settings, from the folder that `save_aligner` wrote or from a run folder.

    Raises:
        ModelError: there is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = folder / "model" if (folder / "model" / CONFIG).exists() else folder
    try:
        settings = json.loads((place / CONFIG).read_text(encoding="utf-8"))
        if settings.get("model_type") != KIND:
            raise ValueError(f"model_type {settings.get('model_type')!r}")
        model = Aligner(AlignerSizes(**settings["sizes"]))
        model.load_state_dict(load_file(str(place / WEIGHTS)))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: no aligner that can be loaded ({str(error).splitlines()[0]}).",
            hint="A run folder of a training, or its folder `model`, is needed.",
        ) from error
    return model.eval(), settings
