"""Language models that train from scratch in seconds, and sampling from them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from coalign.models.generation.sampling import sample_tokens
from coalign.models.modules import cache_argument

M = TypeVar("M", bound=nn.Module)


class TinyGRU(nn.Module):
    """A recurrent language model with the interface of a Hugging Face causal language model.

    Rows are padded on the right, so the mask changes nothing that is read. `past_key_values` is the hidden state.
    """

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.gru = nn.GRU(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Tensor | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V] of `input_ids` [B, T], or those of the last `logits_to_keep` positions."""
        hidden, state = self.gru(self.embedding(input_ids), past_key_values)
        logits = self.head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        return CausalLMOutputWithPast(logits=logits, past_key_values=state if use_cache else None)


def tiny_transformer(
    vocabulary: int, width: int, layers: int, heads: int, *, positions: int = 128, spread: float = 0.02
) -> LlamaForCausalLM:
    """A decoder-only transformer (Llama's blocks) with random weights.

    Args:
        positions: its context in tokens.
        spread: standard deviation of the random weights. Llama's is the default; at a width of 64 a model that starts
            from 0.1 learns to look back at once, and with 0.02 stays long on a plateau.
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=8 * width // 3,  # as many weights as a plain MLP of four times the width
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=positions,
        initializer_range=spread,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def seeded(make: Callable[[], M], seed: int) -> M:
    """A model whose random weights come from `seed` alone; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def stream(seed: int, purpose: str) -> torch.Generator:
    """The random numbers of one purpose under a seed: other purposes may be added without changing them."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{purpose}".encode()))


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    generator: torch.Generator,
    *,
    n: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    end: int | None = None,
) -> list[list[list[int]]]:
    """For each prompt `n` responses, token ids, the `end` token included where it was sampled.

    All prompts together in one batch; they must have the same length.

    Raises:
        ValueError: prompts of different lengths.
    """
    if len({len(prompt) for prompt in prompts}) > 1:
        raise ValueError("the prompts differ in length, expected one length")
    training = model.training
    model.eval()
    tokens = torch.tensor([list(prompt) for prompt in prompts]).repeat_interleave(n, dim=0)
    rows: list[Tensor] = []
    past: Any = None
    alive = torch.ones(len(tokens), dtype=torch.bool)
    name = cache_argument(model)
    for _ in range(max_new_tokens):
        output = model(input_ids=tokens, use_cache=True, logits_to_keep=1, **{name: past})
        past = getattr(output, name)
        uniforms = torch.rand(len(tokens), generator=generator, dtype=torch.float64)
        drawn = sample_tokens(output.logits[:, -1], uniforms, temperature)
        rows.append(torch.where(alive, drawn, -1))
        alive &= drawn != end if end is not None else True
        tokens = drawn[:, None]
        if not alive.any():
            break
    model.train(training)
    flat = [[token for token in row if token >= 0] for row in torch.stack(rows, dim=1).tolist()]
    return [flat[start : start + n] for start in range(0, len(flat), n)]
