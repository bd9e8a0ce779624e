"""Packed sequences that weigh the same, dissimilar answers, the reward loss, balanced lengths, rewards above the start model's."""

from __future__ import annotations

from typing import Any

import torch

from coalign.loops.answer_pairs.choosing import dissimilar
from coalign.models.types import ResponseLogps
from coalign.platform.chatglm import mixture_weights
from coalign.training.losses.bradley_terry import bradley_terry_losses
from coalign.training.losses.policy_gradient import above_reference, varied
from coalign.training.losses.supervised import SFTConstants, sft
from coalign.training.objective import ScoredBatch
from coalign.training.reward_models.balance import balanced
from tests.vectors.given import Given

IGNORED = -100


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["function"]:
        case "packed_weighted_loss":
            return _packed(inputs, params["capacity"], params["pad_id"])
        case "self_contrast_candidates":
            ranks, kept = dissimilar(inputs["responses"], inputs["similarity_to_target"], params["ratio"])
            return {"ranks": ranks, "candidates": [inputs["responses"][one] for one in kept]}
        case "reward_loss_l2":
            rewards = inputs.tensors("chosen_rewards", "rejected_rewards")
            return {"losses": bradley_terry_losses(*rewards, reward_l2=params["coefficient"])}
        case "length_bucket_balance":
            pairs = zip(inputs["chosen_lengths"], inputs["rejected_lengths"], strict=True)
            return {"kept": balanced([one - other for one, other in pairs], params["edges"])[0]}
        case "reference_reward_baseline":
            rewards, reference = inputs.tensors("rewards", "reference_response_rewards")
            return {"rewards": above_reference(rewards[:, None], reference).flatten()}
        case "prompt_variance_filter":
            kept = varied(inputs.tensor("reward_samples"), params["threshold"])
            return {"kept": kept.nonzero().flatten().tolist()}
        case "agent_mixture_loss":
            parts = inputs.tensors("agent_nll", "general_nll")
            weights = mixture_weights([len(one) for one in parts], params["eta"])
            rows = torch.cat(
                [torch.full_like(one, weight) for one, weight in zip(parts, weights, strict=True)]
            )
            return {"loss": (torch.cat(parts) * rows).sum() / rows.sum()}
    raise ValueError(params["function"])


def _packed(inputs: Given, capacity: int, pad: int) -> dict[str, Any]:
    """Lays the sequences into packs as the official code does, and takes the objective's losses of what the packs hold."""
    packs: list[list[int]] = [[]]
    for place, sequence in enumerate(inputs["sequences"]):
        if len(sequence) >= capacity:
            continue
        if len(sequence) >= capacity - sum(len(inputs["sequences"][one]) for one in packs[-1]):
            packs.append([])
        packs[-1].append(place)
    packs.pop()  # the official packer loses the last, unfinished pack
    logits = inputs.tensors("logits")[0]
    logps = logits.log_softmax(-1)
    ids, ends, owners, scores, places = [], [], [], [], []
    for row, pack in enumerate(packs):
        start, bounds = 0, [0]
        ids.append([token for one in pack for token in inputs["sequences"][one]])
        for one in pack:
            labels = inputs["labels"][one]
            for offset, label in enumerate(labels):
                if (
                    offset and label != IGNORED
                ):  # the first token of a sequence is predicted by another's last
                    owners.append(one)
                    places.append((row, start + offset))
                    scores.append(logps[row, start + offset - 1, label])
            start += len(labels)
            bounds.append(start)
        ends.append([*bounds, capacity])
        ids[-1] += [pad] * (capacity - start)
    names = sorted({one for pack in packs for one in pack})
    lengths = torch.tensor([owners.count(one) for one in names])
    order = sorted(range(len(owners)), key=owners.__getitem__)
    rows = torch.arange(len(names))
    policy = ResponseLogps(torch.stack([scores[one] for one in order]), lengths, rows)
    batch = ScoredBatch(policy, None, rows, torch.ones(len(names)))
    sequences = sft(batch, SFTConstants(loss_average="sequences")).losses
    counted = int((lengths > 0).sum())
    packed = torch.zeros(len(packs), capacity, dtype=torch.float64)
    for owner, (row, column) in zip(owners, places, strict=True):
        packed[row, column] = 1 / owners.count(owner)
    by_pack = [
        -sum(score for score, place in zip(scores, places, strict=True) if place[0] == row)
        / max(1, sum(place[0] == row for place in places))
        for row in range(len(packs))
    ]
    return {
        "packed_ids": ids,
        "boundaries": ends,
        "weights": packed,
        "packs": len(packs),
        "sequences_in_batch": float(counted),
        "loss": sequences.sum() / counted,
        "unweighted_loss": sum(by_pack) / len(packs),
    }
