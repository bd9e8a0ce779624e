"""Losses on log-probabilities and logits: a function a slug, outputs by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from coalign.data.records import Preference
from coalign.models.types import ResponseLogps
from coalign.preference.aft import Constraint, aft_loss
from coalign.preference.asft import asft_align_loss, asft_loss
from coalign.preference.bco import bco_loss
from coalign.preference.cut import contrast_token_loss, cut_loss, inappropriate_tokens
from coalign.preference.d2o import d2o_loss, d2o_margins
from coalign.preference.data.goal_conditioning import goal_reward, relabel_pair
from coalign.preference.ln_dpo import ln_dpo_loss
from coalign.preference.poft import poft_coefficients, poft_loss
from coalign.preference.pro import pro_loss
from coalign.training.losses import pairwise
from coalign.training.losses.binary import kto_kl, kto_loss
from coalign.training.losses.density_ratio import density_ratios
from coalign.training.losses.listwise import best_responses, pro_rank_losses, ranking_hinge_loss
from coalign.training.losses.numerics import log_odds, mean_logps
from coalign.training.losses.reward_shift import implicit_rewards
from coalign.training.losses.running_moments import RunningMoments
from coalign.training.losses.supervised import nll_loss
from tests.vectors.given import Given

IGNORED = -100
POLICY = ("policy_chosen_logps", "policy_rejected_logps")
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
LENGTHS = ("chosen_lengths", "rejected_lengths")
CONSTRAINTS: dict[str, Constraint] = {"align": "none", "dc": "detached", "bc": "boundary"}
REDUCTIONS = {"sequence_sum": "sum", "sequence_mean": "mean", "token_mean": "token_mean"}


def response_logps(logits: Tensor, labels: Tensor) -> ResponseLogps:
    """Of [R, T, V] logits and [R, T] labels (-100 outside the response), shifted by one inside."""
    targets, predictions = labels[:, 1:].long(), logits[:, :-1].log_softmax(-1)
    counted = targets != IGNORED
    picked = predictions.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return ResponseLogps(picked[counted], counted.sum(1), torch.arange(len(labels)))


def _aft(given: Given, params: dict[str, Any]) -> dict[str, Any]:
    """One binary group a case."""
    scores = given.tensors("positive_scores", "negative_scores")
    values = torch.cat([torch.full((len(one),), 1.0 - k, dtype=one.dtype) for k, one in enumerate(scores)])
    group, constraint = torch.zeros(len(values), dtype=torch.long), CONSTRAINTS[params["variant"]]
    loss = aft_loss(torch.cat(scores), values, group, constraint=constraint, beta=params["beta"])
    return {"loss": loss.squeeze(0)}


def _asft(given: Given, params: dict[str, Any]) -> dict[str, Any]:
    policy, lengths = given.tensors(*POLICY), given.tensors(*LENGTHS)
    chosen, rejected = (log_odds(mean_logps(*one)) for one in zip(policy, lengths, strict=True))
    return {
        "losses": asft_loss(*policy, *lengths, align_weight=params["lambda_"], beta=params["beta"]),
        "sft_losses": nll_loss(policy[0], lengths[0], reduction="mean"),
        "align_losses": asft_align_loss(*policy, *lengths, beta=params["beta"]),
        "log_odds_chosen": chosen,
        "log_odds_rejected": rejected,
    }


def _bco(given: Given, params: dict[str, Any]) -> dict[str, Any]:
    """The shift is given, or that of the running moments after the batch."""
    rewards = implicit_rewards(*given.tensors("policy_logps", "ref_logps"), beta=params["beta"])
    weights = None
    if "prob_desirable" in given:
        limits = {"minimum": params["min_density_ratio"], "maximum": params["max_density_ratio"]}
        weights = density_ratios(given.tensor("prob_desirable"), **limits)
    outputs: dict[str, Any] = {"rewards": rewards, "delta": params.get("delta")}
    if outputs["delta"] is None:
        after = RunningMoments.from_state_dict(params["running_before"]).merge(RunningMoments.of(rewards))
        outputs |= {"delta": after.mean, "running_after": after.state_dict()}
    return {**outputs, "losses": bco_loss(rewards, given.tensor("labels"), outputs["delta"], weights)}


def _cut(given: Given, params: dict[str, Any]) -> dict[str, Any]:
    """Both terms are means over the batch's tokens.

    The code takes one unlikelihood weight for all records, that of the first judged one; -1 marks a record without
    judgment.
    """
    judged = given.tensor("weight_unlike") != -1
    with_judgment = response_logps(*given.tensors("logits_with_judgment", "labels"))
    likelihood = -with_judgment.token_logps.mean()
    contrast, flags = torch.zeros(()), torch.zeros(0)
    if judged.any():
        plain = response_logps(*given.tensors("logits_without_judgment", "labels_without_judgment"))
        plain_logps, judged_logps = (
            one.token_logps[judged[one.segment_ids]] for one in (plain, with_judgment)
        )
        flags = inappropriate_tokens(judged_logps, plain_logps, threshold=params["threshold"])
        weight = next(one for one in given["weight_unlike"] if one != -1)
        contrast = contrast_token_loss(plain_logps, flags, unlikelihood_weight=weight).mean()
    lengths = torch.where(judged, with_judgment.lengths, 0)
    return {
        "loss": cut_loss(contrast, likelihood, judged.any()),
        "mle_loss": likelihood,
        "contrast_loss": contrast,
        "inappropriate_flags": [one.int().tolist() for one in torch.split(flags, lengths.tolist())],
    }


def _d2o(given: Given, params: dict[str, Any]) -> dict[str, Any]:
    """Dense [R, K] self-samples beside [R] negatives."""
    names = ("sample", "negative")
    samples, negatives = (given.tensor(f"policy_{x}_logps") - given.tensor(f"ref_{x}_logps") for x in names)
    constants = {"alpha": params["alpha"], "beta": params["beta"]}
    return {
        "losses": d2o_loss(samples.mean(1), negatives, **constants),
        "margin": d2o_margins(samples.mean(1), negatives, **constants),
    }


def _pairwise(given: Given, params: dict[str, Any]) -> dict[str, Any]:
    """The objectives that LN-DPO and the study of DPO compare."""
    if params.get("objective") in ("kto", "rrhf"):
        return (_kto if params["objective"] == "kto" else _rrhf)(given, params)
    policy, reference = given.tensors(*POLICY), given.tensors(*REFERENCE)
    lengths = given.tensors(*LENGTHS) if LENGTHS[0] in given else []
    beta, smoothing = params.get("beta"), params.get("label_smoothing", 0.0)
    match params.get("objective", "dpo"):
        case "dpo":
            return {"losses": pairwise.dpo_loss(*policy, *reference, beta=beta, label_smoothing=smoothing)}
        case "ln_dpo":
            sides = zip(("chosen", "rejected"), policy, reference, lengths, strict=True)
            rewards = {f"rewards_{name}": beta * mean_logps(a - b, n) for name, a, b, n in sides}
            return {"losses": ln_dpo_loss(*policy, *reference, *lengths, beta=beta), **rewards}
        case "hinge_ref":
            return {"losses": pairwise.hinge_ref_loss(*policy, *reference, beta=beta)}
        case "simpo":
            return {"losses": pairwise.simpo_loss(*policy, *lengths, beta=beta, gamma=params["gamma"])}
        case "orpo":
            assert params["nll_reduction"] == "sequence_mean"
            ratio = pairwise.log_odds_ratio(*policy, *lengths)
            return {
                "losses": pairwise.orpo_loss(*policy, *lengths, odds_weight=params["lambda_"]),
                "log_odds_ratio": ratio,
                "odds_ratio_losses": pairwise.logistic_loss(ratio),
                "sft_losses": nll_loss(policy[0], lengths[0], reduction="mean"),
            }
        case "slic_hf":
            weights = {"losses": params["lambda_"], "calibration_losses": 0}
            return {
                k: pairwise.slic_hf_loss(*policy, delta=params["delta"], sft_weight=w)
                for k, w in weights.items()
            }
        case "ipo":
            options = {"tau": params["tau"], "length_normalised": params["length_normalized"]}
            return {"losses": pairwise.ipo_loss(*policy, *reference, *lengths, **options)}
        case "cpo":
            preference = pairwise.cpo_loss(*policy, beta=beta, label_smoothing=smoothing)
            nll = nll_loss(policy[0], lengths[0], reduction=REDUCTIONS[params["nll_reduction"]])
            losses = preference + params["nll_weight"] * nll
            return {"losses": losses, "preference_losses": preference, "nll": nll}
        case other:
            raise ValueError(f"objective {other!r}")


def _kto(given: Given, params: dict[str, Any]) -> dict[str, Any]:
    kl = kto_kl(*given.tensors("kl_policy_logps", "kl_ref_logps"))
    constants = {name: params[name] for name in ("beta", "desirable_weight", "undesirable_weight")}
    return {
        "losses": kto_loss(*given.tensors("policy_logps", "ref_logps", "labels"), kl, **constants),
        "kl": kl,
    }


def _rrhf(given: Given, params: dict[str, Any]) -> dict[str, Any]:
    """The ranking term is summed over the batch; the likelihood of the best is its mean, or the token mean."""
    found = given.tensors("group_sum_logps", "group_lengths", "rewards")
    logps, lengths, rewards = (one.flatten() for one in found)
    rows, columns = found[0].shape
    record_index = torch.arange(rows).repeat_interleave(columns)
    scores = mean_logps(logps, lengths, params["length_penalty"])
    rank_loss = ranking_hinge_loss(scores, rewards, record_index).sum()
    best = best_responses(rewards, record_index)
    sft_loss = nll_loss(logps[best], lengths[best], reduction=params["sft_reduction"]).mean()
    return {
        "scores": scores.view(rows, columns),
        "rank_loss": rank_loss,
        "sft_loss": sft_loss,
        "loss": params["rank_weight"] * rank_loss + sft_loss,
    }


def _poft(given: Given, params: dict[str, Any]) -> dict[str, Any]:
    scores = response_logps(*given.tensors("logits", "labels")).means()
    aligned = given.tensor("llm_mean_logps").mean(1)
    constants = {"beta": params["beta"], "gamma": params["gamma"]}
    losses = poft_loss(scores, aligned, **constants)
    (by_scores,) = torch.autograd.grad(losses.mean(), [scores], retain_graph=True)
    return {
        "policy_mean_logps": scores,
        "losses": losses,
        "coefficients": poft_coefficients(scores, aligned, **constants),
        "grad_policy_mean_logps": by_scores,
    }


def _pro(given: Given, params: dict[str, Any]) -> dict[str, Any]:
    """Rankings of one length. Where a case has logits, sums and lengths are computed from them too."""
    logps, lengths, rewards = given.tensors("sum_logps", "lengths", "rewards")
    if "logits" in given:
        # Input position t counts where it is attended to and not prefix, and predicts token t + 1.
        names = ("logits", "input_ids", "attention_mask", "prefix_mask")
        logits, ids, attention, prefix = (one.flatten(0, 1) for one in given.tensors(*names))
        counted = torch.nn.functional.pad(((attention == 1) & (prefix == 0))[:, :-1], (1, 0))
        scored = response_logps(logits, torch.where(counted, ids, IGNORED))
        torch.testing.assert_close(scored.sums().view_as(logps), logps.detach())
        torch.testing.assert_close(scored.lengths.view_as(logps).to(logps), lengths)
    # The library imitates the first response; a case that names another one builds that term itself.
    ranking = pro_rank_losses(mean_logps(logps, lengths), rewards, eps=params["eps"]).mean(dim=0)
    best = torch.tensor(given["sft_index"])[:, None]
    if (best == 0).all():
        losses = pro_loss(logps, lengths, rewards, sft_weight=params["sft_weight"], eps=params["eps"])
        sft = losses.mean() - ranking.sum()
    else:
        sft = -params["sft_weight"] * (logps.shape[1] - 1) ** 2 * logps.gather(1, best).mean()
    scores = mean_logps(logps, lengths)
    return {"rank_losses": ranking, "sft_term": sft, "loss": ranking.sum() + sft, "scores": scores}


def _reward_augmented(given: Given, params: dict[str, Any]) -> dict[str, Any]:
    """Relabelled rows, goal rewards, and DPO with label smoothing.

    Cases with a defect keep a documented one of the official script, which does not swap the responses of the second
    row. The library follows the paper's rule; the defect is put on top of it to show the difference.
    """
    if "goal" in given:
        return {"goal_reward": goal_reward(*given.tensors("score", "goal"))}
    if "prompt" not in given:
        return _pairwise(given, params)
    pair = Preference(
        prompt=[{"role": "user", "content": given["prompt"]}],
        chosen=given["chosen"],
        rejected=given["rejected"],
        chosen_score=given["score_chosen"],
        rejected_score=given["score_rejected"],
    )
    placement = "system" if params["template"] == "system" else "user"
    rows = [
        {
            "goal_shown": row.prompt[0]["content"].split("\n\n")[0].rsplit(" ", 1)[1],
            "system_first": row.prompt[0]["role"] == "system",
            "preferred": row.chosen,
            "dispreferred": row.rejected,
        }
        for row in relabel_pair(pair, placement=placement)
    ]
    if "defect" in params.get("expect", ""):
        rows[1]["preferred"], rows[1]["dispreferred"] = rows[1]["dispreferred"], rows[1]["preferred"]
    return {"rows": rows}


LOSSES: dict[str, Callable[[Given, dict[str, Any]], dict[str, Any]]] = {
    "aft": _aft,
    "asft": _asft,
    "bco": _bco,
    "cut": _cut,
    "d2o": _d2o,
    "dpo-insights": _pairwise,
    "ln-dpo": _pairwise,
    "poft": _poft,
    "pro": _pro,
    "reward-augmented": _reward_augmented,
}
