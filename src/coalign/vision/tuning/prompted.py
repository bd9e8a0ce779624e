"""An image-text model with trained prompts in its layers and adapters behind it; its own weights stay as they are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from coalign.core.errors import ConfigError, ModelError
from coalign.core.files import parse_json, write_json
from coalign.pairs.encoders import ImageTextEncoder

if TYPE_CHECKING:
    from typing import Self

logger = logging.getLogger(__name__)

WEIGHTS, SETTINGS = "prompts.safetensors", "prompts.json"
FILLER = "X"


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """What is trained beside a frozen model.

    Attributes:
        length: n, vectors in each prompt.
        depth: J, layers with a prompt of their own.
        context: words before a class name whose first n tokens the first prompt starts from, where it has as many;
            otherwise n fillers stand there and the prompt starts at random.
        ending: what stands behind a class name.
        adapters: bottlenecks behind both towers.
        reduction: width of the joint space over that of a bottleneck.
        image_ratio, text_ratio: share of the adapter's output in the feature.
    """

    length: int = 2
    depth: int = 9
    context: str = "a photo of a"
    ending: str = "."
    adapters: bool = True
    reduction: int = 4
    image_ratio: float = 0.1
    text_ratio: float = 0.2


def adapted(features: Tensor, down: Tensor, up: Tensor, ratio: float) -> Tensor:
    """`ratio * ReLU(up ReLU(down x)) + (1 - ratio) * x` of features that are not normalised.

    Args:
        features: [B, D].
        down: [D / r, D].
        up: [D, D / r].
    """
    mixed = torch.relu(torch.relu(features @ down.T) @ up.T)
    return ratio * mixed + (1 - ratio) * features


class Adapter(nn.Module):
    """Two linear maps without bias, a ReLU behind each, mixed into what goes in (`adapted`)."""

    def __init__(self, width: int, reduction: int, ratio: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, max(width // reduction, 1), bias=False)
        self.up = nn.Linear(max(width // reduction, 1), width, bias=False)
        self.ratio = ratio

    def forward(self, features: Tensor) -> Tensor:
        return adapted(features, self.down.weight, self.up.weight, self.ratio)


class PromptedEncoder(nn.Module):
    """Deep prompts in both towers of a frozen encoder, those of images made from those of texts, and adapters.

    Text prompts P_0 .. P_{J-1} [n, D_t] are parameters, image prompts V_j = U_j P_j with a linear map each. Where a tower
    has fewer than J layers it takes the first of them.

    Args:
        encoder: frozen; it is no part of the module's parameters.
        seed: of the random start.

    Raises:
        ConfigError: more prompts than layers, or a model without a text tower whose slots can be overwritten.
    """

    def __init__(self, encoder: ImageTextEncoder, settings: PromptSettings, *, seed: int = 0) -> None:
        super().__init__()
        self._held = [encoder]  # in a list, so that it is no module of this one
        self.settings = settings
        image_width, text_width = encoder.tower_widths
        if settings.depth > max(encoder.depths):
            raise ConfigError(
                f"prompt_depth: {settings.depth}, but the towers of {encoder.name} have {encoder.depths[0]} and"
                f" {encoder.depths[1]} layers, expected at most {max(encoder.depths)}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            prompts = [0.02 * torch.randn(settings.length, text_width) for _ in range(settings.depth)]
            self.projections = nn.ModuleList(nn.Linear(text_width, image_width) for _ in prompts)
            if settings.adapters:
                self.image_adapter = Adapter(encoder.width, settings.reduction, settings.image_ratio)
                self.text_adapter = Adapter(encoder.width, settings.reduction, settings.text_ratio)
        start = self._context_ids()
        if len(start) >= settings.length:
            words = encoder.model.text_model.get_input_embeddings().weight[start[: settings.length]]
            prompts[0] = words.detach().float().cpu().clone()
            self.words = settings.context
        else:
            self.words = " ".join([FILLER] * settings.length)
        self.prompts = nn.ParameterList(nn.Parameter(one) for one in prompts)
        self.to(encoder.device)
        self._assert_slots()

    @property
    def encoder(self) -> ImageTextEncoder:
        return self._held[0]

    def image(self, pixels: Tensor) -> Tensor:
        """[B, D] features of images [B, 3, H, W], not normalised."""
        depth = self.encoder.depths[0]
        vectors = [u(p) for u, p in zip(self.projections, self.prompts, strict=True)]
        features = self.encoder.image(pixels, vectors[:depth]).pooled
        return self.image_adapter(features) if self.settings.adapters else features

    def text(self, ids: Tensor) -> Tensor:
        """[K, D] features of class texts [K, L] as `class_ids` gives them, not normalised."""
        features = self.encoder.text(ids, list(self.prompts)[: self.encoder.depths[1]]).pooled
        return self.text_adapter(features) if self.settings.adapters else features

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Features of images and of class texts: [B, D], [K, D]."""
        return self.image(pixels), self.text(ids)

    def class_ids(self, names: Sequence[str]) -> Tensor:
        """[K, L] token ids of "context name ending", cut to the longest.

        Raises:
            ConfigError: a text is longer than the model reads.
        """
        texts = [f"{self.words} {plain_name(one)}{self.settings.ending}" for one in names]
        if self.encoder.cut(texts):
            long = next(one for one in texts if self.encoder.cut([one]))
            raise ConfigError(f"the class text {long!r} is longer than {self.encoder.name} reads")
        return self.encoder.ids(texts)

    def _context_ids(self) -> list[int]:
        encoder, context = self.encoder, self.settings.context
        ids = encoder.tokenizer(context, add_special_tokens=False)["input_ids"] if context else []
        return [
            one for one in ids if one != encoder.tokenizer.unk_token_id or encoder.tokenizer.unk_token is None
        ]

    def _assert_slots(self) -> None:
        """The words in front of a class name fill the slots, so that no name is overwritten."""
        filled = len(self.encoder.tokenizer(self.words, add_special_tokens=False)["input_ids"])
        if filled < self.settings.length:
            raise ConfigError(
                f"context: {self.words!r} has {filled} tokens, expected at least the {self.settings.length} of"
                " prompt_length, else the prompt overwrites the class name"
            )

    def save(self, folder: Path, **facts: Any) -> None:
        """Write the trained part: `prompts.safetensors` and `prompts.json` with settings, base model and `facts`."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: one.detach().cpu().contiguous() for name, one in self.state_dict().items()},
            folder / WEIGHTS,
        )
        write_json(folder / SETTINGS, {"base_model": self.encoder.name, **asdict(self.settings), **facts})

    @classmethod
    def load(cls, folder: Path, encoder: ImageTextEncoder | None = None, *, device: str = "auto") -> Self:
        """From a folder, or a run folder (its `model/`).

        Args:
            encoder: the base model; None loads the one that the folder names.

        Raises:
            ModelError: there are no prompts, or they belong to a model of other sizes.
        """
        from safetensors.torch import load_file

        folder = folder / "model" if (folder / "model" / SETTINGS).exists() else folder
        if not (folder / SETTINGS).exists():
            raise ModelError(
                f"{folder} holds no {SETTINGS}, expected the folder of a run that trained prompts."
            )
        said: Any = parse_json((folder / SETTINGS).read_text(encoding="utf-8"))
        kept = {name: said[name] for name in PromptSettings.__dataclass_fields__}
        encoder = encoder or ImageTextEncoder.load(said["base_model"], device=device)
        module = cls(encoder, PromptSettings(**kept))
        try:
            module.load_state_dict(load_file(folder / WEIGHTS))
        except (RuntimeError, OSError) as error:
            raise ModelError(
                f"{folder / WEIGHTS} does not fit {encoder.name}: {str(error).splitlines()[-1].strip()}"
            ) from error
        return module.eval()


def plain_name(name: str) -> str:
    """A class name as a text says it: underscores are spaces."""
    return " ".join(name.replace("_", " ").split())
