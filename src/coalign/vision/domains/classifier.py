"""An image classifier seen as blocks: maps between the blocks can be mixed with other styles and changed elementwise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from coalign.core.errors import ModelError
from coalign.vision.domains.styles import Style, elementwise, mix_styles, style_of

if TYPE_CHECKING:
    from coalign.vision.domains.draws import Draw

MIXED = (0, 1)
"""After which blocks, counted from 0, maps may be mixed. Source: official code."""


class ElementwiseLayers(nn.Module):
    """Layers `x <- w_k * x + b_k` of one weight and bias an entry; at the start w is 1 and b is 0.

    Args:
        shape: of one value.
        rectified: with a ReLU between them (`styles.elementwise`).
    """

    def __init__(self, layers: int, shape: Sequence[int], *, rectified: bool = True) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(layers, *shape))
        self.biases = nn.Parameter(torch.zeros(layers, *shape))
        self.rectified = rectified

    def forward(self, values: Tensor) -> Tensor:
        return elementwise(values, self.weights, self.biases, rectified=self.rectified)


@dataclass
class _Pass:
    """What one forward pass does with its maps."""

    draw: Draw | None = None
    styles: Sequence[Style] | None = None
    maps: Sequence[nn.Module] | None = None
    seen: list[Tensor] | None = None
    features: list[Tensor] = field(default_factory=list)


class BlockClassifier(nn.Module):
    """Any image classifier whose backbone is a chain of stages or layers in an `nn.ModuleList`, and whose head is its
    `classifier` (ResNet, RegNet, ConvNeXt, Swin, ViT, CLIP and most others of Transformers).

    The stages are taken as four blocks (fewer where there are fewer; of twelve layers three make one). What leaves a block
    is caught by a hook, so that the model runs as it always does. Batch normalisation keeps its statistics, in training
    too.

    Args:
        network: called with pixels [B, 3, H, W], gives logits [B, classes], bare or as `.logits`.

    Raises:
        ModelError: no such chain, or no such head.
    """

    def __init__(self, network: nn.Module, blocks: int = 4) -> None:
        super().__init__()
        self.network = network
        if not isinstance(getattr(network, "classifier", None), nn.Module):
            raise ModelError(
                f"{type(network).__name__} has no head called `classifier`, so its features cannot be told from its classes.",
                hint="Take an image classifier of Transformers, such as microsoft/resnet-18.",
            )
        self._pass: _Pass | None = None
        ends = _ends(network, blocks)
        for number, module in enumerate(ends):
            module.register_forward_hook(lambda _, __, output, number=number: self._after(number, output))
        self.blocks = len(ends)
        self.head.register_forward_pre_hook(lambda _, inputs: self._before_head(inputs[0]))

    @property
    def head(self) -> nn.Module:
        return self.network.classifier  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def extractor(self) -> dict[str, nn.Parameter]:
        """The parameters below the head, by name in sorted order."""
        head = {id(one) for one in self.head.parameters()}
        return {
            name: one
            for name, one in sorted(self.named_parameters())
            if id(one) not in head and one.requires_grad
        }

    def train(self, mode: bool = True) -> BlockClassifier:
        """Training mode for all but batch normalisation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm):
                module.eval()
        return self

    def forward(
        self,
        pixels: Tensor,
        draw: Draw | None = None,
        styles: Sequence[Style] | None = None,
        maps: Sequence[nn.Module] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features before the head and logits.

        Args:
            pixels: [B, 3, H, W].
            draw: also compute a view of every picture in another style: results are [2B, ...], the views last.
            styles: of each block in `MIXED`, to draw the other styles from; by default those of the batch itself.
            maps: one module a block, applied to what leaves it, in both paths, after the styles are mixed.

        Returns:
            ([B or 2B, D], [B or 2B, classes]).
        """
        with self._doing(_Pass(draw, styles, maps)) as now:
            output = self.network(pixels)
        logits = output if isinstance(output, Tensor) else output.logits
        return now.features[-1].flatten(1), logits

    def maps_of(self, pixels: Tensor) -> list[Tensor]:
        """What leaves each block, [B, C, H, W] or [B, N, C], without gradient."""
        with torch.no_grad(), self._doing(_Pass(seen=[])) as now:
            self.network(pixels)
        assert now.seen is not None
        return now.seen

    @contextlib.contextmanager
    def _doing(self, now: _Pass) -> Iterator[_Pass]:
        self._pass = now
        try:
            yield now
        finally:
            self._pass = None

    def _before_head(self, features: Tensor) -> None:
        if self._pass is not None:
            self._pass.features.append(features)

    def _after(self, block: int, output: Any) -> Any:
        now = self._pass
        if now is None:
            return output
        maps, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        if now.seen is not None:
            now.seen.append(maps.detach())
        if now.draw is not None and now.draw.block == block:
            others = (style_of(maps) if now.styles is None else now.styles[block]).take(
                torch.from_numpy(now.draw.rows).to(maps.device)
            )
            shares = torch.as_tensor(now.draw.shares, dtype=maps.dtype, device=maps.device)
            maps = torch.cat([maps, mix_styles(maps, others, shares)])
        if now.maps is not None:
            maps = now.maps[block](maps)
        return maps if rest is None else (maps, *rest)


def adaptive_maps(classifier: BlockClassifier, pixels: Tensor, layers: int) -> nn.ModuleList:
    """Elementwise layers for what leaves each block, one weight and bias a cell. At the start they change nothing: where
    all of a block's outputs are positive or 0 there are ReLUs between the layers, elsewhere none.

    Args:
        pixels: [B, 3, H, W] of the size that all later ones have.
    """
    return nn.ModuleList(
        ElementwiseLayers(layers, tuple(maps.shape[1:]), rectified=bool((maps >= 0).all()))
        for maps in classifier.maps_of(pixels)
    ).to(pixels.device)


def assert_mixable(classifier: BlockClassifier, pixels: Tensor) -> None:
    """Maps behind the first blocks must have a style.

    Raises:
        ModelError: they have one cell.
    """
    for number, maps in enumerate(classifier.maps_of(pixels)[: len(MIXED)], start=1):
        try:
            style_of(maps)
        except ValueError as error:
            size = f"{pixels.shape[-1]} x {pixels.shape[-2]}"
            raise ModelError(
                f"Behind block {number} {error}: pictures of {size} pixels are too small for the model."
            ) from error


def _ends(network: nn.Module, blocks: int) -> list[nn.Module]:
    """The last module of every block: the stages, or layers, of the list with the most parameters."""

    def size(modules: nn.ModuleList) -> int:
        return sum(one.numel() for one in modules.parameters())

    head = set(network.classifier.modules())  # type: ignore[union-attr]
    chains = [
        one
        for one in network.modules()
        if isinstance(one, nn.ModuleList) and len(one) > 1 and one not in head
    ]
    if not chains:
        raise ModelError(
            f"{type(network).__name__} has no list of stages or layers, so no blocks to work on."
        )
    chain = max(chains, key=size)
    count = min(blocks, len(chain))
    return [chain[(number + 1) * len(chain) // count - 1] for number in range(count)]
