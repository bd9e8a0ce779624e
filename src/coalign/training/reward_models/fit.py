"""Train a reward model from preferences or rankings, save it with its head, and say how far its probabilities hold.

    coalign run reward-model --data pairs.jsonl --model default

A scalar head on any Hugging Face language model or encoder, trained by Bradley-Terry; several data sets at once keep a
tag each. What is saved gives the same number in coalign (`--reward model:RUN`) and in plain Transformers: the reward is
read at the last token of the response, also where the end of a turn is the padding token of the base.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from coalign.core.errors import DataError
from coalign.core.files import read_rows, write_json, write_rows
from coalign.core.options import Count, option
from coalign.core.runs import Run, is_main_process
from coalign.data.records import Ranking
from coalign.training.distributed.shared_work import by_all
from coalign.training.job import FitResult
from coalign.training.material import LearningOptions, Material, announce, read_material
from coalign.training.reward_models.balance import balance_examples, balance_section
from coalign.training.reward_models.report import write_reward_report
from coalign.training.reward_models.task import (
    RewardExample,
    RewardLossOptions,
    RewardTask,
    make_examples,
    score_scales,
    tag_of,
)

if TYPE_CHECKING:
    from coalign.models.reward_inputs import RewardInputs, RewardText

HELD_OUT = "held_out.jsonl"
"""Artefact with the rewards of the held-out responses."""


@dataclass(kw_only=True)
class RewardModelOptions(RewardLossOptions, LearningOptions):
    """Options of everything that trains a reward model."""

    __group__ = "Reward model"

    input_format: Literal["auto", "chat", "pair", "transcript"] = option(
        "auto",
        "how prompt and response become a text; auto: the chat template where there is one, else two segments for an "
        "encoder, else a transcript",
    )
    save: Literal["whole", "adapter"] = option(
        "whole",
        "a model folder that any tool loads as it is, or the adapter and the head alone, which are small",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse(("reference_logps", "max_prompt_length"), "for a reward model")
        if self.tuning == "full" and self.save == "adapter":
            raise ValueError("save: adapter has nothing to save with tuning: full")
        if self.save == "adapter":
            self.refuse(["save_dtype"], "with save: adapter, which is float32")


@dataclass(kw_only=True)
class Config(RewardModelOptions):
    """Options of `coalign run reward-model`."""

    __group__ = "Reward model"

    balance_lengths: list[Count] = option(
        [],
        "ascending edges of buckets by the difference of a pair's lengths, in tokens (such as 10,50,200): in each as many "
        "training pairs are kept whose better response is longer as whose better response is shorter",
        source="arXiv 2404.00934",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.balance_lengths != sorted(set(self.balance_lengths)):
            raise ValueError(f"balance_lengths: {self.balance_lengths} do not rise, expected ascending edges")


def run(config: Config, run: Run) -> None:
    """Train, save, measure on held-out records and report.

    Raises:
        DataError: records that cannot be used, or that do not say what is better.
    """
    material = read_material(config, "ranking", run)
    announce(material.notes, run)
    arrange = _as_they_are
    if config.balance_lengths:
        arrange = functools.partial(balance_examples, edges=config.balance_lengths, seed=config.seed, run=run)
    result = train_reward_model(config, material, run, arrange=arrange)
    if is_main_process():
        rows = held_out_rewards(config, material, run)
        more = [balance_section(run)] if config.balance_lengths else []
        write_reward_report(run, config, material, result, rows, sections=more)


MakeTask = Callable[["RewardInputs", Any, Sequence[str]], RewardTask]


def _as_they_are(examples: list[RewardExample]) -> list[Any]:
    return [*examples]


@by_all
def train_reward_model(
    config: RewardModelOptions,
    material: Material,
    run: Run,
    make_task: MakeTask = RewardTask,
    arrange: Callable[[list[RewardExample]], list[Any]] = _as_they_are,
    *,
    name: str = "train",
    folder: Path | None = None,
    **arguments: Any,
) -> FitResult:
    """Train on rankings and save the model; what was finished before is read, not done again.

    Args:
        name: of this training among those of the run.
        folder: to save in, by default the run's `model`.
        arguments: further ones of `fit_module`.
        make_task: the task over inputs, options and tags, for methods that weigh or change the losses.
        arrange: training examples to what such a task collates (groups of them).

    Raises:
        DataError: no record is left in which a response is better than another.
    """
    from transformers import set_seed

    from coalign.models.adapters import trainable_summary
    from coalign.models.files.classifiers import choose_pad_token, new_classifier
    from coalign.models.files.saving import save_model
    from coalign.models.limits import assert_fits
    from coalign.models.reward_inputs import write_settings
    from coalign.training.modules import fit_module

    done, folder = run.artefacts / f"{name}.json", folder or run.model
    if done.exists() and folder.exists():
        return FitResult(**json.loads(done.read_text(encoding="utf-8")))
    inputs = make_inputs(config)
    tokenizer: Any = inputs.tokenizer
    scales = score_scales(cast("Sequence[Ranking]", material.training)) if config.score_weight else {}
    if config.score_weight and not any(deviation for _, deviation in scales.values()):
        raise DataError(
            "score_weight needs absolute scores, and no training record has them.",
            hint="Pairs have them in score_chosen and score_rejected, rankings in scores.",
        )
    parts = [
        _examples(cast("Sequence[Ranking]", records), inputs, config, run, what, scales)
        for records, what in ((material.training, "training"), (material.held_out, "held-out"))
    ]
    set_seed(config.seed)  # the first weights of head and adapter
    model = new_classifier(config)
    if choose_pad_token(model, tokenizer) is None:
        told = "Plain Transformers reads the reward of a finished response one token early: every special token may end a text."
        run.log(
            "warning",
            key="pad_token",
            text=told,
            advice="Score with coalign, or add a pad token to the base.",
        )
    assert_fits(model, (one.ids for part in parts for example in part for one in example.inputs))
    run.log("model", summary=trainable_summary(model))
    tags = list(dict.fromkeys(one.tag for part in parts for one in part))
    result = fit_module(
        model,
        make_task(inputs, config, tags),
        arrange(parts[0]),
        config,
        run,
        name=name,
        held_out=parts[1],
        processor=tokenizer,
        **arguments,
    ).finite()
    if is_main_process():
        save_model(cast(Any, model), tokenizer, folder, merge=config.save == "whole")
        write_settings(folder, inputs)
        write_json(done, asdict(result))
    return result


def make_inputs(config: RewardModelOptions) -> RewardInputs:
    """How a model of these options reads texts; its weights are not loaded."""
    from coalign.models.files.classifiers import outline
    from coalign.models.files.loading import load_tokenizer
    from coalign.models.reward_inputs import RewardInputs
    from coalign.models.reward_model import longest_text, pick_format

    tokenizer: Any = load_tokenizer(config)
    shape = outline(config)
    wanted = None if config.input_format == "auto" else config.input_format
    longest = longest_text(shape, tokenizer)
    format = pick_format(config.model, shape, tokenizer, wanted)
    return RewardInputs(tokenizer, format, min(config.max_length or longest, longest))


def _examples(
    records: Sequence[Ranking],
    inputs: RewardInputs,
    config: RewardModelOptions,
    run: Run,
    what: str,
    scales: Mapping[str, tuple[float, float]],
) -> list[RewardExample]:
    if not records:
        return []
    texts = inputs.texts(records, label="Tokenising")
    records, texts = _that_fit(records, texts, inputs, run, what)
    cut = sum(one.cut for group in texts for one in group)
    examples = make_examples(records, texts, config.margin, scales)
    same = sum(len(set(one.inputs)) == 1 for one in examples)
    run.log("encoded", part=what, records=len(records), used=len(examples), truncated=cut, same_tokens=same)
    if not examples or same == len(examples):
        why = (
            "the compared responses are the same tokens, once they are cut"
            if examples
            else "no response is better"
        )
        raise DataError(
            f"In all {len(records)} {what} records {why}.", hint="Raise --max-length, or look at the data."
        )
    return examples


def _that_fit(
    records: Sequence[Ranking], texts: list[list[RewardText]], inputs: RewardInputs, run: Run, what: str
) -> tuple[list[Ranking], list[list[RewardText]]]:
    """The records without those whose pictures leave no room, which are counted: a picture is never cut."""
    from coalign.models.reward_inputs import too_long_to_show

    kept = [
        (record, group) for record, group in zip(records, texts, strict=True) if not too_long_to_show(group)
    ]
    dropped = len(records) - len(kept)
    told = (
        f"{dropped} {what} records with pictures have more than {inputs.max_length} tokens and were dropped"
    )
    if dropped:
        announce([told], run)
    if not kept:
        raise DataError(f"No {what} record is left: {told}.", hint="Raise --max-length.")
    return [record for record, _ in kept], [group for _, group in kept]


def held_out_rewards(config: RewardModelOptions, material: Material, run: Run) -> list[dict[str, Any]]:
    """For each held-out record its id, tag, values and the rewards of its responses under the saved model, which is read
    back as any user reads it. Rows that are there already are not computed again.
    """
    from coalign.models.reward_inputs import too_long_to_show
    from coalign.models.reward_model import load_reward_model

    path = run.artefacts / HELD_OUT
    records = [cast(Ranking, one) for one in material.held_out]
    if not records:
        return []
    if not path.exists():
        model = load_reward_model(
            str(run.model), device=config.device, trust_remote_code=config.trust_remote_code
        )
        groups = model.inputs.texts(records)
        fitting = [  # those that do not fit were dropped before training too
            pair for pair in zip(records, groups, strict=True) if not too_long_to_show(pair[1])
        ]
        records = [record for record, _ in fitting]
        rewards = model.score_groups(
            records, [group for _, group in fitting], show="Scoring held-out responses"
        )
        write_rows(
            path,
            [
                {"id": one.id, "tag": tag_of(one), "values": list(one.scores), "rewards": found}
                for one, found in zip(records, rewards, strict=True)
            ],
        )
    return list(read_rows(path))
