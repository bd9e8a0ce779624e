"""Janus: replies of graders, prompts, scores of the bench, rewards at the last token, the pair loss, wins, pairs."""

from __future__ import annotations

from typing import Any

import torch

from coalign.curation.stated_values.collection import conversation, cross_system_pairs
from coalign.curation.stated_values.rating import benchmark_score, item_scores, win_tie_rates
from coalign.judging.parsing import results_in
from coalign.models.scoring.sequence_states import last_attended
from coalign.training.losses.bradley_terry import bradley_terry_losses
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "parse_absolute":
            # The official reader takes the first result, has no range, and knows no "score of".
            found = results_in(inputs["text"], of=False)
            feedback = inputs["text"].split("[RESULT]")[0].strip()
            return {"feedback": feedback, "score": found[0]} if found else {"feedback": None, "score": None}
        case "prompt_template":
            turns: Any = [{"role": "user", "content": inputs["user"]}]
            (shown,) = conversation(inputs["system"], turns, fold=True)
            return {"text": f"[INST] {shown['content']} [/INST] "}
        case "bench_score":
            return {"per_item": item_scores(inputs["scores"]), "average": benchmark_score(inputs["scores"])}
        case "eos_reward":
            index = last_attended(torch.tensor(inputs["attention_mask"]))
            return {"index": index, "reward": inputs.tensor("values").gather(1, index[:, None])[:, 0]}
        case "rm_loss":
            return {"losses": bradley_terry_losses(*inputs.tensors("chosen", "rejected"))}
        case "win_tie_rate":
            return win_tie_rates(inputs["outcomes"])
        case _:
            pairs = [list(one) for one in cross_system_pairs(inputs["num_systems"])]
            return {"pairs": pairs, "note": NOTE}


NOTE = (
    "[system index, chosen response index, rejected response index]; all admissible triples, the data builder keeps one "
    "rejected per instruction"
)
