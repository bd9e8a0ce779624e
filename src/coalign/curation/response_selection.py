"""Response selection: which way of making training answers suits this model, said from 10 to 100 answers of each way.

Efficient Response Generation Method Selection for Fine-Tuning Large Language Models (arXiv 2502.11779; later versions: by
self-aligned perplexity).

    coalign run response-selection --data gpt.jsonl,tag=gpt --data steps.jsonl,tag=steps --model Qwen/Qwen2.5-0.5B-Instruct --samples 100
    coalign run sft --data runs/response-selection-20260101-1 --model Qwen/Qwen2.5-0.5B-Instruct

Every strategy answers the same questions. The model that is to be tuned, frozen, is shown each question with a few of its
own answers to other questions and says how surprised it is by each strategy's answer: *self-aligned perplexity*, low where
an answer is in the model's own style. Beside it stand plain perplexity, the log-probability of the whole answer, IFD (the
answer after its question against the answer alone), with `--reward` CAR (reward over likelihood) and with
`--hidden-states` the dissimilarity to the model's own answer layer by layer. `--rank-by` decides. The recommendation has the
share of resamples of the questions in which it wins and an interval of its lead; the answers of the chosen strategy are what
the run stands for (`coalign run sft --data RUN`).

The method ranks style: a wrong answer that is fluent scores well. With `--gold COLUMN` own answers are shown only where they
are right, as in the paper, and the share of right answers of each strategy is told; without it all own answers are shown.

Differences from the official code: the model's own chat template stands in place of a Llama-2 wrapper; prompts and answers
are tokenised together and the end of the answer's turn counts, as in training; the examples walk through the whole pool
and never answer the question itself; examples that do not fit are left out from the end, for all strategies alike. The
first version's expectation over an alignment function is `hidden_state` here, after what the code has of it; its mixed score
is left out. The wording around the examples is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import ConfigError
from coalign.core.files import write_json, write_rows
from coalign.core.limits import is_number
from coalign.core.options import Count, CountOrZero, Positive, Seed, load_file, option, required
from coalign.core.runs import Run
from coalign.curation.answer_styles.questions import Question, common_questions, strategy_of
from coalign.curation.answer_styles.report import SCORES, Selected, write_selection_report
from coalign.curation.answer_styles.scores import Aggregate, over_questions, rank, reward_per_loss
from coalign.curation.answer_styles.scoring import answer_scores, fit_examples, own_answers
from coalign.data.sources import DataSources, canonical_sources
from coalign.data.writers import to_row
from coalign.loops.prompts import check_values
from coalign.models.options import ModelOptions
from coalign.training.distributed.leading import led
from coalign.training.material import ReadingOptions, announce, read_sources

RankBy = Literal["self_aligned", "perplexity", "log_probability", "ifd", "car", "hidden_state"]


@dataclass(kw_only=True)
class Config(ReadingOptions, ModelOptions):
    """Options of `coalign run response-selection`; --model is the model that is to be tuned."""

    __group__ = "Method"

    data: DataSources = required(
        "answers: prompts with completions, each with the name of its strategy in a column or as its source's tag "
        "(--data a.jsonl,tag=a --data b.jsonl,tag=b)"
    )
    strategy_column: str = option("strategy", "column with the strategy's name, where a source has no tag")
    gold: str | None = option(
        None, "column with the right final answer: own answers are shown only where they are right"
    )
    samples: Count = option(100, "questions that are scored; 10 to 100 are enough", source="official code")
    examples: CountOrZero = option(3, "own answers before a question; 0: plain", source="official code")
    own_answers: str | None = option(
        None, "the model's own answers: prompts with completions; by default it answers questions of the data"
    )
    pool: Count = option(
        32,
        "own answers that are made, to questions that are not scored as far as there are such",
        source="our choice",
    )
    max_new_tokens: Count = option(512, "most tokens of an own answer; decoding is greedy")
    rank_by: RankBy = option("self_aligned", "the score that recommends", source="paper, later versions")
    aggregate: Aggregate = option(
        "mean", "over questions; the median is not moved by single answers", source="official code"
    )
    reward: str | None = option(
        None, "a reward of the answers (NAME:ARGUMENTS, as for `coalign run deal`), for CAR"
    )
    beta: Positive = option(
        3.0, "weight of the likelihood in CAR", source="official code", only_with="reward"
    )
    hidden_states: bool = option(
        False, "also compare hidden states with those of the model's own answer to the same question"
    )
    accuracies: Path | None = option(
        None, "YAML or JSON file, strategy to its accuracy after tuning: what the rankings are worth"
    )
    max_length: Count = option(
        2048, "most tokens of question, examples and answer; fewer examples are shown where they do not fit"
    )
    seed: Seed = option(0, "of the bootstrap")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_training()
        if self.data is not None:
            self.data = canonical_sources(self.data, "data", weights=False)
        if self.reward is not None:
            check_values([self.reward])
        if self.rank_by == "car" and self.reward is None:
            raise ValueError("rank_by: car needs a reward")
        if self.rank_by == "hidden_state" and not self.hidden_states:
            raise ValueError("rank_by: hidden_state needs hidden_states")
        if self.rank_by == "self_aligned" and not self.examples:
            raise ValueError("rank_by: self_aligned needs examples, at least 1")
        if self.own_answers is not None or not (self.examples or self.hidden_states):
            self.refuse(["pool"], "here: no own answers are made for examples")


@led
def run(config: Config, run: Run) -> None:
    """Read answers, let the model answer itself, score, rank, recommend.

    Raises:
        DataError: answers that cannot be used, or that no common question has.
        ConfigError: one strategy, or accuracies that lack one.
    """
    notes: list[str] = []
    parts = read_sources(config, config.data, "demonstration", notes, run=run, text_alone=True)
    records: list[Any] = [record for one in parts for record in one.records]
    questions = common_questions(records, config.strategy_column, config.gold, notes)
    truth = _accuracies(config, questions[0])
    pool = own_answers(config, run, questions, notes) if config.examples else []
    scored = fit_examples(config, questions[: config.samples], pool, notes)
    announce(notes, run)
    values = answer_scores(config, run, scored)

    def car(table: Any) -> Any:
        return reward_per_loss(table[..., 0], table[..., 1], beta=config.beta)

    rankings = {
        name: rank(
            found,
            SCORES[name].better,
            car if name == "car" else over_questions(config.aggregate),
            seed=config.seed,
        )
        for name, found in values.items()
    }
    selected = Selected(rankings, config.rank_by, scored, len(pool), truth)
    path = run.artefacts / "chosen.jsonl"
    chosen = [one for one in records if strategy_of(one, config.strategy_column) == selected.chosen]
    write_rows(path, (to_row(one, "conversational") for one in chosen))
    run.publish_records(path)
    write_json(run.artefacts / "results.json", selected.to_dict())
    write_selection_report(run, config, selected, notes, answers=len(chosen))


def _accuracies(config: Config, question: Question) -> dict[str, float]:
    """Strategy to its accuracy after tuning, of a file.

    Raises:
        ConfigError: a strategy that is missing, or no number.
    """
    if config.accuracies is None:
        return {}
    given = load_file(config.accuracies)
    found: dict[str, float] = {}
    for name in question.answers:
        value = given.get(name, given.get(name.replace("-", "_")))  # as the file's keys are read
        if not is_number(value):
            said = "is missing" if value is None else f"is {value!r:.60}"
            raise ConfigError(f"{config.accuracies}: {name}: {said}, expected its accuracy")
        found[name] = float(value)
    return found
