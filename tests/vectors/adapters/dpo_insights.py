"""DPO, cDPO, IPO, CPO and KTO."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coalign.training.losses.binary import kto_kl, kto_loss
from coalign.training.losses.pairwise import cpo_loss, dpo_loss, ipo_loss
from coalign.training.losses.supervised import nll_loss
from tests.vectors.autograd import gradients_of, tensors

REDUCTIONS = {"sequence_sum": "sum", "sequence_mean": "mean", "token_mean": "token_mean"}


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    given = tensors(inputs, gradients=[name for name in inputs if name.startswith("policy_")])
    compare = _kto if params["objective"] == "kto" else _pairwise
    outputs = compare(given, params)
    loss = outputs["losses"].mean()
    return {**outputs, "loss": loss, **gradients_of(loss, given, expected)}


def _pairwise(given: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    policy = [given["policy_chosen_logps"], given["policy_rejected_logps"]]
    reference = [given["ref_chosen_logps"], given["ref_rejected_logps"]]
    lengths = [given["chosen_lengths"], given["rejected_lengths"]]
    smoothing = params.get("label_smoothing", 0.0)
    match params["objective"]:
        case "dpo":
            return {"losses": dpo_loss(*policy, *reference, beta=params["beta"], label_smoothing=smoothing)}
        case "ipo":
            tau, averaged = params["tau"], params["length_normalized"]
            return {"losses": ipo_loss(*policy, *reference, *lengths, tau=tau, length_normalised=averaged)}
        case "cpo":
            preference = cpo_loss(*policy, beta=params["beta"], label_smoothing=smoothing)
            nll = nll_loss(policy[0], lengths[0], reduction=REDUCTIONS[params["nll_reduction"]])
            losses = preference + params["nll_weight"] * nll
            return {"losses": losses, "preference_losses": preference, "nll": nll}
        case other:
            raise ValueError(f"objective {other!r}")


def _kto(given: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    kl = kto_kl(given["kl_policy_logps"], given["kl_ref_logps"])
    constants = {name: params[name] for name in ("beta", "desirable_weight", "undesirable_weight")}
    losses = kto_loss(given["policy_logps"], given["ref_logps"], given["labels"], kl, **constants)
    return {"losses": losses, "kl": kl}
