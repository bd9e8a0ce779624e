"""Check of `more`: data sets weighed by the shortest vector between their gradients, against all weighed alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from coalign.checks.arms import Arm, Measured, measure_arms
from coalign.checks.rules import decide, exceeds, mean_of
from coalign.checks.worlds.classifiers.tastes import Tastes, learnt, linear_tastes
from coalign.core.files import atomic_path
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.convert import converted
from coalign.data.readers import read_records
from coalign.data.records import Ranking, responses_of
from coalign.data.splits import split_records
from coalign.rewards.more import Config, MoreTask
from coalign.training.reward_models.task import make_examples

TOKENS = 128
"""Of a text, for its features."""
T_TEST = 2.262
"""Standard errors that a mean of ten paired gaps exceeds in a two-sided t-test at 5 %."""


def check(run: Run, *, seeds: int = 10) -> Verdict:
    """MORE has a lower calibration error than the multi-task mixture at similar accuracy, over linear tastes that share
    one direction.

    Rule:
        Seen: the mean over the seeds of the paired gaps of the expected calibration error (10 bins, all test pairs;
        multi-task minus MORE) is above 0 by more than 2.262 standard errors (a paired t-test at 5 % under the ten seeds
        of the verdict), and the mean accuracy of MORE is at most 0.01 lower. Not seen: otherwise. Whether temperature
        scaling of the mixture alone closes the gap is reported beside the rule.

    Setting:
        Five linear teachers over 20 features, each the sum of a direction that all share and one of its own; 600 pairs
        each to train and 300 to test; 20 % of the labels of all but the first are flipped, in the test too. A reward
        model of 64 tanh units under a linear head; 4 epochs of 8 groups a step, Adam 1e-3.
    """
    rows = measure_arms(run, seeds=seeds, prepare=linear_tastes, arms=_arms(epochs=4))
    return _verdict(rows, check)


def check_on_data(run: Run, *, seeds: int = 10, data: Path) -> Verdict:
    """The same on real pairs of several data sets (a column `tag` names them), over frozen sentence features.

    Rule:
        That of the check without data.

    Setting:
        {data}: {pairs} pairs of {tags}; 70 % of the prompts to train, 30 % to test. Features: all-MiniLM-L6-v2 of
        prompt and answer, 128 tokens. A reward model of 64 tanh units under a linear head; 5 epochs of 8 groups a step,
        Adam 1e-3.
    """
    records = [cast(Ranking, one) for one in _rankings(data)]
    features = _features(run, records)
    tags = sorted({str(one.extra.get("tag", "")) for one in records})

    def drawn(seed: int) -> Tastes:
        parts = split_records(records, 0.3, seed)
        made = [make_examples(part, [features[id(one)] for one in part], "none") for part in parts]
        return Tastes(made[0], made[1], seed, width=made[0][0].inputs[0].shape[0])

    rows = measure_arms(run, seeds=seeds, prepare=drawn, arms=_arms(epochs=5))
    return _verdict(rows, check_on_data, data=data.name, pairs=len(records), tags=", ".join(tags))


def _arms(epochs: int) -> Mapping[str, Arm[Tastes]]:
    given = {
        "MultiTask": Config(data="tastes.jsonl", weights="uniform"),
        "MORE": Config(data="tastes.jsonl"),
        "MORE, gradients as they are": Config(data="tastes.jsonl", normalise="none"),
    }
    return {
        name: lambda world, config=config: learnt(
            world, lambda inputs, tags: MoreTask(inputs, config, tags), epochs=epochs
        )
        for name, config in given.items()
    }


def _verdict(rows: Measured, check: Callable[..., Verdict], **found: Any) -> Verdict:
    metric = "ECE, 10 bins"
    gaps = rows.gaps(metric, "MultiTask", "MORE")
    lost = rows.gap("accuracy", "MultiTask", "MORE")
    scaled = rows.mean("ECE, temperature scaled", "MultiTask")
    return rows.verdict(
        check,
        outcome=decide(seen=exceeds(gaps, T_TEST) and lost <= 0.01),
        summary={
            "ECE, multi-task - MORE": mean_of(gaps),
            "accuracy, multi-task - MORE": lost,
            **{
                f"ECE, {bins} bins, multi-task - MORE": rows.gap(f"ECE, {bins} bins", "MultiTask", "MORE")
                for bins in (5, 20)
            },
            "ECE of the mixture, temperature scaled": scaled,
            "scaling the mixture alone": "at least as low as MORE"
            if scaled <= rows.mean(metric, "MORE")
            else "above MORE",
            "ECE, multi-task - MORE with gradients as they are": rows.gap(
                metric, "MultiTask", "MORE, gradients as they are"
            ),
        },
        **found,
    )


def _rankings(data: Path) -> list[Ranking]:
    found = read_records(data)
    return cast("list[Ranking]", converted(found, "ranking"))


def _features(run: Run, records: list[Ranking]) -> dict[int, list[torch.Tensor]]:
    """By record the features of its responses; kept in the run folder, since they take minutes."""
    from safetensors.torch import load_file, save_file

    from coalign.models.embedding import load_encoder

    path = run.artefacts / "features.safetensors"
    if not path.exists():
        texts = [f"{one.prompt[-1]['content']}\n{text}" for one in records for text in responses_of(one)]
        with atomic_path(path) as temporary:
            save_file({"features": replace(load_encoder(), max_length=TOKENS).encode(texts)}, temporary)
    rows = iter(load_file(path)["features"])
    return {id(one): [next(rows) for _ in responses_of(one)] for one in records}
