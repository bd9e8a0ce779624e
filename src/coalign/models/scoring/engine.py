"""The scoring engine: log-probabilities of responses under a policy and a reference.

Two paths give the same numbers. The packed path computes every prompt once for all its responses, without padding,
and never keeps logits. The padded path runs any causal language model as Transformers runs it. `score_responses`
takes the packed path where a short probe on the model shows that it agrees with the padded one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.data.media.prompts import batch_inputs
from coalign.models.devices import share_cores
from coalign.models.modules import unwrap
from coalign.models.scoring.probing import OnceAModel, agree, probe_ids
from coalign.models.types import ResponseLogps, Responses

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.data.media.prompts import PicturePrompt
    from coalign.models.scoring.shared_prefix import PackedRow, PackedTexts

Path = Literal["auto", "packed", "padded"]
DEFAULT_BATCH_TOKENS = 4096


def score_responses(
    model: torch.nn.Module,
    responses: Responses,
    *,
    batch_tokens: int | None = None,
    path: Path = "auto",
    temperature: float = 1.0,
    on_batch: Callable[[int], None] | None = None,
) -> ResponseLogps:
    """Log-probability of every token of responses given their prompts; nothing is summed or averaged.

    Gradients flow when autograd is on; wrap in `torch.no_grad()` otherwise.

    Args:
        model: a Hugging Face causal language model, bare or wrapped by PEFT, DDP or FSDP. Left in its training or
            evaluation mode; attention and adapter dropout act as that mode says.
        responses: prompts and their responses.
        batch_tokens: most tokens in one forward pass; prompts are grouped by length under this budget. None runs
            everything in one pass (a training micro-batch).
        path: `auto` probes the model once; `packed` and `padded` force a path.
        temperature: divides the logits, for the probabilities with which responses were sampled at it.
        on_batch: called with the number of responses done after each pass.

    Returns:
        Ragged float32 log-probabilities (float64 for a float64 model), in the order of `responses`. Tokens that
        `responses.trained` masks out are left out.
    """
    score = packed_logps if resolve_path(model, path, responses) == "packed" else padded_logps
    return in_passes(lambda part: score(model, part, temperature), responses, batch_tokens, on_batch)


def in_passes(
    score: Callable[[Responses], Tensor],
    responses: Responses,
    batch_tokens: int | None,
    on_batch: Callable[[int], None] | None = None,
) -> ResponseLogps:
    """What `score` says of every token, asked for a part of the responses at a time (see `score_responses`).

    Args:
        score: a part to [N, ...] for all its response tokens.
    """
    from coalign.models.scoring.products import fast_products

    pieces: list[Tensor | None] = [None] * len(responses.response_ids)
    for rows in plan_passes(responses, batch_tokens):
        share_cores()
        part = select_rows(responses, rows)
        with fast_products(not torch.is_grad_enabled()):  # a training has them around its whole step
            logps = score(part)
        for row, one in zip(rows, torch.split(logps, [len(ids) for ids in part.response_ids]), strict=True):
            pieces[row] = one
        if on_batch:
            on_batch(len(rows))
    return _assemble([piece for piece in pieces if piece is not None], responses)


def resolve_path(
    model: torch.nn.Module,
    path: Path,
    responses: Responses | None = None,
    can_share: Callable[[torch.nn.Module], bool] | None = None,
) -> Path:
    """The path that is taken for this model (and these responses).

    Args:
        can_share: whether the model gives the same numbers on both; by default log-probabilities are compared.
    """
    if responses is not None and responses.pictures is not None:
        if path == "packed":
            raise ValueError("prompts with pictures are scored padded")
        return "padded"
    if path != "auto":
        return path
    bare = unwrap(model)
    if getattr(bare.config, "vision_config", None) is not None:  # its towers attend otherwise than its text
        return "padded"
    window = attention_window(bare)
    if window is not None and responses is not None and _longest(responses) > window:
        return "padded"
    return "packed" if (can_share or _can_share)(bare) else "padded"


def response_logits(
    model: torch.nn.Module, responses: Responses, path: Path
) -> tuple[Tensor, Tensor, Tensor]:
    """Whole distributions in place of the log-probabilities of single tokens, in one forward pass.

    Args:
        path: `packed` or `padded`.

    Returns:
        [U, V] logits; [N] the row of them that predicts each response token, masked ones included; [N] these tokens.
    """
    from coalign.models.scoring import shared_prefix

    if path == "padded":
        return _padded_logits(model, responses)
    bare = unwrap(model)
    row = shared_prefix.pack(responses, next(bare.parameters()).device)
    with shared_attention(bare):
        logits = model(**packed_inputs(row), logits_to_keep=row.predictors).logits[0]
    return logits, row.rows, row.targets


def token_logits(
    model: torch.nn.Module,
    responses: Responses,
    *,
    batch_tokens: int | None = None,
    temperature: float = 1.0,
) -> Iterator[tuple[int, Tensor]]:
    """For each response, pass by pass, its row in `responses` and the [|y|, V] logits that its tokens are drawn from, in
    float32 (float64 for a float64 model).

    Arguments are those of `score_responses`; gradients flow when autograd is on.
    """
    from coalign.models.scoring.token_head import wide

    path = resolve_path(model, "auto", responses)
    for rows in plan_passes(responses, batch_tokens):
        part = select_rows(responses, rows)
        logits, places, _ = response_logits(model, part, path)
        pieces = torch.split(places, [len(ids) for ids in part.response_ids])
        for row, piece in zip(rows, pieces, strict=True):
            chosen = logits.index_select(0, piece)
            yield row, chosen.to(wide(chosen)) / temperature


def packed_logps(model: torch.nn.Module, responses: Responses, temperature: float = 1.0) -> Tensor:
    """[N] log-probabilities of all response tokens, prompts shared."""
    from coalign.models.scoring import shared_prefix
    from coalign.models.scoring.token_head import fused_token_head, token_logps_from_logits

    bare = unwrap(model)
    row = shared_prefix.pack(responses, next(bare.parameters()).device)
    inputs = {**packed_inputs(row), "logits_to_keep": row.predictors}
    head = bare.get_output_embeddings()  # type: ignore[operator]
    with shared_attention(bare):
        if type(head) is torch.nn.Linear and not _scales_logits(bare):
            with fused_token_head(head, row.targets, row.rows, temperature):
                return model(**inputs).logits[0, :, 0]
        logits = model(**inputs).logits[0].index_select(0, row.rows)
        return token_logps_from_logits(logits, row.targets, temperature)


def predictor_rows(responses: Responses, path: Path, width: int) -> Tensor:
    """[N] for each response token the row of the states that predicts it: of the [U, D] states that a packed pass gives its
    output layer, or of the [B T, D] of a padded one.

    Args:
        width: T, of a padded pass.
    """
    from coalign.models.scoring import shared_prefix

    if path == "packed":
        return shared_prefix.pack(responses, torch.device("cpu")).rows
    starts = [
        row * width + len(responses.prompt_ids[prompt]) - 1
        for row, prompt in enumerate(responses.prompt_index)
    ]
    return torch.cat(
        [
            torch.arange(start, start + len(ids))
            for start, ids in zip(starts, responses.response_ids, strict=True)
        ]
    )


def packed_inputs(row: PackedRow | PackedTexts) -> dict[str, Any]:
    """The arguments of a model for a packed row; it must run under `shared_attention`."""
    return {
        "input_ids": row.input_ids,
        "position_ids": row.position_ids,
        # A 4-d mask passes through Transformers' mask code as it is; the layout says what may be seen.
        "attention_mask": torch.empty(1, 1, 0, 0, dtype=torch.bool, device=row.input_ids.device),
        "use_cache": False,
        "shared_prefix": row.layout,
    }


def padded_inputs(rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    """The arguments of a model for rows of tokens, padded on the right."""
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device),
        "attention_mask": torch.tensor(
            [[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device
        ),
    }


def picture_inputs(model: torch.nn.Module, responses: Responses, width: int) -> dict[str, Tensor]:
    """What a model is given of the pictures, for one row of `width` tokens a response; nothing where there are none.

    Raises:
        ValueError: prompts with and without pictures together, which `plan_passes` keeps apart.
    """
    if responses.pictures is None:
        return {}
    rows = [one for index in responses.prompt_index if (one := responses.pictures[index]) is not None]
    if len(rows) < len(responses.prompt_index):
        raise ValueError("prompts with and without pictures in one pass")
    return picture_tensors(model, rows, width)


def picture_tensors(
    model: torch.nn.Module, rows: Sequence[PicturePrompt], width: int, *, left: bool = False
) -> dict[str, Tensor]:
    """What a model is given of the pictures of rows, on its device and in its format; see `batch_inputs`."""
    weight = next(model.parameters())
    return {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)
        for name, value in batch_inputs(rows, width, left=left).items()
    }


def padded_logps(model: torch.nn.Module, responses: Responses, temperature: float = 1.0) -> Tensor:
    """[N] log-probabilities of all response tokens, one right-padded row a response."""
    from coalign.models.scoring.token_head import token_logps_from_logits

    logits, _, targets = _padded_logits(model, responses)
    return token_logps_from_logits(logits, targets, temperature)


def _padded_logits(model: torch.nn.Module, responses: Responses) -> tuple[Tensor, Tensor, Tensor]:
    device = next(model.parameters()).device
    prompts = [responses.prompt_ids[index] for index in responses.prompt_index]
    rows = [prompt + ids for prompt, ids in zip(prompts, responses.response_ids, strict=True)]
    inputs = padded_inputs(rows, device) | picture_inputs(model, responses, max(map(len, rows)))
    logits = model(**inputs, use_cache=False).logits
    kept = [
        logits[row, len(prompt) - 1 : len(prompt) - 1 + len(ids)]
        for row, (prompt, ids) in enumerate(zip(prompts, responses.response_ids, strict=True))
    ]
    targets = torch.tensor([token for ids in responses.response_ids for token in ids], device=device)
    return torch.cat(kept), torch.arange(len(targets), device=device), targets


@contextlib.contextmanager
def shared_attention(bare: torch.nn.Module) -> Iterator[None]:
    """Select the shared-prefix attention. It stays selected (without a layout it is plain SDPA), because gradient
    checkpointing runs the layers again in the backward pass, outside this context.
    """
    from coalign.models.scoring import shared_prefix

    config: Any = bare.config
    name = shared_prefix.implementation_over(config._attn_implementation, next(bare.parameters()).device)
    if config._attn_implementation != name:
        bare.set_attn_implementation(name)  # type: ignore[operator]
    yield


@OnceAModel
def _can_share(model: torch.nn.Module) -> bool:
    """Try both paths on a few tokens."""
    bare: Any = unwrap(model)
    before = bare.config._attn_implementation
    ids = probe_ids(bare, 5, 8).tolist()
    probe = Responses([ids[0], ids[1][:3]], [ids[2][:1], ids[3], ids[4][:5]], [0, 0, 1])
    good = agree(
        bare,
        lambda: padded_logps(bare, probe),
        lambda: packed_logps(bare, probe),
        lacks="share prompts between responses",
        differs="its log-probabilities differ when a prompt is shared",
        instead="scoring one padded row each",
        similar=_similar_logps,
    )
    if not good and bare.config._attn_implementation != before:
        bare.set_attn_implementation(before)
    return good


def _similar_logps(actual: Tensor, expected: Tensor, half: bool) -> bool:
    tolerance = 5e-2 if half else 1e-3
    return torch.allclose(actual, expected, atol=tolerance, rtol=tolerance)


def attention_window(bare: torch.nn.Module) -> int | None:
    """Tokens that a sliding-window layer sees, None without such layers."""
    config: Any = bare.config.get_text_config()  # type: ignore[operator, union-attr]
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    if window is None or (layers is not None and "sliding_attention" not in layers):
        return None
    if getattr(config, "use_sliding_window", True) is False:
        return None
    return window


def _scales_logits(bare: torch.nn.Module) -> bool:
    config: Any = bare.config.get_text_config()  # type: ignore[operator, union-attr]
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
    return any(getattr(config, name, None) not in (None, 1, 1.0) for name in names)


def _longest(responses: Responses) -> int:
    prompts = [len(responses.prompt_ids[index]) for index in responses.prompt_index]
    return max(p + len(ids) for p, ids in zip(prompts, responses.response_ids, strict=True))


def plan_passes(responses: Responses, batch_tokens: int | None) -> list[list[int]]:
    """Rows of each forward pass: whole prompt groups, longest first, under the token budget; prompts with pictures and
    those without apart.
    """
    if responses.pictures is not None:
        shown = [responses.pictures[prompt] is not None for prompt in responses.prompt_index]
        if not all(shown):
            parts = [[row for row, one in enumerate(shown) if one is wanted] for wanted in (True, False)]
            return [
                [rows[place] for place in one]
                for rows in filter(None, parts)
                for one in plan_passes(select_rows(responses, rows), batch_tokens)
            ]
    groups: dict[int, list[int]] = {}
    for row, prompt in enumerate(responses.prompt_index):
        groups.setdefault(prompt, []).append(row)
    if batch_tokens is None:
        return [list(range(len(responses.response_ids)))] if groups else []
    cost = {
        prompt: len(responses.prompt_ids[prompt]) + sum(len(responses.response_ids[row]) for row in rows)
        for prompt, rows in groups.items()
    }
    plans: list[list[int]] = []
    used = batch_tokens
    for prompt in sorted(groups, key=lambda one: (-cost[one], one)):
        if used + cost[prompt] > batch_tokens:
            plans.append([])
            used = 0
        plans[-1] += groups[prompt]
        used += cost[prompt]
    return plans


def select_rows(responses: Responses, rows: Sequence[int]) -> Responses:
    """The part of `responses` with these rows (kept together by prompt)."""
    if list(rows) == list(range(len(responses.response_ids))):
        return replace(responses, trained=None)
    prompts: dict[int, int] = {}
    for row in rows:
        prompts.setdefault(responses.prompt_index[row], len(prompts))
    return Responses(
        prompt_ids=[responses.prompt_ids[prompt] for prompt in prompts],
        response_ids=[responses.response_ids[row] for row in rows],
        prompt_index=[prompts[responses.prompt_index[row]] for row in rows],
        pictures=_shown([responses.pictures[prompt] for prompt in prompts]) if responses.pictures else None,
    )


def _shown(pictures: list[PicturePrompt | None]) -> list[PicturePrompt | None] | None:
    return pictures if any(pictures) else None


def _assemble(pieces: list[Tensor], responses: Responses) -> ResponseLogps:
    if not pieces:
        return ResponseLogps(
            torch.zeros(0), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
        )
    device = pieces[0].device
    if responses.trained is not None:
        masks = [torch.tensor(mask, dtype=torch.bool, device=device) for mask in responses.trained]
        pieces = [piece[mask] for piece, mask in zip(pieces, masks, strict=True)]
    return ResponseLogps(
        token_logps=torch.cat(pieces),
        lengths=torch.tensor([len(piece) for piece in pieces], device=device),
        prompt_index=torch.tensor(responses.prompt_index, device=device),
    )
