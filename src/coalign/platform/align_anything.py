"""Preference pairs out of criticism in words: a model's answers are criticised, written anew, and the rewriting is preferred.

Align Anything: Training All-Modality Models to Follow Instructions with Language Feedback (arXiv 2412.15838).

    coalign run align-anything --data critiques.jsonl --prompts prompts.jsonl --model Qwen/Qwen2-VL-7B-Instruct
    coalign run align-anything --prompts prompts.jsonl --critic runs/earlier/stages/feedback-model --labelled pairs.jsonl
    coalign run align-anything --pairs runs/earlier --optimise ppo --prompts prompts.jsonl

The stages follow from what is given, and each goes on after a kill: a feedback model learns from critiques of answers (`--data`:
prompt, response, judgment), or is named (`--critic`; neither: the model criticises itself); `language-feedback` answers prompts,
criticises and writes anew (`--pairs` names such pairs instead); DPO on the pairs, or a reward model and PPO; DPO on pairs that
people labelled as the baseline (`--labelled`). Then start and trained models answer held-out prompts. The stages are
`feedback-model`, `improvement`, `dpo`, `reward-model`, `ppo` and `labelled`; `--stage dpo.beta=0.05` has the last word on one's
options.

Records may show pictures: then the models are image-text-to-text models. PPO is of text alone; sounds and films are not read. With
pictures this was run on random weights only. The published rates are for full fine-tuning; an adapter takes the usual ones.
Differences: sampling has no repetition penalty (1.1 there); AdamW's betas are the usual ones; responses are masked by their own
tokens where the official DPO slices the end of a row; PPO's critic is a head on the policy, at half the weight, and its loss on
demonstrations is off (`--stage ppo.ptx_data=...`). Nothing checks that a refinement is better: `--measure` says how often it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import Fraction, NonNegative, Positive, option
from coalign.core.runs import Run, is_main_process
from coalign.data.records import Record
from coalign.data.sources import DataSources, canonical_sources, named
from coalign.data.writers import write_records
from coalign.models.files.places import full_name, short_name
from coalign.platform.language_feedback.improvement import critique_demonstrations
from coalign.platform.language_feedback.run import PAIRS, FeedbackOptions, figure_table, read_prompts
from coalign.platform.recipes import OWN_FILES, UNTRAINED, Part, RecipeOptions, run_recipe
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves, judged
from coalign.training.material import LearningOptions, announce, read_sources

CRITIQUES = "critiques.jsonl"
"""Artefact: what the feedback model learns."""
FEEDBACK = {"schedule": "constant", "epochs": 1.0, "weight_decay": 0.0}
REWARD = {"epochs": 3.0, "reward_l2": 0.0005}
"""The published mu of 0.001 is of the mean over all responses, `reward_l2` of the sum over both of a pair."""
PPO = {
    "beta": 0.02, "epsilon": 0.2, "value_clip": 5.0, "reward_clip": 50.0, "discount": 1.0, "trace": 0.95, "value_weight": 0.5,
    "whiten": False, "average": "responses", "samples": 1, "updates": 1, "schedule": "cosine", "epochs": 1.0,
}  # fmt: skip
RATES = {"feedback-model": 2e-5, "dpo": 1e-6, "labelled": 1e-6, "reward-model": 2e-5, "ppo": 1e-5}
"""Published learning rates, of full fine-tuning."""
_CHARTS = (("loss", "Loss"), ("rewards/accuracies", "Pairs in the right order"), ("reward", "Reward"))


@dataclass(kw_only=True)
class Config(FeedbackOptions, RecipeOptions, LearningOptions):
    """Options of `coalign run align-anything`."""

    __group__ = "Method"

    data: DataSources | None = option(  # pyright: ignore[reportIncompatibleVariableOverride]  # any stage can be left out
        None, "critiques to learn from: prompt, response, judgment", group="Data"
    )
    prompts: DataSources | None = option(None, "prompts without labels, for self-improvement and for PPO")
    pairs: DataSources | None = option(None, "pairs of an earlier run, in place of self-improvement")
    labelled: DataSources | None = option(None, "pairs that people labelled: the baseline, trained alike")
    optimise: Literal["dpo", "ppo", "both", "none"] = option(
        "dpo",
        "learn from the pairs by DPO, by a reward model and PPO, by both (DPO's model is the run's), or not at all",
    )
    eval_prompts: DataSources | None = option(
        None, "held-out prompts, answered by every model", group="Evaluation"
    )
    epochs: Positive = option(3.0, "passes over the pairs", source="paper", group="Training")
    warmup_ratio: Fraction = option(
        0.03, "share of the steps with rising learning rate", source="paper", group="Training"
    )
    weight_decay: NonNegative = option(0.05, "AdamW weight decay of DPO", source="paper", group="Training")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompts", "pairs", "labelled", "eval_prompts"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, canonical_sources(value, name, weights=name in ("pairs", "labelled")))
        self.check_measure()
        self.refuse(["eval_data"], "here: --eval-fraction holds out records of every stage")
        criticises = ("critic", "critic_endpoint")
        if self.data is not None:
            self.refuse(criticises, "with data: a feedback model learns")
        if not self.improves:
            self.refuse(
                ("refine_on", "critique_tokens", "request_batch", *criticises), "without self-improvement"
            )
        if self.prompts is None and self.eval_prompts is None:
            self.refuse(
                ("max_new_tokens", "temperature", "top_p", "top_k", "stop", "measure"), "without prompts"
            )
        if self.pairs is not None and self.optimise in ("dpo", "none"):
            self.refuse(["prompts"], f"with pairs and optimise: {self.optimise}")
        if self.optimise in ("ppo", "both") and self.prompts is None:
            raise ValueError("optimise: PPO needs prompts to learn on, give prompts or take dpo")

    @property
    def improves(self) -> bool:
        """Whether pairs are made."""
        return self.prompts is not None and self.pairs is None


def run(config: Config, run: Run) -> None:
    """Read all data first; then the stages that are not done; answers to held-out prompts; report.

    Raises:
        ConfigError: nothing to do, PPO on pictures, or an option that a stage does not take.
        DataError: records that cannot be used, with their places.
        CoalignError: no pair is left.
    """
    from coalign.platform.language_feedback.held_out import answered

    notes: list[str] = []
    critiques = read_critiques(config, run, notes) if config.data is not None else []
    # What became of the prompts is told by the stages that learn from them.
    prompts, held_out = (
        [] if one is None else read_prompts(config, one, []) for one in (config.prompts, config.eval_prompts)
    )
    if config.optimise in ("ppo", "both") and any(one.pictures for one in prompts):
        raise ConfigError("PPO takes no prompts with pictures.", hint="Use --optimise dpo.")
    announce(notes, run)
    if critiques and is_main_process():
        write_records(run.artefacts / CRITIQUES, critiques, form="conversational")
    steps = run_recipe(config, run, parts_of(config, run), name="align-anything")
    done = {step.name: Run(step.folder) for step in steps if step.state == "done"}
    if not is_main_process():
        return
    if "improvement" in done:
        run.publish_records(done["improvement"].artefacts / PAIRS)
    models = {name: done[name].path for name in ("dpo", "ppo", "labelled") if name in done}
    report(config, run, done, answered(config, run, held_out, models) if held_out else {}, notes)


def parts_of(config: Config, run: Run) -> list[Part]:
    """The stages that are wanted; the last of those with a model is the run's."""

    def rate(name: str) -> dict[str, Any]:
        full = config.tuning == "full" and config.learning_rate is None
        return {"learning_rate": RATES[name] if full else config.learning_rate}

    paper = {name: getattr(config, name) for name in ("epochs", "warmup_ratio", "weight_decay")}
    mine = OWN_FILES if config.improves else {"kind": None}
    pairs: Any = ["${improvement}"] if config.improves else config.pairs
    asked = {"prompts": config.prompts}
    parts: list[Part] = []
    if config.data is not None:
        options = {
            "data": [str(run.artefacts / CRITIQUES)],
            **paper,
            **FEEDBACK,
            **OWN_FILES,
            **rate("feedback-model"),
        }
        parts.append(Part("feedback-model", "sft", options, publishes=True))
    if config.labelled is not None:
        options = {"data": config.labelled, "kind": None, **paper, **rate("labelled")}
        parts.append(Part("labelled", "dpo", options, publishes=True))
    if config.improves:
        critic = {"critic": "${feedback-model}"} if config.data is not None else {}
        options = {**asked, **UNTRAINED, "kind": None, **critic}
        parts.append(Part("improvement", "language-feedback", options))
    if pairs is not None and config.optimise in ("ppo", "both"):
        options = {"data": pairs, **paper, **REWARD, **mine, **rate("reward-model")}
        parts.append(Part("reward-model", "reward-model", options))
        held_out = {} if config.eval_prompts is None else {"eval_prompts": config.eval_prompts}
        options = {**asked, **held_out, "reward": ["model:${reward-model}"], **PPO, **rate("ppo")}
        parts.append(Part("ppo", "ppo", options, publishes=True))
    if pairs is not None and config.optimise in ("dpo", "both"):
        parts.append(Part("dpo", "dpo", {"data": pairs, **paper, **mine, **rate("dpo")}, publishes=True))
    return parts


def read_critiques(config: Config, run: Run, notes: list[str]) -> list[Record]:
    """What the feedback model learns.

    Raises:
        DataError: a source that cannot be read, or no judgment in words.
    """
    assert config.data is not None
    parts = read_sources(config, config.data, "judgment", notes, seed=config.seed, run=run)
    records = [one for part in parts for one in part.records]
    found = critique_demonstrations(records)
    if not found:
        raise DataError(f"{named(config.data)}: no record has a judgment in words.")
    if len(found) < len(records):
        notes.append(f"{len(records) - len(found)} judgments without words were left out")
    return [*found]


def report(
    config: Config, run: Run, done: Mapping[str, Run], answers: Mapping[str, Any], notes: list[str]
) -> None:
    """Write the report."""
    from coalign.platform.language_feedback.held_out import changes, held_out_sections

    pairs = done["improvement"].status().get("figures", {}) if "improvement" in done else {}
    tests = changes(answers)
    trained = [name for name in ("dpo", "ppo", "labelled", "feedback-model") if name in done]
    text = [f"{pairs['pairs']:,.0f} pairs were made."] if pairs else []
    if trained:
        text.append(f"Trained: {', '.join(trained)}.")
    row = tests.get(trained[0]) if trained else None
    if row is not None:
        text.append(
            f"On held-out prompts {row.name} is at {row.after.value:.3g}, the start at {row.before.value:.3g}."
        )
    said = " ".join(text) or "No stage was run."
    lines = [[name, one.status()["method"], one.status().get("headline", ""), str(one.path)] for name, one in done.items()]  # fmt: skip
    histories = {
        name: [event for event in one.events("train") if "loss" in event] for name, one in done.items()
    }
    publish(
        run,
        config,
        title=f"{short_name(config.model)} aligned by language feedback",
        facts={"Model": full_name(config.model), "Seed": str(config.seed)},
        verdict=judged(row.difference, said, n=row.n) if row is not None else doc.Headline("neutral", said),
        sections=[
            doc.TableSection("Stages", columns=["Stage", "Method", "Result", "Folder"], rows=lines),
            *([figure_table("Pairs", pairs)] if pairs else []),
            *held_out_sections(answers, tests),
            *curves(_CHARTS, histories),
        ],
        notes=notes,
        limitations=[
            "Nothing checks that a refinement is better than its response: the pair is learnt as it is.",
            *([] if config.measure else ["Answers were not measured: name a --measure."]),
        ],
        then=[
            *([doc.Command(f"coalign chat {run.path}", "talk to the model")] if trained else []),
            *([doc.Command(f"coalign run dpo --data {run.path}", "learn from the same pairs again")] if pairs else []),
        ],
        figures=pairs | {name: one.after.value for name, one in tests.items()},
        trained_on="Stages and their data are in the report." if trained else None,
    )  # fmt: skip
