"""DPA-RAG: passages are labelled by what they do to your reader; a reranker learns it, and the reader learns from both.

Understand What LLM Needs: Dual Preference Alignment for Retrieval-Augmented Generation (arXiv 2406.18676).

    coalign run dpa-rag --data questions.jsonl --corpus wiki/ --model default
    coalign run dpa-rag --data questions.jsonl --endpoint http://127.0.0.1:8000/v1 --no-tune-reader

Questions have gold answers and passages, or `--corpus` to search by words (BM25) or by embeddings. The reader answers each
training question without passages and with one at a time: a passage with which alone it is right is *aligned* knowledge, one
without which alone it is right is *unaligned*. An encoder learns to tell them by three losses, weighed in each step so that none
gets worse; queries may be rewritten in five ways (`--augmenter`). The reader is then trained twice: to judge a passage and answer
(pre-aligned), and to answer from the best passages. Test questions say what came of it: hit@k and answers with the retriever's
first passages, with the reranker's, and by the trained reader.

Read from the paper's text, since its data is not in the repository: the form of the pre-aligned records. Ours: the order within a
query (passages that help, then others, each in the retriever's order), how many passages are tried, all wordings, whole words as
match (`--match`). The code keeps the reranker of the best F1 on what it calls test data; here the last one is kept. Weights are
the exact shortest combination (`--weights official`: the authors' search, which ends within a thousandth).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from coalign.core.files import write_json
from coalign.core.options import Count, Fraction, Positive, option, required
from coalign.core.runs import Run
from coalign.curation.reading.augmentation import KINDS, Kind, contradicted, rewritten
from coalign.curation.reading.knowledge import (
    reader_prompt,
)
from coalign.curation.reading.report import write_reading_report
from coalign.curation.reading.reranker import RerankerOptions, train_reranker
from coalign.curation.reading.stages import (
    label_passages,
    measured,
    reranked,
    reranker_examples,
    tried,
    tune_reader,
    with_passages,
)
from coalign.data.passages import Passage
from coalign.data.questions import Question, read_questions, split_questions
from coalign.loops.rounds import Round, Stage, run_rounds
from coalign.loops.rows import answer_rows
from coalign.measures.short_answers import Match
from coalign.models.backends.open import open_generator, open_named
from coalign.models.backends.options import BackendOptions
from coalign.models.options import ADAPTER, ModelOptions
from coalign.models.types import Generator, Sampling
from coalign.training.distributed.leading import led
from coalign.training.options import TrainingOptions
from coalign.training.processes import assert_whole_models

if TYPE_CHECKING:
    pass

TRAINING = (
    "learning_rate",
    "epochs",
    "max_steps",
    "batch_size",
    "gradient_accumulation",
    "max_length",
    "max_prompt_length",
)
"""Options of the reader's training."""


@dataclass(kw_only=True)
class Config(RerankerOptions, ModelOptions, BackendOptions, TrainingOptions):
    """Options of `coalign run dpa-rag`; --model (or the endpoint's) is the reader."""

    __group__ = "Method"

    data: str = required("questions with `question`, `answers` and, unless --corpus is given, `passages`")
    corpus: str | None = option(
        None,
        "passages to search, for questions without: a folder of texts or a file of records",
        group="Retrieval",
    )
    retriever: Literal["bm25", "dense"] = option(
        "bm25", "by words, or by the nearness of embeddings", group="Retrieval", only_with="corpus"
    )
    encoder: str = option(
        "default-encoder",
        "sentence encoder of the dense retriever",
        group="Retrieval",
        only_with={"retriever": "dense"},
    )
    depth: Count = option(
        100, "passages that are retrieved for a question", source="paper", group="Retrieval"
    )
    tried: Count = option(
        8,
        "passages that the reader tries, drawn of those; the first is always among them",
        source="reconstruction",
    )
    top_k: Count = option(3, "passages that the reader answers from", source="paper")
    match: Match = option("words", "how an answer is compared with the gold answers", source="reconstruction")
    max_new_tokens: Count = option(20, "most tokens of an answer; decoding is greedy", source="official code")
    test_fraction: Fraction = option(
        0.2, "share of the questions that is tested on, where no `split` column says", group="Data"
    )
    limit: Count | None = option(None, "read only so many questions", group="Data")
    augmenter: str | None = option(
        None, "model that rewrites queries; `self`: the reader", group="Augmentation"
    )
    rewrites: list[Kind] = option(
        [*KINDS], "ways of rewriting", source="paper", group="Augmentation", only_with="augmenter"
    )
    nli: str | None = option(
        None, "classifier with a label `contradiction`: rewrites of a question are dropped where it says so of one of the first three",
        group="Augmentation", only_with="augmenter",
    )  # fmt: skip
    tune_reader: bool = option(True, "train the reader, too", group="Training")
    pre_align: bool = option(
        True,
        "before its fine-tuning, train it to judge passages",
        source="paper",
        group="Training",
        only_with="tune_reader",
    )
    epochs: Positive = option(
        3.0, "passes over the training records of each stage", source="official code", group="Training"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse(["eval_fraction", "eval_steps"], "here: test_fraction says what is held out")
        self.refuse(["reference_logps"], "here: nothing is compared with a reference")
        if not self.tune_reader:
            self.refuse([*TRAINING, *ADAPTER, "tuning"], "without tune_reader")
        elif self.chosen_backend != "auto" and self.chosen_backend != "transformers":
            raise ValueError(
                f"tune_reader: a reader behind {self.chosen_backend} cannot be trained; say --no-tune-reader"
            )


@dataclass(frozen=True)
class Reading:
    """What all stages share: questions with their passages, best first by the retriever."""

    training: list[Question]
    test: list[Question]


@led
def run(config: Config, run: Run) -> None:
    """Retrieve, label passages by the reader's answers, train reranker and reader, test, report.

    Raises:
        DataError: questions or passages that cannot be used, or passages of which none changes an answer.
        ConfigError: parts of a model in each process.
    """
    assert_whole_models("dpa-rag trains a reranker, which")
    questions = with_passages(config, read_questions(config.data, limit=config.limit))
    reading = Reading(*split_questions(questions, config.test_fraction))
    one = run_rounds(run, make_stages(config, reading))[0]
    results = measured(config, one, reading.test)
    write_json(run.artefacts / "results.json", results)
    write_reading_report(run, config, one, reading.test, results)


class _Asked:
    """A question with some passages, as it is put to the reader."""

    def __init__(self, name: str, question: Question, passages: Sequence[Passage]) -> None:
        self.id, self.prompt = name, reader_prompt(question.question, passages)


def make_stages(config: Config, reading: Reading) -> dict[str, Stage]:
    """The stages: answers to the test questions, rewrites, answers that label, labels, trainings, answers again."""
    greedy = Sampling(max_new_tokens=config.max_new_tokens, temperature=0.0)

    def reader(round: Round) -> Generator:
        if "reader" not in round.state:
            round.state["reader"] = open_generator(config)
        return round.state["reader"]

    def answer(
        round: Round, name: str, tasks: Sequence[_Asked], label: str, opened: Callable[[], Generator]
    ) -> None:
        answer_rows(round.path(name), tasks, opened, greedy, label=label)

    def baseline(round: Round) -> None:
        for name, k in (("without", 0), ("retriever", config.top_k)):
            tasks = [_Asked(one.id, one, one.passages[:k]) for one in reading.test]
            answer(round, f"test-{name}", tasks, f"Answering test questions, {name}", partial(reader, round))

    def propose(round: Round) -> None:
        if config.augmenter is None:
            return
        opened = (
            partial(reader, round)
            if config.augmenter == "self"
            else partial(open_named, config.augmenter, device=config.device)
        )
        sampling = replace(greedy, max_new_tokens=128)
        found = rewritten(round.path("rewriting"), reading.training, config.rewrites, opened, sampling)
        dropped = (
            contradicted(config.nli, reading.training, found, device=config.device)
            if config.nli
            else [False] * len(found)
        )
        rows = [
            {"id": one.id, "queries": [] if bad else [each for each in made if each], "contradicted": bad}
            for one, made, bad in zip(reading.training, found, dropped, strict=True)
        ]
        round.write("propose", rows)

    def generate(round: Round) -> None:
        before = [_Asked(one.id, one, []) for one in reading.training]
        answer(round, "before", before, "Answering without passages", partial(reader, round))
        tasks = [
            _Asked(f"{one.id}/{place}", one, [each])
            for one in reading.training
            for place, each in enumerate(tried(config, one))
        ]
        answer(round, "generate", tasks, "Answering with one passage", partial(reader, round))

    def build(round: Round) -> None:
        round.write("build", label_passages(config, round, reading.training))

    def fit(round: Round) -> None:
        round.state.clear()  # the reader's weights
        examples = reranker_examples(config, round)
        train_reranker(config, examples, round.run, round.run.artefacts / "reranker")
        if config.tune_reader:
            tune_reader(config, round, reading.training)

    def evaluate(round: Round) -> None:
        best = reranked(config, round, reading.test, "test-order")
        tasks = [_Asked(one.id, one, best[one.id][: config.top_k]) for one in reading.test]
        answer(round, "test-reranker", tasks, "Answering test questions, reranked", partial(reader, round))
        if config.tune_reader:
            round.state.clear()
            tuned = partial(open_generator, config.at(round.run.model))
            answer(round, "test-tuned", tasks, "Answering test questions, trained reader", tuned)

    return {
        "baseline": baseline,
        "propose": propose,
        "generate": generate,
        "build": build,
        "fit": fit,
        "evaluate": evaluate,
    }
