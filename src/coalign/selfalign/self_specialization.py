"""Self-Specialization: a generalist model writes tasks of a domain from a few seeds and becomes an expert by an adapter.

Self-Specialization: Uncovering Latent Expertise within Large Language Models (arXiv 2310.00160).

    coalign run self-specialization --data seeds.jsonl --domain biomedicine --eval-data test.jsonl --model google/gemma-3-270m
    coalign serve --adapter biomedicine=runs/self-specialization-20260101-1

Some ninety seed examples show the domain's kinds of task. The model goes on with a few of them (tasks that repeat one
another are dropped), answers its tasks with seed examples as demonstrations, optionally with passages of a folder of text
(`--corpus`), and the base model is trained on tasks, answers and seeds: an adapter that `coalign serve` switches by name.
Passages stand in the request alone and never in what is trained on. A further round writes with the specialised model
and trains the base model again.

Reconstruction: there is no official code. Prompts, novelty filter, retrieval (BM25) and rounds are ours, after the paper's
description and, for constants, its authors' later Self-MoE (arXiv 2406.12034): three seeds in a request at temperature 1
and top-p 0.98, five with answers, greedily, for an answer. The chat template stands where they have Alpaca's. The second
version of the paper is followed: retrieval is off. A model cannot exceed what it can do already: the base model's score
says whether the skill is there, and that of other tasks (`--other-data`) what the specialisation costs elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import DataError
from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.data.records import Demonstration
from coalign.loops.pipeline import Curated, Kept, Made, run_pipeline
from coalign.loops.readings import tell
from coalign.loops.rounds import Round
from coalign.loops.rows import Row
from coalign.loops.steps.usual import Filter, Rewrite
from coalign.models.files.places import short_name
from coalign.models.options import ModelOptions
from coalign.models.types import Generation, Sampling
from coalign.report.model import Command
from coalign.selfalign.synthesis import rounds as loop
from coalign.selfalign.synthesis.few_shot import Metric, read_exam
from coalign.selfalign.synthesis.report import write_synthesis_report
from coalign.selfalign.synthesis.rules import assert_rules, broken_rule
from coalign.selfalign.synthesis.steps import demonstration, task_steps
from coalign.selfalign.synthesis.tasks import SEPARATOR, SeedTask, draw_tasks, joined, read_seeds
from coalign.training.distributed.leading import led
from coalign.training.options import TrainingOptions

if TYPE_CHECKING:
    from coalign.selfalign.synthesis.passages import Passages

BRIEF = """Write a list of {n} tasks about {domain}. Rules:
- The kind of task is one of those that the examples show, or a like one.
- The wording differs from task to task.
- A model that reads and writes text can do each of them.
- Everything is in English. An instruction has one or two sentences.
- An input is realistic and substantial, without placeholders.
{topics}List of tasks:"""
"""What stands before the seed tasks of a request."""
ROLE = "You are an expert in {domain}. Answer each task as the examples do."
"""What stands before the examples of an answer."""


@dataclass(kw_only=True)
class Config(loop.SynthesisOptions, ModelOptions, TrainingOptions):
    """Options of `coalign run self-specialization`."""

    __group__ = "Method"

    domain: str = option("the field of the examples", "the domain, as it is named in requests")
    topics: list[str] = option([], "topics that the tasks are to cover")
    demonstrations: Count = option(5, "seed examples before a task that is answered", source="Self-MoE")
    corpus: Path | None = option(
        None, "folder of .txt and .md files, or file of passages, for passages beside a task that is answered"
    )
    passages: Count = option(3, "passages of a task", source="reconstruction", only_with="corpus")
    rules: list[str] = option(
        ["empty", "copied", "repetitive", "unfinished"],
        "rules against answers, in their order",
        source="reconstruction",
    )
    eval_data: str | None = option(None, "demonstrations of the domain to be tested on", group="Evaluation")
    other_data: str | None = option(
        None, "demonstrations of other fields: what the specialisation costs", group="Evaluation"
    )
    shots: list[CountOrZero] = option(
        [0, 5], "seed examples before a test item, for both models alike", group="Evaluation"
    )
    metric: Metric = option(
        "f1",
        "of a test answer: word F1, ROUGE-L F, or 1 where it is the same",
        source="paper",
        group="Evaluation",
    )
    shown: Count = option(3, "seed tasks in a request", source="Self-MoE", group="Rounds")
    tasks: Count = option(5000, "new tasks that a round writes", source="paper", group="Rounds")
    temperature: NonNegative = option(
        1.0, "of tasks; answers are greedy", source="Self-MoE", group="Sampling"
    )
    top_p: Fraction = option(0.98, "nucleus of the sampling", source="Self-MoE", group="Sampling")
    task_tokens: Count = option(1000, "most tokens of a request's tasks", group="Sampling")
    max_new_tokens: Count = option(256, "most tokens of an answer", group="Sampling")
    request_batch: Count = option(32, "requests or answers at a time", group="Sampling")
    adapter_rank: Count = option(8, "rank r of the adapter", source="Self-MoE", group="Model")
    adapter_alpha: Positive = option(
        16.0, "the adapter's output is scaled by alpha / r", source="Self-MoE", group="Model"
    )
    adapter_dropout: Fraction = option(
        0.05, "dropout on the adapter's input", source="reconstruction", group="Model"
    )
    learning_rate: Positive | None = option(3e-4, "peak learning rate", source="Self-MoE", group="Training")
    epochs: Positive = option(3.0, "passes over the training records", source="Self-MoE", group="Training")
    gradient_accumulation: Count = option(
        4, "forward passes in one optimizer step: 32 records", source="Self-MoE", group="Training"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        assert_rules(self.rules)
        if self.eval_data is None and self.other_data is None:
            self.refuse(("shots", "metric"), "without eval_data and other_data")
        elif not self.shots:
            raise ValueError("shots is empty, expected at least one number of examples")


def answer_prompt(row: Row, seeds: Sequence[SeedTask], config: Config, texts: dict[str, str]) -> str:
    """What the base model goes on with to answer a task: role, seed examples, passages, the task.

    Args:
        texts: passages by id.
    """
    draw = random.Random(f"{config.seed}/{row['id']}")
    shown = [
        f"{SEPARATOR}\n{_task(one.instruction, one.input)}Response: {one.output}\n"
        for one in draw_tasks(seeds, config.demonstrations, draw)
    ]
    found = "".join(f"- {texts[name]}\n" for name in row.get("passages", ()))
    beside = f"Passages:\n{found}" if found else ""
    task = f"{SEPARATOR}\n{beside}{_task(row['instruction'], row['input'])}Response:"
    return "\n".join([ROLE.format(domain=config.domain), "".join(shown) + task])


def _task(instruction: str, given: str) -> str:
    return f"Instruction: {instruction}\n" + (f"Input: {given}\n" if given else "")


@led
def run(config: Config, run: Run) -> None:
    """Rounds of writing and answering tasks and training an adapter, tests before and after, report.

    Raises:
        DataError: seeds or test data that cannot be used.
        CoalignError: a round of which nothing is left to train on.
    """
    seeds = read_seeds(config.data)
    if missing := [one.id for one in seeds if not one.output]:
        raise DataError(f"{config.data}: {len(missing)} seeds have no answer (output), first {missing[0]!r}.")
    sources = {"domain": config.eval_data, "other": config.other_data}
    exams = {
        name: read_exam(name, source, seeds, config.shots, config.metric)
        for name, source in sources.items()
        if source is not None
    }
    corpus = _corpus(config)
    always = [
        Demonstration(prompt=loop.user(joined(one.instruction, one.input)), completion=one.output or "")
        for one in seeds
    ]

    def measure(round: Round, model: ModelOptions) -> dict[str, float | None]:
        told: dict[str, float | None] = {}
        for exam in exams.values():
            told |= exam.take(round, model, replace(_greedy(config), stop=("\n\nHuman:",)), config)
        return told

    make = partial(write_tasks, config, seeds, corpus)
    rounds = loop.run_synthesis(run, loop.Synthesis(config=config, make=make, measure=measure, always=always))
    first, last = Round(run, 0), rounds[-1]
    rows = [row for exam in exams.values() for row in exam.compared(first, last)]
    write_synthesis_report(
        run,
        config,
        rounds,
        title=f"{short_name(config.model)} specialised in {config.domain}",
        rows=rows,
        claim=exams["domain"].compared(first, last)[-1] if "domain" in exams else None,
        seeds=len(seeds),
        sections=[section for exam in exams.values() for section in exam.sections(first, last)],
        limitations=[
            "Without test items a gain may be the form of answers alone: compare with as many examples before each."
        ],
        then=[
            Command(f"coalign serve --adapter expert={run.path}", "serve the adapter beside its base model")
        ],
    )


def write_tasks(
    config: Config, seeds: Sequence[SeedTask], corpus: Passages | None, round: Round, current: ModelOptions
) -> Curated:
    """The round's records: requests, tasks, passages, answers."""
    from coalign.loops.steps.models import Ask
    from coalign.models.backends.open import open_policy

    def answered(row: Row, said: Sequence[Generation]) -> list[Made]:
        return [Kept({**row, "output": said[0].text.strip(), "finish_reason": said[0].finish_reason})]

    topics = f"- Together they cover: {', '.join(config.topics)}.\n" if config.topics else ""
    brief = BRIEF.format(n=20, domain=config.domain, topics=topics)
    texts = corpus.texts if corpus else {}
    sampling = Sampling(
        max_new_tokens=config.task_tokens, temperature=config.temperature, top_p=config.top_p,
        seed=config.seed + round.number, stop=(f"{SEPARATOR}\n21.",),
    )  # fmt: skip
    steps: list[Any] = [
        *task_steps(config, seeds, current, sampling, chat=False, batch=config.request_batch, fewest_words=1),
        *([corpus.step()] if corpus else []),
        Ask(
            "answers", lambda: open_policy(current, config), lambda row: answer_prompt(row, seeds, config, texts), answered,
            replace(_greedy(config), stop=(SEPARATOR,)), batch=config.request_batch, model=current.model,
        ),
        Filter("rules", lambda row: broken_rule(row, config.rules)),
        Rewrite("demonstrations", lambda row: demonstration(row, seeds=row["seeds"], **({"passages": row["passages"]} if corpus else {}))),
    ]  # fmt: skip
    requests = loop.Requests(seeds, config, round, brief=brief, seed=config.seed)
    done = run_pipeline(round.folder / "tasks", requests, steps)
    counts = {step["name"]: step["out"] for step in done.manifest["steps"]}
    tell(round, {"tasks": counts["enough tasks"], "kept": done.manifest["kept"]})
    return done


def _corpus(config: Config) -> Passages | None:
    if config.corpus is None:
        return None
    from coalign.selfalign.synthesis.passages import Passages

    return Passages(config.corpus, config.passages)


def _greedy(config: Config) -> Sampling:
    return Sampling(max_new_tokens=config.max_new_tokens, temperature=0.0)
