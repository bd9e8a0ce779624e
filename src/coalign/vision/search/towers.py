"""Two towers, of pictures and of texts, whose tokens are projected and pooled by their maximum."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from coalign.core.errors import ModelError
from coalign.core.files import parse_json, write_json
from coalign.models.files.loading import assert_whole, load_with_info
from coalign.models.files.places import locate
from coalign.models.quiet import no_load_report

if TYPE_CHECKING:
    from PIL import Image

WEIGHTS, SETTINGS = "heads.safetensors", "towers.json"


@dataclass(frozen=True, kw_only=True)
class TowerSettings:
    """What two towers need to know beside their files.

    Attributes:
        width: D of the joint space.
        height, image_width: pixels that pictures are resized to.
        text_length: tokens of a text, the rest is cut.
        pool_mask: whether padding is left out of the maximum over a text's tokens.
        parts: learnt part queries; 0: global features alone.
        mean, std: of the pixels' channels.
    """

    width: int = 768
    height: int = 384
    image_width: int = 128
    text_length: int = 100
    pool_mask: bool = False
    parts: int = 0
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


def max_pooled(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B, D] maximum over tokens [B, N, D], of those alone where `mask` [B, N] is True."""
    if mask is not None:
        tokens = tokens.masked_fill(~mask.bool()[..., None], float("-inf"))
    return tokens.amax(1)


class TwoTowers(nn.Module):
    """An image encoder and a text encoder of Transformers, a projection behind each, and heads.

    Args:
        image_tower: with `pixel_values` to `last_hidden_state` (ViT, DeiT, a CLIP's vision tower).
        text_tower: with `input_ids`, `attention_mask` to `last_hidden_state` (BERT and its like).
        tokenizer: of the texts; fast, so that it says where words begin.
    """

    def __init__(self, image_tower: Any, text_tower: Any, tokenizer: Any, settings: TowerSettings) -> None:
        super().__init__()
        for tower in (image_tower, text_tower):
            if getattr(tower, "pooler", None) is not None:
                tower.pooler = (
                    None  # tokens are pooled here; theirs may be random, where a checkpoint has none
                )
        self.image_tower, self.text_tower = image_tower, text_tower
        self.tokenizer, self.settings = tokenizer, settings
        wide = text_tower.config.hidden_size
        self.image_projection = nn.Linear(image_tower.config.hidden_size, settings.width)
        self.text_projection = nn.Linear(wide, settings.width)
        self.word_head = nn.Sequential(
            nn.Linear(wide, wide),
            nn.GELU(),
            nn.LayerNorm(wide),
            nn.Linear(wide, text_tower.config.vocab_size),
        )
        if settings.parts:
            self.queries = nn.Parameter(0.02 * torch.randn(settings.parts, settings.width))
            self.part_attention = nn.MultiheadAttention(
                settings.width, _heads(settings.width), batch_first=True
            )

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """[B, N, D] projected tokens of pictures [B, 3, H, W]; positions are interpolated to their size."""
        states = self.image_tower(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        return self.image_projection(states)

    def text_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, L, D] projected tokens of texts [B, L]."""
        return self.text_projection(self.text_tower(input_ids=ids, attention_mask=mask).last_hidden_state)

    def word_logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, L, V] of the words behind masked tokens, from the text alone."""
        return self.word_head(self.text_tower(input_ids=ids, attention_mask=mask).last_hidden_state)

    def pooled(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Global features [B, D], and with part queries those of the parts [B, K D].

        Args:
            mask: [B, N] of a text; pictures have none.
        """
        kept = mask if self.settings.pool_mask else None
        found = max_pooled(tokens, kept)
        if not self.settings.parts:
            return found, None
        asked = self.queries.expand(len(tokens), -1, -1)
        hidden = None if mask is None else ~mask.bool()
        parts, _ = self.part_attention(asked, tokens, tokens, key_padding_mask=hidden, need_weights=False)
        return found, parts.flatten(1)

    def image(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.pooled(self.image_tokens(pixels))

    def text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.pooled(self.text_tokens(ids, mask), mask)

    def forward(self, part: str, *inputs: Tensor) -> Any:
        """One of the methods by name, so that wrappers of several processes see what is computed."""
        return getattr(self, part)(*inputs)

    def encode(self, texts: list[str]) -> Any:
        """Token ids and mask [B, L] of texts, filled up to the longest."""
        return self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.settings.text_length, return_tensors="pt"
        )

    def pixels(self, picture: Image.Image) -> Tensor:
        """[3, H, W] of a picture, stretched to the size of the towers."""
        import numpy as np

        one = self.settings
        resized = picture.resize((one.image_width, one.height), resample=3)
        values = torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255).permute(2, 0, 1)
        mean, std = torch.tensor(one.mean), torch.tensor(one.std)
        return (values - mean[:, None, None]) / std[:, None, None]

    def save(self, folder: Path, **facts: Any) -> None:
        """Write both towers as Transformers reads them, and beside them heads and settings."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        self.image_tower.save_pretrained(folder / "image")
        self.text_tower.save_pretrained(folder / "text")
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # a fast tokenizer writes down how its last batch was cut and filled up
            backend.no_truncation()
            backend.no_padding()
        self.tokenizer.save_pretrained(folder / "text")
        heads = {
            name: one.detach().cpu().contiguous()
            for name, one in self.state_dict().items()
            if not name.startswith(("image_tower.", "text_tower."))
        }
        save_file(heads, folder / WEIGHTS)
        write_json(folder / SETTINGS, asdict(self.settings) | facts)

    @classmethod
    def load(cls, folder: Path) -> TwoTowers:
        """From a folder, or a run folder (its `model/`).

        Raises:
            ModelError: no towers are there, or a head is missing.
        """
        from safetensors.torch import load_file
        from transformers import AutoTokenizer

        folder = folder / "model" if (folder / "model" / SETTINGS).exists() else folder
        if not (folder / SETTINGS).exists():
            raise ModelError(
                f"{folder} holds no {SETTINGS}, expected the folder of a run that trained two towers."
            )
        said: Any = parse_json((folder / SETTINGS).read_text(encoding="utf-8"))
        settings = TowerSettings(**{name: said[name] for name in TowerSettings.__dataclass_fields__})
        image, text = (_tower(str(folder / one), "a tower") for one in ("image", "text"))
        made = cls(image, text, AutoTokenizer.from_pretrained(folder / "text"), settings)
        heads = made.load_state_dict(load_file(folder / WEIGHTS), strict=False)
        lacking = [one for one in heads.missing_keys if not one.startswith(("image_tower.", "text_tower."))]
        if lacking:
            raise ModelError(f"{folder / WEIGHTS} lacks {lacking[0]}, expected every head.")
        return made.eval()


def open_towers(image: str, text: str, settings: TowerSettings, *, seed: int) -> TwoTowers:
    """Towers by folder or hub id, with new heads; the vision or text tower of a CLIP where one is named.

    Raises:
        ModelError: one cannot be loaded.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(text)
    towers = _tower(image, "an image encoder"), _tower(text, "a text encoder")
    vision, words = getattr(towers[0], "vision_model", towers[0]), getattr(towers[1], "text_model", towers[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TwoTowers(vision, words, tokenizer, settings)


def _tower(name: str, what: str) -> Any:
    """A model of Transformers; all of its weights must be there but those of a pooler, which is not used.

    Raises:
        ModelError: it cannot be loaded, or weights are missing.
    """
    from transformers import AutoModel

    place = locate(name)
    with no_load_report():
        model, info = load_with_info(AutoModel, place, what, dtype=torch.float32)
    missing = [one for one in info["missing_keys"] if "pooler" not in one]
    assert_whole(place, {"missing_keys": missing}, f"Give the folder or hub id of {what}.")
    return model


def unit(features: Tensor) -> Tensor:
    """Features of unit length, in float32 at least: half precision loses the smallest lengths."""
    return normalize(features if features.dtype.itemsize >= 4 else features.float(), dim=-1)


def _heads(width: int) -> int:
    return next(one for one in (8, 4, 2, 1) if width % one == 0)
