"""Sampling from logits: pure functions, the same numbers on any batch.

A token is drawn by inverting the distribution function in vocabulary order at one uniform number per row, so that a
row's draws depend on its own logits and its own random stream alone. Nothing is sorted over the whole vocabulary:
the cut-offs of top-k and top-p come from the largest few hundred values where these suffice, with the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from coalign.core.errors import ConfigError, ModelError
from coalign.data.messages import half_pair
from coalign.models.types import Sampling

if TYPE_CHECKING:
    from torch import Tensor

CANDIDATES = 256
"""Values that the search for the nucleus looks at before it sorts a row."""
LOWEST_TEMPERATURE = 1e-4
"""Below it logits over the temperature leave the range of numbers."""
_BLOCK = 16
_SUM_BLOCK = 256


def check_sampling(sampling: Sampling, *, grammars: bool = False) -> None:
    """Refuse values that mean nothing.

    Args:
        grammars: whoever samples follows grammars.

    Raises:
        ConfigError: every problem, one a line.
    """
    rules = [
        (sampling.max_new_tokens >= 1, "max_new_tokens", "at least 1"),
        (
            sampling.temperature == 0 or LOWEST_TEMPERATURE <= sampling.temperature < float("inf"),
            "temperature",
            f"0 (greedy) or at least {LOWEST_TEMPERATURE:g}",
        ),
        (0 <= sampling.top_p <= 1, "top_p", "between 0 and 1"),
        (sampling.top_k >= 0, "top_k", "at least 0 (0 is off)"),
        (sampling.n >= 1, "n", "at least 1"),
        (sampling.top_logprobs >= 0, "top_logprobs", "at least 0 (0 is off)"),
        (all(isinstance(one, str) and one for one in sampling.stop), "stop", "texts that are not empty"),
        (half_pair(list(sampling.stop)) is None, "stop", "texts without halves of surrogate pairs"),
    ]
    problems = [
        f"sampling: {name}: {getattr(sampling, name)!r} is not usable, expected {expected}"
        for good, name, expected in rules
        if not good
    ]
    if sampling.grammar is not None and not grammars:
        problems.append("sampling: grammar: this back end or decoding method does not follow one")
    if isinstance(sampling.stop, str):
        problems.append(f"sampling: stop: {sampling.stop!r} is one text, expected a tuple of texts")
    if problems:
        raise ConfigError("\n".join(problems))


def filter_logits(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Logits of the distribution that is sampled from: temperature, then top-k, then top-p; others are -inf.

    As Transformers' warpers, except that tokens as probable as the last one of the nucleus all stay (there, the
    order of the sort decides). At least one token stays.

    Args:
        logits: [B, V].
        temperature: above 0.
        top_k: 0 is off.
        top_p: 1 is off.

    Returns:
        [B, V].
    """
    scores = logits / temperature
    probabilities = torch.softmax(scores, dim=-1)
    cutoffs = _cutoffs(probabilities, top_k, top_p)
    return scores if cutoffs is None else scores.masked_fill(probabilities < cutoffs[:, None], -torch.inf)


def sample_tokens(
    logits: Tensor, uniforms: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Draw one token per row from `filter_logits`, or take the most probable one (the first of equals).

    Args:
        logits: [B, V].
        uniforms: [B] in [0, 1), float64; not looked at when `temperature` is 0.
        temperature: 0 takes the most probable token.

    Returns:
        [B] token ids.

    Raises:
        ModelError: the logits are not numbers.
    """
    if temperature == 0:
        return _argmax(logits)
    probabilities = torch.softmax(logits if temperature == 1 else logits / temperature, dim=-1)
    cutoffs = _cutoffs(probabilities, top_k, top_p)
    if cutoffs is not None:
        probabilities = torch.where(
            probabilities < cutoffs[:, None], 0.0, probabilities
        )  # what is no number stays
    return _invert_cdf(probabilities, uniforms)


def token_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """[B] log-probabilities of `tokens` [B] under softmax of `logits` [B, V]."""
    largest = logits.amax(-1, keepdim=True)
    normaliser = (logits - largest).exp_().sum(-1).log() + largest.squeeze(-1)
    return logits.gather(1, tokens[:, None]).squeeze(1) - normaliser


def top_token_logps(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The most probable tokens of each row of `logits` [B, V], in falling order.

    Returns:
        [B, C] token ids; [B, C] their log-probabilities, with C the smaller of `count` and V.
    """
    values, ids = logits.topk(min(count, logits.shape[-1]), dim=-1)
    return ids, values - torch.logsumexp(logits, dim=-1, keepdim=True)


def row_uniforms(seed: int, rows: Sequence[tuple[int, int]], count: int) -> Tensor:
    """[B, count] uniform numbers in [0, 1), float64: one stream for each (prompt index, sample index) of `rows`.

    A stream is Philox keyed by a hash of (seed, prompt, sample): it does not depend on the other rows, and a longer
    one starts with the shorter one.
    """
    streams = np.empty((len(rows), count))
    for row, (prompt, sample) in enumerate(rows):
        stream_of(seed, prompt, sample).random(out=streams[row])
    return torch.from_numpy(streams)


def stream_of(seed: int, prompt: int, sample: int) -> np.random.Generator:
    """The random numbers of one sample of one prompt."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed % 2**64, prompt, sample])))


def _cutoffs(probabilities: Tensor, top_k: int, top_p: float) -> Tensor | None:
    """[B] smallest probability that stays; None when all do."""
    vocabulary = probabilities.shape[-1]
    if 0 < top_k < vocabulary:
        head = _largest(probabilities, top_k)
        kth = head[:, -1]
        if top_p >= 1:
            return kth
        kept = torch.where(probabilities >= kth[:, None], probabilities, 0.0)  # equals of the k-th stay too
        return _nucleus(head, top_p * kept.sum(-1, dtype=wide(kept.device)))[0]
    if top_p >= 1:
        return None
    wanted = torch.full_like(probabilities[:, 0], top_p, dtype=wide(probabilities.device))
    head = _largest(probabilities, min(CANDIDATES, vocabulary))
    cutoffs, found = _nucleus(head, wanted)
    if not bool(found.all()):
        rows = (~found).nonzero().squeeze(1)
        whole = _sorted(probabilities[rows], 0.99 * (1 - top_p) / vocabulary)
        cutoffs[rows] = _nucleus(whole, wanted[rows])[0]
    return cutoffs


def _nucleus(head: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest probability of the nucleus: a token stays when those above it have less than `wanted` [B] together.

    Args:
        head: [B, K] the largest probabilities in falling order.

    Returns:
        [B] cut-offs; [B] whether `head` reaches far enough to know them.
    """
    masses = head.to(wanted.dtype).cumsum(-1)
    kept = (masses - head < wanted[:, None]).sum(-1).clamp(min=1)
    return head.gather(1, kept[:, None] - 1).squeeze(1), masses[:, -1] >= wanted


def _largest(values: Tensor, count: int) -> Tensor:
    """[B, count] the largest values of each row [B, V], in falling order.

    They all lie in the `count` blocks with the largest maxima, which are far fewer values to sort through.
    """
    vocabulary = values.shape[-1]
    blocks = vocabulary // _BLOCK
    if count >= blocks // 2:
        return values.topk(count, dim=-1).values
    whole = values[:, : blocks * _BLOCK].unflatten(-1, (_BLOCK, blocks))  # block j: values j, j + blocks, ...
    chosen = whole.amax(1).topk(count, dim=-1, sorted=False).indices
    inside = whole.gather(2, chosen[:, None, :].expand(-1, _BLOCK, -1)).flatten(1)
    return torch.cat([inside, values[:, blocks * _BLOCK :]], dim=-1).topk(count, dim=-1).values


def _sorted(probabilities: Tensor, least: float) -> Tensor:
    """[B, K] the probabilities [B, V] of each row that are at least `least`, in falling order, then zeros.

    All values below (1 - p) / V have less than 1 - p together, so that the nucleus of p is among the others, which are
    few.
    """
    if probabilities.device.type != "cpu":  # which sorts faster than it waits for a count
        return probabilities.sort(dim=-1, descending=True).values
    rows = [
        row[~(row < least)].sort(descending=True).values for row in probabilities
    ]  # what is no number stays
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _invert_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """[B] smallest index whose cumulative weight exceeds `uniforms` of the total: first its block, then inside it."""
    vocabulary = weights.shape[-1]
    blocks = -(-vocabulary // _SUM_BLOCK)
    main = vocabulary // _SUM_BLOCK * _SUM_BLOCK
    sums = weights[:, :main].unflatten(-1, (-1, _SUM_BLOCK)).sum(-1) if main else weights[:, :0]
    if blocks * _SUM_BLOCK > vocabulary:
        sums = torch.cat([sums, weights[:, main:].sum(-1, keepdim=True)], dim=-1)
    cumulative = sums.to(wide(weights.device)).cumsum(-1)
    _assert_numbers(cumulative[:, -1])
    block, rest = _search(cumulative, uniforms.to(cumulative.dtype) * cumulative[:, -1])
    start = block * _SUM_BLOCK
    index = start[:, None] + torch.arange(_SUM_BLOCK, device=weights.device)
    inside = weights.gather(1, index.clamp(max=vocabulary - 1)).masked_fill_(index >= vocabulary, 0.0)
    return start + _search(inside.to(cumulative.dtype).cumsum(-1), rest)[0]


def _search(cumulative: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """[B] first index with cumulative weight above `target`, and how far `target` is above the index before."""
    end = cumulative[:, -1]
    # Rounding may put the target at the very end, beyond the last index with any weight.
    target = torch.minimum(target, torch.nextafter(end, torch.zeros_like(end)))
    index = torch.searchsorted(cumulative, target[:, None], right=True).squeeze(1)
    below = cumulative.gather(1, (index - 1).clamp(min=0)[:, None]).squeeze(1)
    return index, torch.where(index > 0, target - below, target)


def _argmax(logits: Tensor) -> Tensor:
    """[B] index of the largest value, the first of equals (which `torch.argmax` does not promise)."""
    vocabulary = logits.shape[-1]
    largest = logits.amax(-1, keepdim=True)
    _assert_numbers(largest)
    main = vocabulary // _SUM_BLOCK * _SUM_BLOCK
    maxima = logits[:, :main].unflatten(-1, (-1, _SUM_BLOCK)).amax(-1) if main else logits[:, :0]
    if main < vocabulary:
        maxima = torch.cat([maxima, logits[:, main:].amax(-1, keepdim=True)], dim=-1)
    start = _first_true(maxima == largest) * _SUM_BLOCK
    index = (start[:, None] + torch.arange(_SUM_BLOCK, device=logits.device)).clamp(max=vocabulary - 1)
    return start + _first_true(logits.gather(1, index) == largest)


def _first_true(mask: Tensor) -> Tensor:
    """[B] index of the first True of each row."""
    places = torch.arange(mask.shape[-1], 0, -1, device=mask.device)
    return mask.shape[-1] - (mask * places).amax(-1)


def _assert_numbers(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ModelError(
            "The model's logits are not numbers (NaN or infinite).",
            hint="A half-precision format may overflow: try --dtype float32. A damaged checkpoint does it too.",
        )


def wide(device: torch.device) -> torch.dtype:
    """The widest float format that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64
