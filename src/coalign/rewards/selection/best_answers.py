"""Rejection sampling: several answers to each prompt, the best by the run's reward model, a policy fine-tuned on these."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from coalign.core.files import read_rows, write_rows
from coalign.core.options import Count, OptionGroup, Positive, option
from coalign.core.runs import Run
from coalign.data.readers import read_records
from coalign.data.records import Demonstration
from coalign.loops.rows import answer_rows
from coalign.models.backends.open import open_generator
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.report.model import TableSection
from coalign.training.job import Job
from coalign.training.learning import train
from coalign.training.material import LearningOptions
from coalign.training.objective import get_objective

POLICY = "policy"
"""Folder of the run with the policy."""
BATCH_SIZE = 8


@dataclass(kw_only=True)
class BestAnswerOptions(SamplingOptions, OptionGroup):
    """Which policy answers which prompts, to be fine-tuned on its best answers."""

    __group__ = "Best answers"

    prompts: str | None = option(
        None, "prompts: a policy is fine-tuned on the best of its answers by the trained reward model"
    )
    policy: str = option("default", "the policy that answers and is fine-tuned", only_with="prompts")
    best_of: Count = option(4, "answers to each prompt", source="paper", only_with="prompts")
    policy_learning_rate: Positive | None = option(
        None,
        "of the fine-tuning; by default 1e-4 for an adapter and 1e-6 for all weights",
        source="paper: 1e-6, all weights",
        only_with="prompts",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts is None:
            self.refuse(SamplingOptions, "without prompts")


def learn_best_answers(config: BestAnswerOptions, run: Run) -> list[TableSection]:
    """Sample, choose and fine-tune; `answers.jsonl`, `best.jsonl` and the policy lie in the run folder. What is there
    already is not made again.

    Args:
        config: also with model, training and data options.

    Returns:
        A section for the report.
    """
    assert config.prompts is not None
    from coalign.models.reward_model import load_reward_model

    records = read_records(config.prompts, kind="prompt").records
    policy = ModelOptions.of(config, model=config.policy, revision=None)
    options = LearningOptions.of(
        config,
        model=config.policy,
        revision=None,
        learning_rate=config.policy_learning_rate,
        batch_size=BATCH_SIZE,
    )
    rows = answer_rows(
        run.artefacts / "answers.jsonl",
        records,
        lambda: open_generator(policy),
        config.sampling(n=config.best_of, seed=options.seed),
        label="Sampling answers",
    )
    path = run.artefacts / "best.jsonl"
    if not path.exists():
        rewards = iter(
            load_reward_model(str(run.model), device=policy.device).score(
                [row["prompt"] for row in rows for _ in row["responses"]],
                [text for row in rows for text in row["responses"]],
                show="Scoring answers",
            )
        )
        chosen = []
        for row in rows:
            scores = [next(rewards) for _ in row["responses"]]
            best = scores.index(max(scores))
            chosen.append(
                {
                    "id": row["id"],
                    "prompt": row["prompt"],
                    "completion": row["responses"][best],
                    "rewards": scores,
                }
            )
        write_rows(path, chosen)
    found = list(read_rows(path))
    learnt = [
        Demonstration.of(record, completion=row["completion"])
        for record, row in zip(records, found, strict=True)
        if row["completion"].strip()
    ]
    objective = get_objective("sft")
    job = Job(
        objective=objective,
        options=options,
        run=run,
        records=learnt,
        constants=objective.constants(),
        name=POLICY,
    )
    result = train(job, run.path / POLICY)
    table = [
        ["mean reward of all answers", statistics.fmean(one for row in found for one in row["rewards"])],
        ["mean reward of the best", statistics.fmean(max(row["rewards"]) for row in found)],
        ["answers that the policy was fine-tuned on", float(len(learnt))],
        ["steps", float(result.steps)],
    ]
    return [
        TableSection(
            title=f"Policy on its best of {config.best_of} answers", columns=("", "value"), rows=table
        )
    ]
