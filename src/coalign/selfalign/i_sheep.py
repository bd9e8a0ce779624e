"""I-SHEEP: a base model becomes an instruction follower by tasks that it writes, answers and grades itself.

I-SHEEP: Self-Alignment of LLM from Scratch through an Iterative Self-Enhancement Paradigm (arXiv 2408.08072).

    coalign run i-sheep --data seeds.jsonl --model google/gemma-3-270m --rounds 3

In each round the model goes on with a few seed tasks (self-synthesis), answers what it wrote, and rules drop what is
malformed; two graders, for quality and for following the instruction, give 1 to 10 (self-assessment), and what both give
more than the threshold is learned from. The *base* model is trained on it, never the last one; the trained model writes
the next round. Round 1 asks in plain text, later ones through the chat template.

Where paper and official code differ the code is followed, as it made the data: the base model grades in every round
(`--grader current` has the paper's reading), seeds are drawn uniformly (`--draw inverse-perplexity` weighs them by how
sure the model is of their answers), a score must be above 8. Ours: a request ends before block 17 and not at any "17" (there a
task that names it is cut); instruction and input are joined by a line break; answers that ran out of tokens are dropped
(rule `unfinished`); the wording of request and graders; graders write few tokens, as the score is read from the beginning.
The rules are English and made for one family of models: choose among them with `--rules`. LoRA rank, rate and epochs
are from memory of the authors' configuration, which is not public.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import DataError
from coalign.core.options import Count, Fraction, NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.loops.pipeline import Curated, Kept, Made, run_pipeline
from coalign.loops.readings import Floor, tell
from coalign.loops.rounds import Round
from coalign.loops.rows import Row
from coalign.loops.steps.usual import Filter, Rewrite
from coalign.models.files.places import short_name
from coalign.models.options import ModelOptions
from coalign.models.types import Generation, Sampling
from coalign.selfalign.synthesis import rounds as loop
from coalign.selfalign.synthesis.grading import GRADES, above, grader
from coalign.selfalign.synthesis.report import write_synthesis_report
from coalign.selfalign.synthesis.rules import OFFICIAL, assert_rules, broken_rule, without_lead
from coalign.selfalign.synthesis.steps import as_asked, demonstration, judge_item, task_steps
from coalign.selfalign.synthesis.tasks import SEPARATOR, UNFIT_WORDS, SeedTask, joined, read_seeds
from coalign.training.distributed.leading import led
from coalign.training.options import TrainingOptions

if TYPE_CHECKING:
    from coalign.judging.store import ReplyStore

BRIEF = """Write {n} varied tasks for a language model that reads and writes text. Rules:
- Verbs, topics and kinds of task differ: questions and orders, writing, editing, sorting, explaining, classifying.
- A model without eyes, ears and hands can do each of them.
- Everything is in English. An instruction has one or two sentences.
- Where a task needs material, its input is a concrete and realistic example of at most 100 words, without placeholders.
- Where it needs none, its input is <noinput>.
The list of {n} tasks:"""
"""What stands before the seed tasks of a request; `{n}` is how many it asks for."""
_SATURATED = Floor(
    0.1,
    "nearly all get the highest grade, so the threshold filters nothing",
    "Look at the histograms of the grades.",
)


@dataclass(kw_only=True)
class Config(loop.SynthesisOptions, ModelOptions, TrainingOptions):
    """Options of `coalign run i-sheep`."""

    __group__ = "Method"

    grader: Literal["base", "current"] = option(
        "base", "which model grades", source="official code: base; paper: current"
    )
    threshold: NonNegative = option(8, "both scores must be above it", source="official code")
    draw: Literal["uniform", "inverse-perplexity"] = option(
        "uniform", "how seed tasks are drawn; the second needs seeds with answers", source="official code"
    )
    first_round: Literal["text", "chat"] = option(
        "text",
        "how round 1 asks: in plain text, or through the chat template as later rounds do",
        source="paper",
    )
    rules: list[str] = option(
        [*OFFICIAL, "unfinished"], "rules against answers, in their order", source="official code"
    )
    unfit_words: list[str] = option(
        [*UNFIT_WORDS], "tasks with one of these words are dropped", source="official code"
    )
    requested: Count = option(
        20, "tasks that a request asks for; it ends three blocks earlier", source="official code"
    )
    temperature: NonNegative = option(
        1.0, "of tasks, answers and grades", source="official code", group="Sampling"
    )
    top_p: Fraction = option(0.95, "nucleus of the sampling", source="official code", group="Sampling")
    max_new_tokens: Count = option(
        1000, "most tokens of a request's tasks or of an answer", source="official code", group="Sampling"
    )
    grade_tokens: Count = option(16, "most tokens of a grade, which begins with the score", group="Sampling")
    request_batch: Count = option(
        32, "requests, answers or grades at a time", source="official code", group="Sampling"
    )
    rounds: Count = option(
        3, "rounds; may be raised later in the same run folder", source="paper: 2 to 5", group="Rounds"
    )
    tasks: Count = option(
        10_000, "new tasks that a round writes, before answers are filtered", source="paper", group="Rounds"
    )
    adapter_rank: Count = option(8, "rank r of the adapter", source="from memory", group="Model")
    adapter_alpha: Positive = option(16.0, "the adapter's output is scaled by alpha / r", group="Model")
    learning_rate: Positive | None = option(
        5e-5, "peak learning rate", source="from memory", group="Training"
    )
    epochs: Positive = option(
        2.0, "passes over the training records", source="names of the official outputs", group="Training"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        assert_rules(self.rules)
        if self.requested <= self.shown + 3:
            raise ValueError(f"requested {self.requested} leaves no new task beside {self.shown} shown")

    def sampling(self, round: Round, tokens: int, *stop: str) -> Sampling:
        """Of a round, with a seed of its own."""
        return Sampling(
            max_new_tokens=tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed + round.number,
            stop=stop,
        )


def inverse_perplexity_weights(perplexities: Sequence[float], used: Sequence[bool]) -> list[float]:
    """[seeds] chances to be drawn: 1 / perplexity (1 below 1e-5), 0 for a seed that was drawn, summing to 1."""
    raw = [
        0.0 if done else 1 / one if one > 1e-5 else 1.0 for one, done in zip(perplexities, used, strict=True)
    ]
    total = sum(raw)
    return [one / total for one in raw]


@led
def run(config: Config, run: Run) -> None:
    """Rounds of writing, answering, grading and training the base model, then the report.

    Raises:
        DataError: seed tasks that cannot be used.
        CoalignError: a round of which nothing is left to train on.
    """
    from coalign.judging.store import ReplyStore

    seeds = read_seeds(config.data)
    if config.draw == "inverse-perplexity" and any(one.output is None for one in seeds):
        raise DataError(
            f"{config.data}: draw inverse-perplexity needs an answer (output) to every seed task."
        )
    with ReplyStore(run.artefacts / "replies.jsonl") as store:

        def make(round: Round, current: ModelOptions) -> Curated:
            return write_tasks(config, seeds, round, current, store)

        def measure(round: Round, model: ModelOptions) -> dict[str, float | None]:
            return {loop.NLL: loop.mean(loop.seed_nll(round, model, seeds, config))}

        rounds = loop.run_synthesis(run, loop.Synthesis(config=config, make=make, measure=measure))
    compared = loop.compared_nll(run, rounds[-1], config, seeds)
    write_synthesis_report(
        run, config, rounds, title=f"Self-alignment of {short_name(config.model)} from scratch", seeds=len(seeds),
        rows=[compared] if compared else [], claim=compared,
        limitations=["The grader is a model that was not trained to grade: look at the histograms of its grades."],
    )  # fmt: skip


def write_tasks(
    config: Config, seeds: Sequence[SeedTask], round: Round, current: ModelOptions, store: ReplyStore
) -> Curated:
    """The round's records: requests, tasks, answers, grades."""
    from coalign.loops.steps.models import Ask, Rate
    from coalign.models.backends.open import open_policy

    chat = round.number > 1 or config.first_round == "chat"

    def answered(row: Row, said: Sequence[Generation]) -> list[Made]:
        answer = without_lead(said[0].text.strip())
        return [Kept({**row, "output": answer, "finish_reason": said[0].finish_reason})]

    requests = loop.Requests(
        seeds, config, round, brief=BRIEF.format(n=config.requested), seed=config.seed,
        weights=_weights_of(config, seeds, round) if config.draw == "inverse-perplexity" else None,
    )  # fmt: skip
    ending = f"{SEPARATOR}\n{config.requested - 3}."
    steps: list[Any] = [
        *task_steps(
            config, seeds, current, config.sampling(round, config.max_new_tokens, ending), chat=chat,
            unfit_words=config.unfit_words, batch=config.request_batch,
        ),
        Ask(
            "answers", lambda: open_policy(current, config),
            lambda row: as_asked(joined(row["instruction"], row["input"]) + ("" if chat else "\n"), chat=chat),
            answered, config.sampling(round, config.max_new_tokens), model=current.model, batch=config.request_batch,
        ),
        Filter("rules", lambda row: broken_rule(row, config.rules)),
    ]  # fmt: skip
    base = config.grader == "base"
    for name in GRADES:
        judge = grader(
            name,
            config,
            config if base else current,
            config.sampling(round, config.grade_tokens),
            store,
            who="the base model" if base else "the model of the round",
            round=round.number,
            chat=chat and not base,
        )
        steps.append(Rate(name, f"{name}_score", judge, judge_item, batch=config.request_batch))
    steps += above(config.threshold)
    steps.append(
        Rewrite(
            "demonstrations",
            lambda row: demonstration(row, grades={name: row[f"{name}_score"] for name in GRADES}),
        )
    )
    done = run_pipeline(round.folder / "tasks", requests, steps)
    _tell(round, done)
    return done


def _weights_of(config: Config, seeds: Sequence[SeedTask], round: Round) -> Any:
    """Of the perplexities that the model before the round gives the seeds' answers, which its `evaluate` has kept."""
    before = Round(round.run, round.number - 1)
    found = loop.seed_nll(before, config, seeds, config)
    perplexities = [math.exp(one) if one is not None and one < 700 else math.inf for one in found]
    return lambda used: inverse_perplexity_weights(perplexities, used)


def _tell(round: Round, done: Curated) -> None:
    """What the round's records came to, and a warning where the grades tell nothing apart."""
    counts = {step["name"]: step for step in done.manifest["steps"]}
    grades = {
        name: [*sides["kept"], *sides["rejected"]] for name, sides in done.scores().items() if name in GRADES
    }
    measures = {"tasks": counts["enough tasks"]["out"], "graded": counts["following"]["out"]}
    measures |= {name: loop.mean(values) for name, values in grades.items()}
    below = {f"{name} below 10": loop.mean([one < 10 for one in values]) for name, values in grades.items()}
    tell(round, {**measures, **below, "kept": done.manifest["kept"]}, floors=dict.fromkeys(below, _SATURATED))
