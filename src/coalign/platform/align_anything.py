"""Preference pairs out of criticism in words: a model's answers are criticised, written anew, and the rewriting is preferred.

Align Anything: Training All-Modality Models to Follow Instructions with Language Feedback (arXiv 2412.15838).

    coalign run align-anything --data critiques.jsonl --prompts prompts.jsonl --model Qwen/Qwen2-VL-7B-Instruct
    coalign run align-anything --prompts prompts.jsonl --critic runs/earlier/stages/feedback-model --labelled pairs.jsonl
    coalign run align-anything --pairs runs/earlier --optimise ppo --prompts prompts.jsonl

Stages, each of which can be left out by giving what it would make, and each of which goes on after a kill: a feedback model learns
from critiques of answers (`--data`: prompt, response, judgment), or is named (`--critic`; neither: the model criticises
itself); the model answers prompts, the feedback model criticises, the model writes anew (`--pairs` names such pairs instead); DPO on
the pairs, or a reward model and PPO; DPO on pairs that people labelled as the baseline (`--labelled`); answers to held-out prompts
before and after. The stages are methods of `coalign run` in run folders of their own under `stages/`, and take that
method's options (`--dpo-option beta=0.05`).

Records may show pictures: then the models are image-text-to-text models. PPO is of text alone, sounds and films are not read, and
with pictures this was run on random weights only. The published defaults are for full fine-tuning; an adapter takes the usual
rates. Differences: the repetition penalty of 1.1 is not there; AdamW's betas are the usual ones; responses are masked by
their own tokens where the official DPO slices the end of a row; PPO's critic is a head on the policy, its rate half the
actor's by the weight of its loss; the loss on demonstrations beside PPO is off (`--ppo-option ptx_data=...`). Nothing checks that
a refinement is better: `--measure` says how often it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.files import write_json
from coalign.core.options import Count, option
from coalign.core.runs import Run, is_main_process
from coalign.data.checking.usable import repeated_ids
from coalign.data.records import Record
from coalign.data.sources import DataSources, canonical_sources, named
from coalign.data.writers import write_records
from coalign.loops.prompts import check_values
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.platform.language_feedback.improvement import critique_demonstrations
from coalign.platform.language_feedback.prompts import RefineOn
from coalign.platform.stages import Stage, plan_stage, run_stage
from coalign.training.material import LearningOptions, ReadingOptions, announce, read_sources

CRITIQUES, PAIRS = "critiques.jsonl", "pairs.jsonl"
"""Artefacts: what the feedback model learns, and the pairs."""
FEEDBACK = {"schedule": "constant", "epochs": 1.0, "weight_decay": 0.0}
REWARD = {"schedule": "cosine", "epochs": 3.0, "reward_l2": 0.0005}
"""The published mu of 0.001 is of the mean over all responses, `reward_l2` of the sum over both of a pair."""
PPO = {
    "beta": 0.02, "epsilon": 0.2, "value_clip": 5.0, "reward_clip": 50.0, "discount": 1.0, "trace": 0.95, "value_weight": 0.5,
    "whiten": False, "average": "responses", "samples": 1, "updates": 1, "schedule": "cosine", "epochs": 1.0,
}  # fmt: skip
RATES = {"feedback-model": 2e-5, "dpo": 1e-6, "labelled": 1e-6, "reward-model": 2e-5, "ppo": 1e-5}
"""Published learning rates, of full fine-tuning."""
_OWN = {"kind": None, "column": None, "limit": None, "split": "train"}
"""How files are read that the run wrote itself."""


@dataclass(kw_only=True)
class Config(SamplingOptions, LearningOptions):
    """Options of `coalign run align-anything`."""

    __group__ = "Method"

    data: DataSources | None = option(  # pyright: ignore[reportIncompatibleVariableOverride]  # any stage can be left out
        None, "critiques to learn from: prompt, response, judgment", group="Data"
    )
    critic: str | None = option(
        None,
        "the feedback model, in place of one that learns; by default of neither, the model criticises itself",
    )
    critic_endpoint: str | None = option(
        None, "address of an OpenAI-compatible server with the feedback model"
    )
    prompts: DataSources | None = option(None, "prompts without labels for self-improvement and PPO")
    pairs: DataSources | None = option(None, "pairs of an earlier run, in place of self-improvement")
    labelled: DataSources | None = option(None, "pairs that people labelled: the baseline, trained alike")
    refine_on: RefineOn = option(
        "x,y,c",
        "prompt, response and critique, or prompt and critique alone",
        source="official code; x,c: paper's text",
    )
    optimise: Literal["dpo", "ppo", "both", "none"] = option(
        "dpo",
        "learn from the pairs by DPO, by a reward model and PPO, by both (DPO's model is the run's), or not at all",
    )
    critique_tokens: Count = option(
        4096, "most tokens of a critique", source="official code", group="Sampling"
    )
    max_new_tokens: Count = option(
        2048, "most tokens of a response or a refinement", source="official code", group="Sampling"
    )
    request_batch: Count = option(32, "prompts at a time: what a kill may cost", group="Sampling")
    eval_prompts: DataSources | None = option(
        None, "held-out prompts, answered by every model", group="Evaluation"
    )
    measure: list[str] = option(
        [],
        "a reward (NAME:ARGUMENTS) that nothing is learned from: how often refinements and held-out answers are better",
        split=False,
        group="Evaluation",
    )
    epochs: float = option(3.0, "passes over the pairs", source="paper", group="Training")
    warmup_ratio: float = option(
        0.03, "share of the steps with rising learning rate", source="paper", group="Training"
    )
    weight_decay: float = option(0.05, "AdamW weight decay", source="paper", group="Training")
    feedback_option: list[str] = option(
        [], "KEY=VALUE of `coalign run sft` for the feedback model", split=False, group="Stages"
    )
    dpo_option: list[str] = option(
        [], "KEY=VALUE of `coalign run dpo`, for both trainings", split=False, group="Stages"
    )
    reward_option: list[str] = option(
        [], "KEY=VALUE of `coalign run reward-model`", split=False, group="Stages"
    )
    ppo_option: list[str] = option([], "KEY=VALUE of `coalign run ppo`", split=False, group="Stages")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompts", "pairs", "labelled", "eval_prompts"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, canonical_sources(value, name, weights=name in ("pairs", "labelled")))
        check_values(self.measure)
        if self.data is not None and (self.critic is not None or self.critic_endpoint is not None):
            raise ValueError("data and critic exclude each other: a feedback model learns, or there is one")
        if self.pairs is not None and (self.data is not None or self.critic or self.critic_endpoint):
            raise ValueError("pairs: leave nothing for a feedback model to do, give pairs or data and critic")
        self.refuse(["eval_data"], "here: --eval-fraction holds out records of every stage")
        if self.data is None:
            self.refuse(["feedback_option"], "without data")
        if self.pairs is not None or self.prompts is None:
            self.refuse(
                ("refine_on", "critique_tokens", "request_batch", "critic", "critic_endpoint"),
                "without self-improvement",
            )
        if self.optimise in ("dpo", "none"):
            self.refuse(("reward_option", "ppo_option"), f"with optimise: {self.optimise}")
        if self.optimise in ("ppo", "none") and self.labelled is None:
            self.refuse(["dpo_option"], f"with optimise: {self.optimise}")
        if self.prompts is None and self.eval_prompts is None:
            self.refuse(SamplingOptions, "without prompts")
            self.refuse(["measure"], "without prompts")
        for name in ("feedback_option", "dpo_option", "reward_option", "ppo_option"):
            if bad := [one for one in getattr(self, name) if not one.partition("=")[1]]:
                raise ValueError(f"{name}: {bad[0]!r}, expected KEY=VALUE")

    @property
    def improves(self) -> bool:
        """Whether pairs are made."""
        return self.prompts is not None and self.pairs is None


def run(config: Config, run: Run) -> None:
    """Data and options of all stages first; then the stages that are not done; report.

    Raises:
        ConfigError: nothing to do, PPO without prompts or on pictures, or an option that a stage does not take.
        DataError: records that cannot be used, with their places.
        CoalignError: no pair is left.
    """
    from coalign.platform.language_feedback import work

    if config.data is None and config.prompts is None and config.pairs is None and config.labelled is None:
        raise ConfigError(
            "There is nothing to do.",
            hint="Give --data (critiques), --prompts, --pairs or --labelled.",
        )
    if config.optimise in ("ppo", "both") and config.prompts is None:
        raise ConfigError("PPO needs prompts to learn on.", hint="Give --prompts, or --optimise dpo.")
    notes: list[str] = []
    critiques = _read_critiques(config, run, notes)
    prompts, held_out = (_read_prompts(config, one, notes) for one in (config.prompts, config.eval_prompts))
    if config.optimise in ("ppo", "both") and any(one.pictures for one in prompts):
        raise ConfigError("PPO takes no prompts with pictures.", hint="Use --optimise dpo.")
    stages = planned(config, run)
    announce(notes, run)
    if critiques is not None and is_main_process():
        write_records(run.artefacts / CRITIQUES, critiques, form="conversational")
    done: dict[str, Run] = {}
    if "feedback-model" in stages:
        done["feedback-model"] = run_stage(run, stages["feedback-model"])
    if config.improves and is_main_process():
        work.make_pairs(config, run, prompts, done.get("feedback-model"))
    for name in ("dpo", "reward-model", "ppo", "labelled"):
        if name in stages:
            done[name] = run_stage(run, stages[name])
    if is_main_process():
        published = next(
            (name for name in ("dpo", "ppo", "feedback-model", "labelled") if name in done), None
        )
        if published is not None:
            run.publish_model(done[published].model)
        answers = work.answered(config, run, held_out, done) if held_out else {}
        work.report(config, run, done, answers, notes, published=published)


def planned(config: Config, run: Run) -> dict[str, Stage]:
    """The stages that train, by name, each with its configuration.

    Raises:
        ConfigError: an option that a stage does not take.
    """
    full = config.tuning == "full"

    def stage(name: str, method: str, given: Sequence[str], **changes: object) -> Stage:
        rate = RATES[name] if full and config.learning_rate is None else config.learning_rate
        kind = {} if method == "ppo" else {"kind": None}
        return plan_stage(name, method, config, {**kind, "learning_rate": rate, **changes}, given)

    mine = _OWN if config.improves else {}
    pairs = [str(run.artefacts / PAIRS)] if config.improves else config.pairs
    learns = (pairs is not None) and config.optimise != "none"
    found: dict[str, Stage] = {}
    if config.data is not None:
        critiques = str(run.artefacts / CRITIQUES)
        found["feedback-model"] = stage(
            "feedback-model", "sft", config.feedback_option, data=[critiques], **_OWN, **FEEDBACK
        )
    if learns and config.optimise in ("dpo", "both"):
        found["dpo"] = stage("dpo", "dpo", config.dpo_option, data=pairs, **mine)
    if learns and config.optimise in ("ppo", "both"):
        found["reward-model"] = stage(
            "reward-model", "reward-model", config.reward_option, data=pairs, **mine, **REWARD
        )
        reward = [f"model:{run.path / 'stages' / 'reward-model'}"]
        own: dict[str, object] = {
            "prompts": config.prompts,
            "eval_prompts": config.eval_prompts,
            "reward": reward,
        }
        own |= {"eval_fraction": 0.1} if config.eval_prompts is not None else {}
        found["ppo"] = stage("ppo", "ppo", config.ppo_option, **PPO, **own)
    if config.labelled is not None:
        found["labelled"] = stage("labelled", "dpo", config.dpo_option, data=config.labelled)
    return found


def _read_critiques(config: Config, run: Run, notes: list[str]) -> list[Record] | None:
    if config.data is None:
        return None
    parts = read_sources(config, config.data, "judgment", notes, seed=config.seed, run=run)
    records = [one for part in parts for one in part.records]
    found = critique_demonstrations(records)
    if not found:
        raise DataError(f"{named(config.data)}: no record has a judgment in words.")
    if len(found) < len(records):
        notes.append(f"{len(records) - len(found)} judgments without words were left out")
    return [*found]


def _read_prompts(config: Config, sources: DataSources | None, notes: list[str]) -> list[Record]:
    if sources is None:
        return []
    reading = ReadingOptions(split=config.split, limit=config.limit, column=config.column)
    parts = read_sources(reading, sources, "prompt", notes, seed=config.seed)
    records = [one for part in parts for one in part.records]
    if problems := repeated_ids(records):
        raise DataError(f"{len(problems)} prompts cannot be used.", problems)
    if not records:
        raise CoalignError(f"{named(sources)}: no prompt.")
    return records
