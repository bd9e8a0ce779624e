"""A whole line of post-training as one recipe: prompts, fine-tuning, reward model, reinforcement, merging, completed prompts.

Baichuan Alignment Technical Report (arXiv 2410.14940). Which stages there are follows from what is given::

    coalign run baichuan-alignment --model BASE --demonstrations chats.jsonl --preferences pairs.jsonl --prompts prompts.jsonl
    coalign run baichuan-alignment --model BASE --demonstrations chats.jsonl --merge-with runs/code,runs/maths
    coalign run baichuan-alignment --model BASE --complements complements.jsonl

- `curated`: with `--prompts`, one prompt of each template and of each group of like tasks (triplets of hard positives and
  negatives teach the embedding what likeness is); with `--anchors`, the best share of them by the judge's comparisons with
  anchors. `--no-curate` takes the prompts as they are.
- `tuned`: fine-tuning on `--demonstrations`. Rows lie side by side without padding and do not see each other.
- `rewarding`: a reward model on `--preferences`, by pairs and, where they have scores, by the scores.
- `reinforced`: GRPO with three responses a prompt, the divergence over the start model's 500 likeliest tokens taken off each
  token's advantage, and the same divergence on the demonstrations; by the reward model, or `--reward`.
- `merged`: what was tuned and reinforced, and `--merge-with`, in float32 by Model Stock.
- `completing`: a model that adds to a prompt what it leaves unsaid, from `--complements` (prompt, complement); it is no stage
  of the line but goes before it: `coalign serve RUN --align complement --option complement_model=RUN/stages/completing`.

The report has no code. Where its text needs a decision, ours are: minus before the divergence on demonstrations (its equation
2 prints a plus, which would push the policy away), scores z-scored in each data set, the policy first in the divergence, half a
point for a tie with an anchor, and every constant that it does not give (`--stage NAME.OPTION=VALUE` has the last word, as in
`--stage reinforced.beta=0.1`). It packs to a capacity with a kernel of variable length; here rows without padding do the same
(`coalign.models.scoring.packed_rows` plans rows of a capacity). Its labels of prompts are the step `label` of `coalign run
curate`, whose column `anchors` takes as a bucket; its preference data are `--unfold` with the steps `distinct` and `pair`. Both
are run by themselves. Sequence parallelism and its recipes for single abilities are not part of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ConfigError
from coalign.core.options import Count, CountOrZero, Fraction, Seed, option
from coalign.core.runs import Run
from coalign.models.options import ModelOptions
from coalign.platform.recipes import Part, RecipeOptions, run_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

SLUG = "baichuan-alignment"


@dataclass(kw_only=True)
class Config(RecipeOptions, ModelOptions):
    """Options of `coalign run baichuan-alignment`."""

    __group__ = "Method"

    prompts: str | None = option(None, "prompts to be curated and to learn on by reinforcement")
    demonstrations: str | None = option(None, "chats to be fine-tuned on")
    preferences: str | None = option(None, "pairs, perhaps with scores, for the reward model")
    reward: list[str] = option(
        [], "rewards in place of a reward model, as `coalign run grpo` takes them", split=False
    )
    merge_with: list[str] = option([], "other checkpoints of the model: folders, run folders or hub ids")
    merge_method: str = option(
        "model-stock", "how they are merged: model-stock, task-arithmetic or linear", source="section 2.4"
    )
    complements: str | None = option(
        None, "rows of prompt and complement, for the model that completes prompts"
    )
    curate: bool = option(True, "leave out prompts that are like another", only_with="prompts")
    template: Fraction = option(
        0.6, "share of words in order from which on two prompts share a template", only_with="prompts"
    )
    diverse: bool = option(
        True, "keep one prompt of each group of like tasks, by embeddings", only_with="prompts"
    )
    anchors: CountOrZero = option(
        0,
        "anchors that a judge compares every prompt with (the report: 30); 0: no judge is asked",
        only_with="prompts",
    )
    best: Fraction = option(0.5, "share of the prompts that is kept by their quality", only_with="anchors")
    judge_model: str | None = option(
        None, "the judge of prompts; by default the model itself", only_with="anchors"
    )
    max_steps: Count | None = option(None, "of every training")
    batch_size: Count = option(8, "of every training")
    max_length: Count = option(2048, "tokens of prompt and response in every training")
    max_new_tokens: Count = option(128, "of sampled responses")
    seed: Seed = option(0, "of everything random")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.curate:
            self.refuse(["template", "diverse", "anchors"], "without curate")
        if self.reward and self.preferences:
            raise ValueError("reward: a reward model is trained on preferences already; give one of them")


def run(config: Config, run: Run) -> None:
    """Run the stages, publish the last model, report.

    Raises:
        ConfigError: nothing is given to do; an option that a stage does not take.
        CoalignError: a stage failed; what the others made is kept.
    """
    from coalign.platform.pipeline.report import write_recipe_report

    if config.prompts:
        from coalign.data.readers import read_records

        read_records(config.prompts, kind="prompt")  # curation takes rows of any kind
    parts = list(stages(config, run))
    steps = run_recipe(config, run, parts, name=SLUG)
    write_recipe_report(config, run, steps, title=f"Post-training of {config.model}")


def stages(config: Config, run: Run) -> Iterator[Part]:
    """The stages that follow from what is given, in order."""
    prompts, tuned = config.prompts, config.model
    if config.prompts and config.curate:
        judge = (
            {"model": config.judge_model or config.model, "judge_readout": "logprobs"}
            if config.anchors
            else {}
        )
        yield Part(
            "curated",
            "curate",
            {"data": [config.prompts], "steps": _curation(config), **judge},
            shares=bool(judge),
        )
        prompts = "${curated}"
    if config.demonstrations:
        yield Part(
            "tuned", "sft", {"data": [config.demonstrations], "learning_rate": _rate(config, 1e-5), "epochs": 2.0, "weight_decay": 0.1}, publishes=True
        )  # fmt: skip
        tuned = "${tuned}"
    rewards = list(config.reward)
    if config.preferences:
        yield Part(
            "rewarding",
            "reward-model",
            {"model": tuned, "data": [config.preferences], "score_weight": _scored(config.preferences)},
        )
        rewards = ["model:${rewarding}"]
    merged = [tuned] if config.demonstrations else []
    if prompts and rewards:
        yield Part("reinforced", "grpo", _reinforcement(config, tuned, prompts, rewards), publishes=True)
        merged.append("${reinforced}")
    elif rewards and config.reward:
        raise ConfigError("--reward has no effect without --prompts.")
    merged += config.merge_with
    if len(merged) > 1:
        yield Part(
            "merged",
            "merge",
            {"models": merged, "base": config.model, "method": config.merge_method},
            publishes=True,
        )
    elif config.merge_with:
        raise ConfigError(
            "--merge-with: one checkpoint alone cannot be merged.", hint="Name two, or give demonstrations."
        )
    if config.complements:
        yield Part(
            "completing",
            "sft",
            {"data": [_requests(config.complements, run)], "epochs": 2.0, "max_length": 4096},
        )


def _curation(config: Config) -> list[Any]:
    steps: list[Any] = ["exact", {"template": {"threshold": config.template}}]
    if config.diverse:
        steps.append({"diverse": {"template": config.template, "seed": config.seed}})
    if config.anchors:
        steps += [
            {"anchors": {"anchors": config.anchors, "seed": config.seed}},
            {"top": {"by": "quality", "share": config.best}},
        ]
    return steps


def _reinforcement(config: Config, model: str, prompts: str, rewards: list[str]) -> dict[str, Any]:
    held = {"ptx_data": config.demonstrations, "ptx_weight": 0.1} if config.demonstrations else {}
    return {
        "model": model, "prompts": [prompts], "reward": rewards, "samples": 3, "beta": 0.05, "kl_in": "advantage",
        "kl_top_k": 500, "learning_rate": _rate(config, 1e-6), "max_new_tokens": config.max_new_tokens, **held,
    }  # fmt: skip


def _rate(config: Config, whole: float) -> float | None:
    """The report's learning rate for all weights; for an adapter the stage's own."""
    return whole if config.tuning == "full" else None


def _scored(path: str) -> float:
    """The weight of the term on absolute scores: 0.1 where responses have some."""
    from coalign.data.readers import read_records

    def has_scores(one: Any) -> bool:
        return getattr(one, "chosen_score", None) is not None or (
            bool(getattr(one, "scores", None)) and one.absolute
        )

    return 0.1 if any(map(has_scores, read_records(path).records)) else 0.0


def _requests(path: str, run: Run) -> str:
    """The records of prompt and complement as demonstrations of what completes prompts, in a file of the run."""
    from coalign.core.errors import DataError, RecordProblem
    from coalign.core.files import write_rows
    from coalign.data.messages import parse_text
    from coalign.data.rows import iter_rows, parse_each
    from coalign.decoding.in_context.complement import complement_request

    problems: list[RecordProblem] = []

    def demonstration(row: Any) -> dict[str, Any]:
        return {
            "prompt": complement_request(parse_text((row.value or {}).get("prompt"))),
            "completion": [{"role": "assistant", "content": parse_text((row.value or {}).get("complement"))}],
        }

    rows = list(parse_each(iter_rows(path), path, demonstration, problems))
    if problems or not rows:
        raise DataError(
            f"{path}: {len(problems)} of {len(problems) + len(rows)} rows hold no prompt and complement.",
            problems,
        )
    target = run.artefacts / "complements.jsonl"
    write_rows(target, rows)
    return str(target)
