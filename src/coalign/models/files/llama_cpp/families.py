"""Families of models that llama.cpp computes as Transformers does: what its file says of each, and what it cannot say.

llama.cpp knows a family by its architecture and has much of it built in (which layers slide, what scales attention). A
model that differs in one of these would load and answer something else, so it is refused here by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Field = tuple[str, Any]
"""Name of a `GGUFWriter.add_...` method without its beginning, and what it is given."""


@dataclass(frozen=True)
class Family:
    """A family as llama.cpp has it.

    Attributes:
        architecture: its name in the file.
        activation: the one that is built in.
        interleaved: rotary positions turn neighbours and not halves, so rows of the query and key projections change places.
        norm_offset: added to the weights of norms, which Transformers keeps as differences from 1.
        refused: what of a configuration cannot be said in the file, in words.
        fields: further entries of the file.
    """

    architecture: str
    activation: str = "silu"
    interleaved: bool = False
    norm_offset: float = 0.0
    refused: Callable[[Any], Iterable[str]] = lambda config: ()
    fields: Callable[[Any], Iterable[Field]] = lambda config: ()


def _slides(config: Any) -> Iterator[str]:
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        yield "layers with a sliding window"


def _gemma(every: int) -> Callable[[Any], Iterator[str]]:
    """Checks of a family in which each layer but every so manieth slides."""

    def refused(config: Any) -> Iterator[str]:
        kinds = [
            "full_attention" if (n + 1) % every == 0 else "sliding_attention"
            for n in range(config.num_hidden_layers)
        ]
        if list(config.layer_types) != kinds:
            yield f"another order of sliding and full layers than each {every}th full"
        if config.query_pre_attn_scalar != config.head_dim:
            yield f"query_pre_attn_scalar {config.query_pre_attn_scalar} beside heads of {config.head_dim}"

    return refused


def _gemma3(config: Any) -> Iterator[str]:
    yield from _gemma(6)(config)
    local = config.rope_parameters["sliding_attention"]
    if local.get("rope_type", "default") != "default" or local["rope_theta"] != 10_000:
        yield "rotary positions of the sliding layers other than base 10000"
    if getattr(config, "attn_logit_softcapping", None):
        yield "capped attention scores"
    if getattr(config, "use_bidirectional_attention", False):
        yield "attention in both directions"


def _caps(config: Any) -> Iterator[Field]:
    if config.attn_logit_softcapping:
        yield "attn_logit_softcapping", config.attn_logit_softcapping
    if config.final_logit_softcapping:
        yield "final_logit_softcapping", config.final_logit_softcapping
    yield "sliding_window", config.sliding_window


def _gemma2(config: Any) -> Iterator[str]:
    yield from _gemma(2)(config)
    if not config.attn_logit_softcapping or not config.final_logit_softcapping:
        yield "scores that are not capped"


FAMILIES = {
    "llama": Family("llama", interleaved=True),
    "mistral": Family("llama", interleaved=True),
    "qwen2": Family("qwen2", refused=_slides),
    "qwen3": Family("qwen3", refused=_slides),
    "gemma2": Family(
        "gemma2", activation="gelu_pytorch_tanh", norm_offset=1.0, refused=_gemma2, fields=_caps
    ),
    "gemma3_text": Family(
        "gemma3",
        activation="gelu_pytorch_tanh",
        norm_offset=1.0,
        refused=_gemma3,
        fields=lambda config: [("sliding_window", config.sliding_window)],
    ),
}
"""Transformers' `model_type` to what llama.cpp has. SmolLM and SmolLM2 are Llama."""


def family_of(config: PretrainedConfig, name: str) -> Family:
    """The family of a model.

    Raises:
        ModelError: it is of another, or differs from it in something that the file cannot say.
    """
    kind: str = config.model_type
    if kind not in FAMILIES:
        raise ModelError(
            f"{name}: models of the family {kind} are not written as GGUF; {', '.join(FAMILIES)} are.",
            hint="Export it as safetensors, and try llama.cpp's convert_hf_to_gguf.py on the folder.",
        )
    family = FAMILIES[kind]
    found = [*family.refused(config), *_unusual(family, config)]
    if found:
        raise ModelError(
            f"{name}: llama.cpp has no {kind} with {', nor with '.join(found)}, so a GGUF file would give other answers."
        )
    return family


def rope(config: Any) -> dict[str, Any]:
    """How positions are turned: of all layers, or of the full ones where there are two kinds."""
    found = config.rope_parameters
    return found.get("full_attention", found)


def _unusual(family: Family, config: Any) -> Iterator[str]:
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation != family.activation:
        yield f"the activation {activation}"
    kind = rope(config).get("rope_type", "default")
    known = {"default", "linear", "llama3"} if family.architecture == "llama" else {"default", "linear"}
    if kind not in known:
        yield f"positions scaled by {kind}"
    if rope(config).get("partial_rotary_factor", 1.0) != 1.0:
        yield "positions in a part of each head"
    if getattr(config, "quantization_config", None):
        yield "weights that are quantised already"


def described(family: Family, config: Any) -> Iterator[Field]:
    """What the file says of the model's shape, in the order of the format's own list."""
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    turned = rope(config)
    yield "vocab_size", config.vocab_size
    yield "context_length", context(config)
    yield "embedding_length", config.hidden_size
    yield "block_count", config.num_hidden_layers
    yield "feed_forward_length", config.intermediate_size
    yield "head_count", heads
    yield "head_count_kv", getattr(config, "num_key_value_heads", None) or heads
    yield "key_length", size
    yield "value_length", size
    yield "layer_norm_rms_eps", config.rms_norm_eps
    yield "rope_dimension_count", size
    yield "rope_freq_base", float(turned["rope_theta"])
    if turned.get("rope_type") == "linear":
        from gguf import RopeScalingType

        yield "rope_scaling_type", RopeScalingType.LINEAR
        yield "rope_scaling_factor", float(turned["factor"])
    yield from family.fields(config)


def context(config: Any) -> int:
    """Tokens within which llama.cpp computes the same: of a Mistral with a sliding window, which its architecture has not,
    the window.
    """
    length = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None) if config.model_type == "mistral" else None
    return min(length, window) if window else length
