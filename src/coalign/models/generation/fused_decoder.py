"""The layers of Llama and its kin as few large operations, for decoding on a CPU.

Norms' gains are part of the weights that follow them, queries, keys and values are one product, and the pairs of
coordinates that rotary embeddings turn lie side by side, so that a turn is one complex product. Every number is what the
model's own modules give, up to rounding; `coalign.models.generation.fused_rows` probes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache
from transformers.activations import SiLUActivation
from transformers.cache_utils import DynamicLayer

from coalign.models.files.file_pages import (
    Ranges,
    files_worth_releasing,
    release_file_pages,
    return_freed_memory,
)
from coalign.models.files.quantized import is_packed
from coalign.models.generation.one_row.available import MOST_THREADS
from coalign.models.generation.packed_linear import BlockLinear, PackedLinear, Rooms

if TYPE_CHECKING:
    from torch import Tensor

Attend = Callable[[int, "Tensor", "Tensor", "Tensor"], "Tensor"]
"""Number of the layer, queries [N, H, D], keys and values [N, K, D] of new tokens to what they see [N, H D]."""

_TRUNK = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MULTIPLIERS = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")
_HEAD_PART = 4096
"""Rows of the output layer that are read at a time."""
_SILU = (nn.SiLU, SiLUActivation)
_STATIC_TURNS = {"default", "linear", "llama3", "yarn"}


@dataclass(frozen=True)
class _Layer:
    """One layer.

    Attributes:
        first, second: [I] gains of its norms; None where they are part of the weights.
        gains: [H + K, D] of the norms of queries and keys where it has them, the scale of attention included.
        turns: whether places count.
    """

    first: Tensor | None
    second: Tensor | None

    qkv: PackedLinear
    out: PackedLinear
    gate: PackedLinear
    up: PackedLinear
    down: PackedLinear
    gains: Tensor | None
    turns: bool


class FusedDecoder:
    """A causal language model as packed weights: a copy of all but the embedding, which does not follow the model.

    Args:
        model: one for which `is_llama_like` holds.
        dtype: of the weights; what flows between layers is float32 at least.
        blocks: the layers' weights in blocks of 4-bit numbers (`BlockLinear`), where they can be cut into blocks.
        passing: layers are made for every pass anew and not kept, for a few passes in little memory.

    Attributes:
        heads, kv_heads, head_size: of attention.
        wide: format of the stream between layers, of keys and of values.
        layers, gain, head: weights; the last two are the last norm's and the output layer.
        head_bias: [V] of the output layer, as the model has it.
        eps: of all norms.
    """

    def __init__(
        self, model: nn.Module, dtype: torch.dtype, *, blocks: bool = False, passing: bool = False
    ) -> None:
        bare: Any = model
        trunk, first = bare.model, bare.model.layers[0].self_attn
        self.head_size = int(first.head_dim)
        self.heads = first.q_proj.out_features // self.head_size
        self.kv_heads = first.k_proj.out_features // self.head_size
        self.dtype = dtype
        self.wide = torch.float64 if dtype == torch.float64 else torch.float32
        self._blocks = blocks
        self.eps = torch.tensor(_eps(trunk.norm), dtype=self.wide)
        self._rotary = trunk.rotary_emb
        self._turns = torch.empty(0, self.head_size // 2, dtype=torch.complex64)
        self._embedding = trunk.embed_tokens.weight.detach()
        files = files_worth_releasing(bare.parameters())
        self._rooms = Rooms() if blocks and torch.get_num_threads() <= MOST_THREADS else None
        release_file_pages(bare.parameters(), files)
        self.gain = _gain(trunk.norm)
        weight, self.head_bias = _in_format(
            bare.lm_head, dtype, files
        )  # the largest first, while little else is there
        self.head = PackedLinear(weight, _or_none(self.head_bias), dtype)
        del weight
        made = _Made(trunk.layers, self._layer, files)
        self.layers: Sequence[_Layer] = made if passing else list(made)
        self._shift = 0.0

    def run(self, ids: Tensor, places: Tensor, attend: Attend, last: Tensor | None = None) -> Tensor:
        """[N or L, V] logits, float32 at least, after tokens.

        Args:
            ids, places: [N] new tokens and the place of each in its text.
            attend: keeps keys and values, and lets queries see.
            last: [L] those whose logits are wanted; all by default.
        """
        stream = self.embedded(ids)
        turns = self.turns_at(places)
        for number, layer in enumerate(self.layers):
            states = layer.qkv(self._normed(stream, layer.first)).to(self.wide)
            states = states.view(len(ids), -1, self.head_size)
            known = self.heads + self.kv_heads
            turned = self._turned(states[:, :known], layer, turns)
            seen = attend(number, turned[:, : self.heads], turned[:, self.heads :], states[:, known:])
            if last is not None and number == len(self.layers) - 1:
                seen, stream = seen[last], stream[last]
            stream = layer.out.added_to(stream, seen.to(self.dtype))
            x = self._normed(stream, layer.second)
            stream = layer.down.added_to(stream, layer.up.times(x, layer.gate.swish(x)))
        logits = self.head(self._normed(stream, self.gain)).to(self.wide)
        return logits + self._shift if self._shift else logits

    def centre(self, level: float) -> None:
        """Let the head compute logits less a whole number near `level`, which is added again to its numbers in float32.

        Half-precision products are rounded in proportion to their size: near the largest logit little is lost then.
        """
        self._shift = float(round(level))
        self.head.bias = (self.head_bias - self._shift).to(self.dtype)

    def embedded(self, ids: Tensor) -> Tensor:
        """[N, I] what flows into the first layer."""
        return F.embedding(ids, self._embedding).to(self.wide)

    def _normed(self, stream: Tensor, gain: Tensor | None = None) -> Tensor:
        normed = self._unit(stream)
        return (normed if gain is None else normed * gain).to(self.dtype)

    def _unit(self, states: Tensor) -> Tensor:
        """States [..., I] over their root mean square; `F.rms_norm` takes three times as long for few rows."""
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        return states * torch.addcmul(self.eps, length, length, value=1 / states.shape[-1]).rsqrt_()

    def _turned(self, states: Tensor, layer: _Layer, turns: Tensor) -> Tensor:
        """Queries and keys [N, H + K, D], normed and turned."""
        if layer.gains is not None:
            states = self._unit(states) * layer.gains
        if not layer.turns:
            return states
        pairs = torch.view_as_complex(states.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turns).flatten(-2)

    def turns_at(self, places: Tensor) -> Tensor:
        """[N, 1, D / 2] turns of the pairs at these places."""
        most = int(places.max()) + 1
        if most > len(self._turns):
            count = max(most, 2 * len(self._turns), 256)
            row = torch.arange(count)[None]
            cos, sin = self._rotary(torch.empty(1, dtype=self.wide), row)
            self._turns = torch.complex(*(one[0, :, : self.head_size // 2] for one in (cos, sin)))
        return self._turns[places][:, None]

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        first, second = _gain(layer.input_layernorm), _gain(layer.post_attention_layernorm)
        scale, gains = float(attention.scaling), None
        if hasattr(attention, "q_norm"):
            query, key = (_paired(_gain(one), 1) for one in (attention.q_norm, attention.k_norm))
            gains = torch.cat([(query * scale).expand(self.heads, -1), key.expand(self.kv_heads, -1)])
            gains, scale = gains.to(self.wide), 1.0
        kinds = ((attention.q_proj, self.heads, scale), (attention.k_proj, self.kv_heads, 1.0))
        turned = [
            (_paired(w, heads) * by, _paired(b, heads) * by)
            for one, heads, by in kinds
            for w, b in [_parts(one)]
        ]
        (gate, gate_bias), (up, up_bias) = _parts(mlp.gate_proj), _parts(mlp.up_proj)
        weights, biases = zip(*turned, _parts(attention.v_proj), strict=True)
        qkv = torch.cat(weights)
        if not self._blocks:  # gains would spread the numbers of a block
            qkv, gate, up = qkv * first, gate * second, up * second
        return _Layer(
            first if self._blocks else None,
            second if self._blocks else None,
            self._packed(qkv, torch.cat(biases)),
            self._packed(*_parts(attention.o_proj)),
            self._packed(gate, gate_bias),
            self._packed(up, up_bias),
            self._packed(*_parts(mlp.down_proj)),
            gains,
            bool(getattr(attention, "use_rope", True)),
        )

    def _packed(self, weight: Tensor, bias: Tensor) -> PackedLinear:
        if self._blocks and BlockLinear.fits(weight):
            return BlockLinear(weight, _or_none(bias), self._rooms)
        return PackedLinear(weight, _or_none(bias), self.dtype)


class _Made(Sequence[_Layer]):
    """Layers, each made when it is come to; what the model's own took of memory meanwhile is given back.

    Args:
        make: from a layer of the model.
        files: that weights are mapped from.
    """

    def __init__(self, layers: Any, make: Callable[[Any], _Layer], files: Ranges) -> None:
        self._layers, self._make, self._files = layers, make, files

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, place: Any) -> Any:
        layer = self._layers[place]
        made = self._make(layer)
        if self._files:
            release_file_pages(layer.parameters(), self._files)
            return_freed_memory()
        return made


def is_llama_like(model: nn.Module) -> bool:
    """Whether a causal language model is built of the parts that `FusedDecoder` knows, on a CPU and untouched: no
    adapters, no hooks, no quantised weights. That it computes the same is for a probe to say.
    """
    bare: Any = model
    trunk: Any = getattr(bare, "model", None)
    config = getattr(bare, "config", None)
    if {name for name, _ in bare.named_children()} != {"model", "lm_head"} or type(
        bare.lm_head
    ) is not nn.Linear:
        return False
    if {name for name, _ in trunk.named_children()} != _TRUNK or not len(trunk.layers):
        return False
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind not in _STATIC_TURNS or any(hasattr(config, one) for one in _MULTIPLIERS):
        return False
    if any(one._forward_hooks or one._forward_pre_hooks for one in bare.modules()):
        return False
    if {type(one) for one in DynamicCache(config=config).layers} != {DynamicLayer}:  # sliding windows
        return False
    whole = all(
        one.device.type == "cpu" and one.is_floating_point() and not is_packed(one)
        for one in bare.parameters()
    )
    return whole and type(trunk.embed_tokens) is nn.Embedding and all(map(_is_known, trunk.layers))


def _is_known(layer: Any) -> bool:
    if {name for name, _ in layer.named_children()} != _LAYER:
        return False
    attention, mlp = layer.self_attn, layer.mlp
    names = {name for name, _ in attention.named_children()}
    if names - _HEAD_NORMS != _ATTENTION or names & _HEAD_NORMS not in (set(), _HEAD_NORMS):
        return False
    size = attention.head_dim
    if names & _HEAD_NORMS and {attention.q_norm.weight.shape, attention.k_norm.weight.shape} != {(size,)}:
        return False
    parts = [getattr(attention, name) for name in _ATTENTION]
    parts += [getattr(mlp, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    return all(type(one) is nn.Linear for one in parts) and isinstance(mlp.act_fn, _SILU)


def _in_format(linear: nn.Linear, dtype: torch.dtype, files: Ranges) -> tuple[Tensor, Tensor]:
    """As `_parts`, with the weight in `dtype`, and little of what lies in a file in memory at a time."""
    own = linear.weight.detach()
    bias = own.new_zeros(len(own), dtype=_wide(own[:0]).dtype) if linear.bias is None else _wide(linear.bias)
    if own.dtype == dtype:
        return own, bias
    weight = torch.empty_like(own, dtype=dtype)
    for one, part in zip(weight.split(_HEAD_PART), own.split(_HEAD_PART), strict=True):
        one.copy_(part)
        release_file_pages([part], files)
    return weight, bias


def _parts(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight [O, I] and bias [O] (zeros where there is none), in float32 at least."""
    weight = _wide(linear.weight)
    return weight, weight.new_zeros(len(weight)) if linear.bias is None else _wide(linear.bias)


def _or_none(bias: Tensor) -> Tensor | None:
    return bias if bool(bias.any()) else None


def _wide(parameter: Tensor) -> Tensor:
    return parameter.detach() if parameter.dtype == torch.float64 else parameter.detach().float()


def _gain(norm: Any) -> Tensor:
    """[H] what an RMS norm multiplies with."""
    return _wide(norm.weight)


def _eps(norm: Any) -> float:
    return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)


def _paired(values: Tensor, heads: int) -> Tensor:
    """Rows of `heads` heads, with those of coordinates i and i + D / 2 side by side."""
    whole = values.unflatten(0, (heads, 2, -1)).transpose(1, 2)
    return whole.flatten(0, 2)
