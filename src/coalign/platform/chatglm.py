"""From one base model to an assistant that calls tools: fine-tuning, long texts, preferences without labels, criticism, a reward
model and reinforcement learning, tools.

ChatGLM: A Family of Large Language Models from GLM-130B to GLM-4 All Tools (arXiv 2406.12793).

    coalign run chatglm --data chats.jsonl --long-data long.jsonl --model Qwen/Qwen2.5-0.5B
    coalign run chatglm --data chats.jsonl --contrast chats.jsonl --agent-data trajectories.jsonl --model default
    coalign run chatglm --preferences pairs.jsonl --prompts prompts.jsonl --model runs/sft
    coalign chat --model runs/chatglm-20260101-1 --tools python

Each stage is there when its data are given, and starts from the model of the one before it: `sft` (`--data`), `long`
(`--long-data`: every sequence weighs the same, sorted batches; LongAlign), `contrast` and `contrast-dpo` (`--contrast`: DPO
against the model's own answers that are unlike the given one; Self-Contrast), `critique`, `critique-sft` and `critique-dpo`
(`--questions` with `--right`: the model learns its right answers, then right against wrong ones; ChatGLM-Math), `preference`
(`--preferences`: DPO) or, with `--prompts`, `reward-model` and `ppo` (ChatGLM-RLHF: lengths balanced, rewards held near 0, prompts
left out on which rewards hardly differ, rewards above that of the start model's answer), `tools` (`--agent-data`: trajectories,
mixed with `--data`; AgentTuning). Stages are methods of `coalign run` in folders of their own under `stages/`: what is done is
not done again, and `--stage NAME.OPTION=VALUE` sets an option of one.

A reconstruction: the report tells its stages in prose; equations and constants are of the papers of the single techniques, of which
that on ChatGLM-Math was not at hand, and stay options. Differences: the divisor of the sequence average is counted over the
whole optimizer step (the official code breaks under accumulation), position ids start anew in every sequence, no sequence is
dropped to fill packs or devices; forward passes hold sequences without padding and are no packs of a fixed size. The critique
model is whatever `--right` names (a verifier, a reward model, `judge:`): its own training on criticism is `coalign run sft` or
`align-anything`. The published rates are for full fine-tuning; an adapter takes the usual ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.options import Count, Fraction, NonNegative, option
from coalign.core.runs import Run, is_main_process
from coalign.data.sources import DataSources, canonical_sources, sources_of
from coalign.judging.rewards.specs import parse_reward
from coalign.platform.recipes import OWN_FILES, UNTRAINED, Part, RecipeOptions, run_recipe
from coalign.training.material import LearningOptions, ReadingOptions, read_sources

LONG_RATE, ONLINE_RATE = 2e-5, 1e-6
"""Published learning rates, of full fine-tuning: of long texts (LongAlign), and of preferences (ChatGLM-RLHF)."""
OTHERS = ("long_data", "contrast", "questions", "preferences", "prompts", "agent_data")
"""Options with data, besides `data`."""


@dataclass(kw_only=True)
class Config(RecipeOptions, LearningOptions):
    """Options of `coalign run chatglm`. Those of training reach every stage that has them."""

    __group__ = "Stages"

    data: DataSources | None = option(  # pyright: ignore[reportIncompatibleVariableOverride]  # any stage can be left out
        None, "demonstrations for fine-tuning, and the general part of the tool stage", group="Data"
    )
    long_data: DataSources | None = option(
        None, "demonstrations of the long-context stage: long ones with general ones mixed in", group="Data"
    )
    contrast: DataSources | None = option(
        None, "demonstrations whose answers are preferred to the model's own unlike ones", group="Data"
    )
    questions: DataSources | None = option(
        None, "questions that `--right` can tell right answers to", group="Data"
    )
    preferences: DataSources | None = option(
        None, "pairs: for DPO, or with --prompts for the reward model", group="Data"
    )
    prompts: DataSources | None = option(None, "prompts of reinforcement learning", group="Data")
    agent_data: DataSources | None = option(
        None, "conversations with tool calls and what the tools returned, which is not learnt", group="Data"
    )
    long_length: Count = option(
        65536, "most tokens of a text in the long-context stage", source="LongAlign", only_with="long_data"
    )
    contrast_samples: Count = option(
        32, "answers to each prompt", source="Self-Contrast", only_with="contrast"
    )
    contrast_rejected: Count = option(
        16, "rejected answers of each prompt, 1 to 16", source="Self-Contrast", only_with="contrast"
    )
    right: str | None = option(
        None,
        "a reward (NAME:ARGUMENTS) that tells right answers, such as final_answer:{answer}",
        only_with="questions",
    )
    answers: Count = option(8, "answers to each question", source="our choice", only_with="questions")
    nll_weight: NonNegative = option(
        1.0, "weight of the chosen answer's likelihood beside DPO on right and wrong ones", source="our choice",
        only_with="questions",
    )  # fmt: skip
    reward_l2: NonNegative = option(
        0.01, "weight of squared rewards in the reward model's loss", source="our choice", only_with="prompts"
    )
    balance_lengths: list[Count] = option(
        [10, 50, 200], "edges of buckets of length differences, as of `coalign run reward-model`", source="our choice",
        only_with="prompts",
    )  # fmt: skip
    min_reward_variance: NonNegative = option(
        1e-3,
        "least variance of rewards of a prompt that is learnt on",
        source="our choice",
        only_with="prompts",
    )
    agent_share: Fraction = option(
        0.2,
        "eta, the share of agent data in the tool stage",
        source="AgentTuning, from memory",
        only_with="agent_data",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in OTHERS:
            if (value := getattr(self, name)) is not None:
                weights = name in ("long_data", "preferences", "agent_data")
                setattr(self, name, canonical_sources(value, name, weights=weights))
        self.refuse(["eval_data"], "here: --eval-fraction holds out records of every stage")
        self.refuse(["kind"], "here: every stage knows what it reads")
        if self.questions is not None and self.right is None:
            raise ValueError("questions: needs right, such as final_answer:{answer}")
        if self.right is not None:
            parse_reward(self.right)
        if self.prompts is not None and self.preferences is None:
            raise ValueError("prompts: needs preferences, which the reward model learns from")
        if not 0 < self.agent_share < 1:
            raise ValueError(
                f"agent_share: {self.agent_share:g} leaves one part out, expected a number between 0 and 1"
            )
        if self.agent_data is not None and self.data is None:
            self.refuse(["agent_share"], "without data to mix with")


def mixture_weights(sizes: Sequence[float], share: float) -> tuple[float, float]:
    """How often agent and general records are taken, so that agent data have the share eta of a pass.

    The mean over the records is then `eta mean(agent) + (1 - eta) mean(general)` (AgentTuning, arXiv 2310.12823, equation 2).

    Args:
        sizes: agent and general records, at least one each.
        share: eta, in (0, 1).
    """
    agent, general = sizes
    return share * general / ((1 - share) * agent), 1.0


def run(config: Config, run: Run) -> None:
    """Plan the stages, run those that are not done, report.

    Raises:
        ConfigError: nothing to do, or an option that a stage does not take.
        DataError: records that cannot be used.
        CoalignError: a stage failed; what the others made stays.
    """
    parts = stages(config, run)
    steps = run_recipe(config, run, parts, name="chatglm")
    if is_main_process():
        from coalign.platform.pipeline.report import write_recipe_report

        write_recipe_report(
            config,
            run,
            steps,
            title="Staged training",
            trained_on="What each stage was trained on stands in its own report.",
            limitations=[
                "Stages report their own figures; nothing here compares the last model with the first."
            ],
        )


def stages(config: Config, run: Run | None = None) -> list[Part]:
    """The stages that there are data for, in order, each with the model of the one before.

    Raises:
        ConfigError: nothing is given to do.
        DataError: records of the tool stage that cannot be read.
    """
    full = config.tuning == "full" and config.learning_rate is None
    long_rate, late_rate = ({"learning_rate": one} if full else {} for one in (LONG_RATE, ONLINE_RATE))
    found: list[Part] = []
    model: dict[str, Any] = {}

    def learn(name: str, method: str, rate: dict[str, float], **options: Any) -> None:
        found.append(Part(name, method, {**model, **rate, **options}, publishes=True))
        model["model"] = f"${{{name}}}"
        model["revision"] = None

    if config.data is not None:
        learn("sft", "sft", long_rate, data=config.data)
    if config.long_data is not None:
        own: dict[str, Any] = {"warmup_ratio": 0.03, "epochs": 2.0}
        own = {name: value for name, value in own.items() if not config.changed([name])}
        learn(
            "long", "sft", long_rate, data=config.long_data, max_length=config.long_length, loss_average="sequences",
            batching="sorted", **own,
        )  # fmt: skip
    if config.contrast is not None:
        pairs = {"samples": config.contrast_samples, "rejected": config.contrast_rejected}
        found.append(
            Part("contrast", "answer-pairs", {**model, **UNTRAINED, "data": config.contrast, **pairs})
        )
        learn("contrast-dpo", "dpo", late_rate, data="${contrast}", **OWN_FILES)
    if config.questions is not None:
        asked = {"data": config.questions, "reward": [config.right], "samples": config.answers}
        found.append(Part("critique", "answer-pairs", {**model, **UNTRAINED, **asked}))
        right = "${critique}/artefacts/demonstrations.jsonl"
        learn("critique-sft", "sft", long_rate, data=right, **OWN_FILES)
        learn("critique-dpo", "dpo", late_rate, data="${critique}", nll_weight=config.nll_weight, **OWN_FILES)
    if config.prompts is not None:
        balance = {"reward_l2": config.reward_l2, "balance_lengths": config.balance_lengths}
        found.append(Part("reward-model", "reward-model", {**model, "data": config.preferences, **balance}))
        learn(
            "ppo", "ppo", late_rate, prompts=config.prompts, reward=["model:${reward-model}"], baseline="reference",
            whiten=False, min_reward_variance=config.min_reward_variance,
        )  # fmt: skip
    elif config.preferences is not None:
        learn("preference", "dpo", late_rate, data=config.preferences)
    if config.agent_data is not None:
        learn("tools", "sft", long_rate, data=_mixed(config, run), loss_average="sequences")
    if not found:
        raise ConfigError(
            "There is nothing to do.",
            hint="Give --data, --long-data, --contrast, --questions, --preferences or --agent-data.",
        )
    return found


def _mixed(config: Config, run: Run | None) -> Any:
    """Agent and general data as one mix, in which agent data have their share."""
    if config.data is None:
        return config.agent_data
    reading, notes = ReadingOptions.of(config), []
    sides = [config.agent_data, config.data]
    read = [read_sources(reading, one, "demonstration", notes, seed=config.seed) for one in sides if one]
    sizes = [sum(part.source.weight * len(part.records) for part in parts) for parts in read]
    if not all(sizes):
        raise ConfigError("The tool stage has no agent data, or no general data, to mix.")
    weights = mixture_weights(sizes, config.agent_share)
    if run is not None:
        run.log("mixture", agent=sizes[0], general=sizes[1], share=config.agent_share, weight=weights[0])
    return [
        {**_plain(source), "weight": source.weight * weight}
        for value, weight in zip(sides, weights, strict=True)
        for source in sources_of(value or [])
    ]


def _plain(source: Any) -> dict[str, Any]:
    """A source as a configuration keeps it, with its path by name."""
    plain = source.plain()
    return {"path": plain} if isinstance(plain, str) else plain
