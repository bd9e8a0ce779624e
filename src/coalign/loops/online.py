"""`coalign run rloo | grpo | ppo | online-dpo`: reinforcement learning on a file of prompts, with rewards of the reward language.

    coalign run grpo --prompts prompts.jsonl --reward 'final_answer:{answer}'
    coalign run rloo --prompts prompts.jsonl --reward max_words:20 --reward model:PATH@0.5
    coalign run online-dpo --prompts prompts.jsonl --reward "judge:is the answer polite?" --judge-model default

The policy samples `samples` responses to every prompt, they are rewarded, and the method learns from them: that is a rollout.
`--updates` passes over it follow, each of `--minibatches` optimizer steps; then come the next prompts. Held-out prompts are answered
before, during and after, and valued by the same rewards.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

from coalign.core.runs import Run
from coalign.loops.online_options import OnlineOptions
from coalign.training.online.methods import get_online_method


def online_learner(name: str) -> SimpleNamespace:
    """`Config` and `run` for the online method `name`, as a system has them.

    Raises:
        ConfigError: there is no such method.
    """
    method = get_online_method(name)
    config = dataclasses.make_dataclass("Config", [], bases=(method.constants, OnlineOptions), kw_only=True)
    config.__doc__ = f"Options of `coalign run {name}`."

    def run(config: Any, run: Run) -> None:
        from coalign.loops.online_run import run_online

        run_online(config, method, run)

    summary = (method.loss.__doc__ or "").strip()
    return SimpleNamespace(Config=config, run=run, method=method, __doc__=f"{summary}\n\n{method.when}")
