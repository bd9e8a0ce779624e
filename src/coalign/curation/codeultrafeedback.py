"""CodeUltraFeedback: answers of several models to code instructions, rated by a judge for a preference, become pairs.

CodeUltraFeedback: An LLM-as-a-Judge Dataset for Aligning Large Language Models to Coding Preferences (arXiv 2403.09032).

    coalign run codeultrafeedback --data instructions.jsonl --generators A,B,C,D --judge JUDGE --model CODER
    coalign run codeultrafeedback --data tasks.jsonl --generators A,B --tests require --seed-data sft.jsonl
    coalign run codeultrafeedback ... --benchmark codal.jsonl --code-tasks HumanEval.jsonl

Each instruction gets one of five coding preferences (instruction-following, readability, complexity, style, explanation;
`--preferences` brings others). Four models of the pool answer it, each under a principle drawn from ten. A judge sees the four in
a shuffled order and rates each from 1 to 5 with a rationale. A response with the highest rating is chosen and one with the lowest
rejected, drawn among equal ones; DPO learns from the pairs, after fine-tuning on `--seed-data`. Before and after, `--benchmark`
is answered greedily and graded from 1 to 10 against its references, and `--code-tasks` are solved and tested. Instructions with
tests have every response run in the sandbox; with `--tests require` only a response that passes can be chosen.

Where the official code errs the paper's intent is followed: pairs of equal ratings and rows with fewer than two ratings are
dropped (`--keep-ties`), a reply that cannot be read is asked for once more, the reference is the reference model's answer as text,
the prompt is rendered once, and ties are drawn by the row. What cannot be rated, graded or tested is counted and in no mean; the
official score counts it 0. Ours: replies are taken apart at their rating labels (`--layout blocks` is the official parser), answers
are marked so that none can close its own frame, criteria and principles are in our words, and the benchmark's judge is asked for
its grade in double brackets. Temperature and length of the answers are the code's defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coalign.core.options import Count, Fraction, NonNegative, Positive, Seed, option, required
from coalign.core.runs import Run
from coalign.curation.code.feedback import Tests
from coalign.curation.code.programs import FunctionalOptions
from coalign.judging.asked.list_ratings import Layout
from coalign.judging.asked.options import AskedJudgeOptions
from coalign.loops.rounds import run_rounds
from coalign.loops.seeds import SeedOptions
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.training.distributed.leading import led
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.options import TrainingOptions


@dataclass(kw_only=True)
class Config(
    AskedJudgeOptions,
    FunctionalOptions,
    SeedOptions,
    DPOConstants,
    ModelOptions,
    SamplingOptions,
    TrainingOptions,
):
    """Options of `coalign run codeultrafeedback`."""

    __group__ = "Method"

    data: str = required(
        "instructions, with tests where they have some: a file, a hub id or a saved dataset folder"
    )
    generators: list[str] = required(
        "the models that answer: hub ids, folders, addresses of OpenAI-compatible servers, or NAME@ADDRESS"
    )
    preferences: Path | None = option(None, "JSON file of preferences, in place of the five")
    instructions: Count | None = option(10_000, "how many instructions are drawn", source="paper")
    responses: Count = option(4, "to each instruction, of different models while there are", source="paper")
    principle: Literal["auto", "system", "user"] = option(
        "auto",
        "where a principle stands; auto: in a system message for servers, else before the instruction",
        source="paper",
    )
    drop_cjk: bool = option(
        True, "leave out instructions with Chinese, Japanese or Korean characters", source="official code"
    )
    layout: Layout = option("labels", "how the judge's replies are taken apart; blocks: the official parser")
    min_gap: NonNegative = option(1.0, "least difference of the ratings of a pair")
    keep_ties: bool = option(False, "keep pairs of equal ratings, as the official code does")
    tests: Tests = option("report", "require: of instructions with tests only responses that pass are chosen")
    learn: bool = option(True, "train the model; without, only the pairs are made")
    benchmark: str | None = option(
        None,
        "requests with `preference` and `reference`, answered before and after and graded",
        group="Benchmark",
    )
    benchmark_tokens: Count = option(
        1024, "most tokens of an answer", source="official code", group="Benchmark", only_with="benchmark"
    )
    judge_max_new_tokens: Count = option(1024, "most tokens of a reply", group="Judge")
    temperature: NonNegative = option(0.8, "of the answers", source="official code", group="Sampling")
    top_p: Fraction = option(0.8, "nucleus of the answers", source="official code", group="Sampling")
    max_new_tokens: Count = option(1024, "most tokens of an answer", source="official code", group="Sampling")
    seed_epochs: Positive = option(
        5.0, "passes over the seed data", source="official code", group="Seed stage"
    )
    seed_learning_rate: Positive | None = option(
        2e-4, "peak learning rate of the seed stage", source="official code", group="Seed stage"
    )
    learning_rate: Positive | None = option(
        5e-5, "peak learning rate", source="official code", group="Training"
    )
    epochs: Positive = option(3.0, "passes over the pairs", source="official code", group="Training")
    adapter_rank: Count = option(64, "rank r of the adapter", source="official code", group="Model")
    adapter_alpha: Positive = option(128.0, "alpha of the adapter", source="official code", group="Model")
    eval_fraction: Fraction = option(
        0.05, "share of the instructions whose pairs are held out", source="official code", group="Training"
    )
    seed: Seed = option(42, "seed of everything random", source="official code", group="Training")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.responses < 2:
            raise ValueError("responses: 1 is not usable, expected at least 2: one response makes no pair")
        if len({*self.generators}) < len(self.generators):
            raise ValueError("generators: one is named twice")
        if self.keep_ties and self.min_gap > 1:
            raise ValueError("keep_ties and a min_gap above 1 exclude each other")
        if self.reward:
            self.refuse(["layout"], "with reward, which writes nothing")
        if not self.learn:
            names = ["benchmark", "code_tasks", "seed_data", "model", "eval_fraction"]
            self.refuse(names, "without learn")


@led
def run(config: Config, run: Run) -> None:
    """Answers, ratings, pairs, training, measures before and after, report.

    Raises:
        DataError: instructions, requests or tasks that cannot be used.
        CoalignError: no pair is left, or too many verdicts are missing.
        SandboxError: there are tests and nothing to hold code.
    """
    from coalign.curation.code.report import write_code_report
    from coalign.curation.code.stages import CodeFeedback
    from coalign.judging.store import ReplyStore

    with ReplyStore(run.artefacts / "replies.jsonl") as store:
        system = CodeFeedback(config, run, store)
        one = run_rounds(run, system.stages())[0]
        write_code_report(run, config, one, system.left_out)
