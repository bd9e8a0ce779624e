"""Methods that belong to no one paper: `coalign run NAME` finds them beside systems and objectives.

Each is a module with a configuration and a run, as a system is (`coalign.core.system`).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BuiltIn:
    """A method by name.

    Attributes:
        module: with `Config` and `run`.
        summary: what it does, in one line.
        make: a function of the module that makes the method of the name, where the module has several.
    """

    module: str
    summary: str
    make: str = ""


_ONLINE = ("coalign.loops.online", "online_learner")


BUILT_IN: dict[str, BuiltIn] = {
    "answer-pairs": BuiltIn(
        "coalign.loops.answer_pairs.run",
        "Pairs out of a model's own answers: unlike a given answer, or right and wrong by a reward; right ones as demonstrations.",
    ),
    "curate": BuiltIn(
        "coalign.loops.curation.run",
        "Filter a corpus: duplicates, rules, scores, selection, pairs, by steps on one command line.",
    ),
    "grpo": BuiltIn(
        _ONLINE[0],
        "Reinforcement learning on verifiable rewards: samples of a prompt are each other's baseline.",
        _ONLINE[1],
    ),
    "language-feedback": BuiltIn(
        "coalign.platform.language_feedback.run",
        "Preference pairs without labels: a model answers, a feedback model criticises, the model writes anew.",
    ),
    "merge": BuiltIn(
        "coalign.models.merging.run",
        "Merge checkpoints of one model: Model Stock, task arithmetic or their mean; adapters are folded in first.",
    ),
    "online-dpo": BuiltIn(
        _ONLINE[0], "DPO on the best and the worst of a prompt's samples, by any reward or judge.", _ONLINE[1]
    ),
    "ppo": BuiltIn(
        _ONLINE[0], "PPO with a value head: credit for every token, from one sample a prompt.", _ONLINE[1]
    ),
    "reward-model": BuiltIn(
        "coalign.training.reward_models.fit",
        "Train a reward model: a scalar head on any language model or encoder, from pairs, rankings or thumbs.",
    ),
    "rloo": BuiltIn(
        _ONLINE[0],
        "REINFORCE leave-one-out: the unbiased gradient of any reward less the divergence from the start model.",
        _ONLINE[1],
    ),
}


def load_built_in(name: str) -> Any:
    """The method `name` (case and underscores do not matter), None where there is none of that name."""
    name = name.lower().replace("_", "-")
    found = BUILT_IN.get(name)
    if found is None:
        return None
    module = importlib.import_module(found.module)
    return getattr(module, found.make)(name) if found.make else module
