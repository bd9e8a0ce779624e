"""States and outputs of sequence classifiers that read the last token, as reward models are: prompts shared, exact.

Transformers finds the last token as the last one that is not padding by its id, which is one too early where a text
ends with the id that pads. Here lengths say where a text ends, whatever its tokens are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from coalign.models.modules import unwrap
from coalign.models.scoring import engine
from coalign.models.scoring.probing import OnceAModel, agree, probe_ids
from coalign.models.types import Responses

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class SequenceStates:
    """What a classifier makes of B texts.

    Attributes:
        states: [B, D] hidden states at the last token of each text: what the head reads.
        outputs: [B, L] what the head gives for them.
    """

    states: Tensor
    outputs: Tensor


def reads_last_token(model: nn.Module) -> bool:
    """Whether a classifier reads the last token: Transformers calls the head of such models `score`."""
    return hasattr(unwrap(model), "score")


def last_attended(attention_mask: Tensor) -> Tensor:
    """[B] the place of the last token of each row that the mask [B, T] lets through, padded on either side."""
    return attention_mask.long().cumsum(1).argmax(1)


def sequence_states(
    model: nn.Module,
    responses: Responses,
    *,
    batch_tokens: int | None = None,
    path: engine.Path = "auto",
    on_batch: Callable[[int], None] | None = None,
) -> SequenceStates:
    """States and outputs at the end of responses to prompts. Gradients flow when autograd is on.

    Args:
        model: a classifier that `reads_last_token`, bare or wrapped by PEFT, DDP or FSDP.
        responses: prompts, which may be empty, and their responses; equal prompts are computed once.
        batch_tokens: most tokens in one forward pass; None runs everything in one.
        path: `auto` probes the model once; `packed` and `padded` force a path.
        on_batch: called with the number of responses done after each pass.

    Returns:
        Float32 (float64 for a float64 model), in the order of `responses`.
    """
    from coalign.models.scoring.products import fast_products

    compute = _packed if engine.resolve_path(model, path, responses, _can_share) == "packed" else _padded
    pieces: list[tuple[Tensor, Tensor] | None] = [None] * len(responses.response_ids)
    for rows in engine.plan_passes(responses, batch_tokens):
        with fast_products(not torch.is_grad_enabled()):  # a training has them around its whole step
            states, outputs = compute(model, engine.select_rows(responses, rows))
        for row, *piece in zip(rows, states, outputs, strict=True):
            pieces[row] = (piece[0], piece[1])
        if on_batch:
            on_batch(len(rows))
    made = [piece for piece in pieces if piece is not None]
    return SequenceStates(torch.stack([one for one, _ in made]), torch.stack([one for _, one in made]))


def _packed(model: nn.Module, responses: Responses) -> tuple[Tensor, Tensor]:
    from coalign.models.scoring.shared_prefix import pack_whole

    bare = unwrap(model)
    row = pack_whole(responses, next(bare.parameters()).device)
    with engine.shared_attention(bare), _watched_head(bare) as seen:
        model(**engine.packed_inputs(row))
        return _wide(seen["states"][0, row.ends]), _wide(seen["outputs"][0, row.ends])


def _padded(model: nn.Module, responses: Responses) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    prompts = [responses.prompt_ids[index] for index in responses.prompt_index]
    rows = [prompt + ids for prompt, ids in zip(prompts, responses.response_ids, strict=True)]
    places = torch.arange(len(rows), device=device)
    inputs = engine.padded_inputs(rows, device)
    inputs |= engine.picture_inputs(model, responses, inputs["input_ids"].shape[1])
    ends = last_attended(inputs["attention_mask"])
    with _watched_head(unwrap(model)) as seen:
        model(**inputs, use_cache=False)
        return _wide(seen["states"][places, ends]), _wide(seen["outputs"][places, ends])


@contextlib.contextmanager
def _watched_head(bare: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What the head reads and gives at every token in the block's forward pass, `states` and `outputs`. The pass goes
    through the whole model, as wrappers for several processes need it; what Transformers pools of it is not used.
    """
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        seen.update(states=given[0], outputs=output)

    config: Any = bare.config.get_text_config()  # type: ignore[operator, union-attr]
    before = config.pad_token_id
    config.pad_token_id = 0 if before is None else before  # without one Transformers refuses several rows
    handle = bare.score.register_forward_hook(keep)  # type: ignore[operator, union-attr]
    try:
        yield seen
    finally:
        handle.remove()
        config.pad_token_id = before


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


@OnceAModel
def _can_share(model: nn.Module) -> bool:
    """Try both paths on a few tokens."""
    bare: Any = unwrap(model)
    before = bare.config._attn_implementation
    ids = probe_ids(bare, 5, 8).tolist()
    probe = Responses([ids[0], ids[1][:3]], [ids[2][:1], ids[3], ids[4][:5]], [0, 0, 1])
    good = agree(
        bare,
        lambda: _padded(bare, probe)[0],
        lambda: _packed(bare, probe)[0],
        lacks="share prompts between responses",
        differs="its states differ when a prompt is shared",
        instead="every text is computed whole",
    )
    if not good and bare.config._attn_implementation != before:
        bare.set_attn_implementation(before)
    return good
