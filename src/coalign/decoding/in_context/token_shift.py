"""Token-distribution shift: where an aligned model's answer differs from what its base model would have written.

Both models read the aligned model's own answer, each behind its own prompt, in one pass per answer. A position is
*unshifted* where the aligned token is the base model's first choice, *marginal* where it is its second or third, and
*shifted* otherwise. Also the similarities of two candidate lists of the published analysis.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.core.errors import ModelError
from coalign.models.generation.sampling import wide
from coalign.models.modules import unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn

Class = Literal["unshifted", "marginal", "shifted"]
CLASSES: tuple[Class, ...] = ("unshifted", "marginal", "shifted")
MARGINAL_RANK = 2
"""Highest rank, from 0, that is still marginal."""
CHUNK = 256
"""Positions whose distributions are compared at a time."""


def position_class(rank: int) -> Class:
    """The class of a position by the rank (0: most probable) of the aligned token under the base model."""
    if rank < 0:
        raise ValueError(f"rank is {rank}, expected 0 or more")
    return "unshifted" if rank == 0 else "marginal" if rank <= MARGINAL_RANK else "shifted"


@dataclass(frozen=True)
class Shift:
    """One position of an answer.

    Attributes:
        token: id of the aligned token.
        rank: of that token under the base model, from 0; of equal logits the smaller id comes first.
        base_prob, aligned_prob: of that token.
        kl: `KL(aligned || base)` over the whole vocabulary, in nats.
        base_token: the base model's first choice.
    """

    token: int
    rank: int
    base_prob: float
    aligned_prob: float
    kl: float
    base_token: int

    @property
    def position_class(self) -> Class:
        return position_class(self.rank)


def compare_distributions(base_logits: Tensor, aligned_logits: Tensor, tokens: Tensor) -> list[Shift]:
    """The shift at each position of an answer.

    Args:
        base_logits, aligned_logits: [T, V] before each token of the answer.
        tokens: [T] the answer.
    """
    found: list[Shift] = []
    for start in range(0, len(tokens), CHUNK):
        part = slice(start, start + CHUNK)
        targets = tokens[part, None]
        base, aligned = (
            one[part].to(wide(one.device)).log_softmax(-1) for one in (base_logits, aligned_logits)
        )
        mine = base.gather(1, targets)
        places = torch.arange(base.shape[1], device=base.device)
        before = (base > mine) | ((base == mine) & (places < targets))
        kl = (aligned.exp() * (aligned - base)).sum(-1)
        columns = (
            targets[:, 0],
            before.sum(-1),
            mine[:, 0].exp(),
            aligned.gather(1, targets)[:, 0].exp(),
            kl.clamp(min=0),
            base.argmax(-1),
        )
        found += [Shift(*row) for row in zip(*(one.tolist() for one in columns), strict=True)]
    return found


def answer_logits(model: nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """[T, V] logits before each token of an answer that follows a prompt."""
    ids = torch.tensor([[*prompt, *answer[:-1]]], device=next(model.parameters()).device)
    keep = len(answer)
    takes = "logits_to_keep" in inspect.signature(unwrap(model).forward).parameters
    last = {"logits_to_keep": keep} if takes else {}
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False, **last).logits[0, -keep:]


def token_shifts(
    base: nn.Module,
    aligned: nn.Module,
    base_prompt: Sequence[int],
    aligned_prompt: Sequence[int],
    answer: Sequence[int],
) -> list[Shift]:
    """The shift at each position of one answer; token ids of both prompts, the answer's the same for both models.

    Raises:
        ModelError: the vocabularies differ in size, so that ids do not mean the same.
    """
    if not answer:
        return []
    ours = answer_logits(base, base_prompt, answer)
    theirs = answer_logits(aligned, aligned_prompt, answer)
    if ours.shape[1] != theirs.shape[1]:
        raise ModelError(
            f"The models' vocabularies have {ours.shape[1]} and {theirs.shape[1]} tokens, expected the same.",
            hint=SHIFT_HINT,
        )
    tokens = torch.tensor(answer, device=ours.device)
    return compare_distributions(ours, theirs.to(ours.device), tokens)


SHIFT_HINT = "Token shift compares a base model with a model aligned from it."


def assert_same_tokens(base: Any, aligned: Any, *, hint: str = SHIFT_HINT) -> None:
    """Tokenizers must agree, or tokens of one model mean something else in the other.

    Tokens that only one side added (chat markers) do not matter.

    Args:
        hint: of the error: why they must.

    Raises:
        ModelError: another vocabulary; the first differing token is named.
    """
    added = {one.content for side in (base, aligned) for one in side.added_tokens_decoder.values()}
    ours, theirs = (
        {token: n for token, n in side.get_vocab().items() if token not in added} for side in (base, aligned)
    )
    if ours == theirs:
        return
    odd = min(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    raise ModelError(
        f"The models have different tokenizers: {odd!r} is {ours.get(odd)} in one and {theirs.get(odd)} in the other.",
        hint=hint,
    )


def class_shares(shifts: Iterable[Shift]) -> dict[Class, float]:
    """Share of positions in each class; 0 throughout where there are none."""
    counts = Counter(one.position_class for one in shifts)
    total = sum(counts.values())
    return {name: counts[name] / total if total else 0.0 for name in CLASSES}


def position_means(
    answers: Sequence[Sequence[Shift]], measure: Callable[[Shift], float], *, at_least: int = 1
) -> list[float]:
    """Mean of a measure at each position over the answers that are so long, as far as `at_least` of them are."""
    means: list[float] = []
    for place in range(max(map(len, answers), default=0)):
        values = [measure(one[place]) for one in answers if len(one) > place]
        if len(values) < at_least:
            break
        means.append(fmean(values))
    return means


def shifted_share(answers: Iterable[Sequence[Shift]], start: float, end: float) -> float:
    """Share of shifted positions among those in a part of the answers, by place from 0 (first) to 1 (last)."""
    return place_share(
        ([one.position_class == "shifted" for one in answer] for answer in answers), start, end
    )


def place_share(answers: Iterable[Sequence[bool]], start: float, end: float) -> float:
    """Share of marked positions among those at `start <= place / length < end`, over all answers together; 0 where
    there are none.
    """
    chosen = [
        one for answer in answers for place, one in enumerate(answer) if start <= place / len(answer) < end
    ]
    return fmean(chosen) if chosen else 0.0


Candidate = Mapping[str, Any]
"""`token_id`, `token` (text) and `logit` of one entry of a list of most probable tokens."""


def list_similarities(
    base: Sequence[Candidate], aligned: Sequence[Candidate], top_k: int
) -> dict[str, float | str]:
    """Similarities of two lists of most probable tokens, as the published analysis has them.

    Probabilities are a softmax over each stored list, not over the vocabulary. All but `nDCG` look at the first `top_k`
    entries and match tokens by text; `nDCG` looks at whole lists and matches ids. `KL` sums over shared tokens alone,
    so it may be negative and is no divergence.

    Args:
        base, aligned: in falling order of logits.
        top_k: entries that count.

    Raises:
        ValueError: an empty list, or top_k below 1.
    """
    if not base or not aligned or top_k < 1:
        raise ValueError("expected two lists with entries, and top_k of 1 or more")
    ours, theirs = _logps(base, top_k), _logps(aligned, top_k)
    shared = ours.keys() & theirs.keys()
    first_base, first_aligned = base[0]["token"], aligned[0]["token"]
    names = [one["token"] for one in base[:top_k]]
    rank = names.index(first_aligned) if first_aligned in ours else top_k
    top_prob = math.exp(ours[first_aligned]) if first_aligned in ours else 0.0
    back = math.exp(theirs[first_base]) if first_base in theirs else 0.0
    whole = next((n for n, one in enumerate(base) if one["token"] == first_aligned), len(base))
    return {
        "jaccard": len(shared) / len(ours.keys() | theirs.keys()),
        "KL": math.fsum(math.exp(ours[one]) * (ours[one] - theirs[one]) for one in shared),
        "weighted_sum": math.fsum(math.exp(ours[one] + theirs[one]) for one in shared),
        "top_rank": float(rank),
        "top_prob": top_prob,
        "bi_top_prob": (top_prob + back) / 2,
        "nDCG": _ndcg([one["token_id"] for one in base], [one["token_id"] for one in aligned]),
        "position_class": position_class(whole),
    }


def _logps(candidates: Sequence[Candidate], top_k: int) -> dict[str, float]:
    """Text to log-probability of the first `top_k`, the softmax taken over all candidates."""
    logits = [float(one["logit"]) for one in candidates]
    top = max(logits)
    norm = top + math.log(math.fsum(math.exp(one - top) for one in logits))
    return {one["token"]: logit - norm for one, logit in zip(candidates[:top_k], logits[:top_k], strict=True)}


def _ndcg(base: Sequence[int], aligned: Sequence[int]) -> float:
    gains = {token: 1 / math.log2(rank + 2) for rank, token in enumerate(aligned)}
    found = math.fsum(gains.get(token, 0.0) / math.log2(rank + 2) for rank, token in enumerate(base))
    ideal = math.fsum(gain * gain for gain in gains.values())
    return found / ideal
