"""The parts of reading: retrieval, labels from the reader's answers, the order of the reranker, the reader's training, figures."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coalign.core.errors import DataError
from coalign.curation.reading.knowledge import (
    Preference,
    pre_aligned,
    preference_of,
    preference_row,
    reader_prompt,
)
from coalign.curation.reading.reranker import load_reranker
from coalign.data.passages import Passage, read_passages
from coalign.data.questions import Question
from coalign.data.records import Demonstration
from coalign.loops.rounds import Round
from coalign.loops.rows import Row, read_answers
from coalign.loops.scoring import chunked_rows
from coalign.measures.short_answers import has_match
from coalign.training.job import Job
from coalign.training.learning import train
from coalign.training.objective import get_objective


def with_passages(config: Any, questions: Sequence[Question]) -> list[Question]:
    """The questions with at most `depth` passages each, of their own or of the corpus.

    Raises:
        DataError: questions without passages, and no corpus that has some for them.
    """
    filled = [*questions]
    if config.corpus is not None and not all(one.passages for one in questions):
        from coalign.models.retrieval import open_index

        corpus = read_passages(config.corpus)
        index = open_index(
            config.retriever, [str(one) for one in corpus], encoder=config.encoder, device=config.device
        )
        filled = [
            one
            if one.passages
            else replace(
                one, passages=tuple(corpus[place] for place in index.top(one.question, config.depth))
            )
            for one in questions
        ]
    missing = [one.id for one in filled if not one.passages]
    if missing:
        raise DataError(
            f"{config.data}: {len(missing)} of {len(questions)} questions have no passages, first {missing[0]!r}.",
            hint="Add a column `passages`, or passages that share words with them in --corpus (or --retriever dense).",
        )
    return [replace(one, passages=one.passages[: config.depth]) for one in filled]


def tried(config: Any, question: Question) -> list[Passage]:
    """The passages that the reader tries: the first of the retriever's and others that are drawn, in its order."""
    rest = range(1, len(question.passages))
    drawn = random.Random(f"{config.seed}/{question.id}").sample(rest, min(config.tried - 1, len(rest)))
    return [question.passages[place] for place in sorted([0, *drawn])]


def label_passages(config: Any, round: Round, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """What every passage that was tried does to the reader, a row a question."""
    before = {row["id"]: row["responses"][0] for row in read_answers(round.path("before"))}
    after = {row["id"]: row["responses"][0] for row in read_answers(round.path("generate"))}
    rows = []
    for one in questions:
        passages = tried(config, one)
        right = [
            has_match(after[f"{one.id}/{place}"], one.answers, config.match) for place in range(len(passages))
        ]
        rows.append(
            preference_row(
                one.id, one.question, has_match(before[one.id], one.answers, config.match), passages, right
            )
        )
    return rows


def reranker_examples(config: Any, round: Round) -> list[Preference]:
    """What the reranker learns from, rewrites of a query beside it.

    Raises:
        DataError: no passage changes an answer.
    """
    rewrites: Mapping[str, list[str]] = {row["id"]: row["queries"] for row in round.read("propose")}
    found = [
        preference_of(row, query, f"{row['id']}/{place}", most=config.group_size)
        for row in round.read("build")
        for place, query in enumerate([row["question"], *rewrites.get(row["id"], [])])
    ]
    examples = [one for one in found if one is not None]
    if not examples:
        raise DataError(
            f"{config.data}: no passage changes an answer of the reader, so there is nothing to learn.",
            hint="Give more questions or passages (--tried), or another --match.",
        )
    return examples


def reranked(config: Any, round: Round, questions: Sequence[Question], name: str) -> dict[str, list[Passage]]:
    """Question to its passages, the reranker's best first; the order is kept row by row."""

    def work() -> Callable[[Sequence[Row]], list[Row]]:
        folder = round.run.artefacts / "reranker"
        reranker = load_reranker(folder, max_length=config.reranker_max_length, device=config.device)

        def order(part: Sequence[Row]) -> list[Row]:
            return [{"order": reranker.order(row["query"], row["texts"])} for row in part]

        return order

    tasks = [
        {"id": one.id, "query": one.question, "texts": [str(each) for each in one.passages]}
        for one in questions
    ]
    rows = chunked_rows(round.path(name), tasks, work, label="Reranking", unit="question")
    orders = {row["id"]: row["order"] for row in rows}
    return {one.id: [one.passages[place] for place in orders[one.id]] for one in questions}


def tune_reader(config: Any, round: Round, questions: Sequence[Question]) -> None:
    """Train the reader to judge passages and answer, then to answer from the reranker's best ones."""
    gold = {one.id: one.answers[0] for one in questions}
    model: Any = config
    judged = [pre_aligned(row, gold[row["id"]]) for row in round.read("build")] if config.pre_align else []
    records = [one for one in judged if one is not None]
    objective = get_objective("sft")
    if records:
        folder = round.run.artefacts / "pre-aligned"
        train(
            Job(objective=objective, options=model, run=round.run, records=records, name="pre-aligned"),
            folder,
        )
        model = config.at(folder)
    best = reranked(config, round, questions, "training-order")
    records = [
        Demonstration(
            prompt=reader_prompt(one.question, best[one.id][: config.top_k]), completion=one.answers[0]
        )
        for one in questions
    ]
    train(Job(objective=objective, options=model, run=round.run, records=records), round.run.model)


def measured(config: Any, round: Round, test: Sequence[Question]) -> dict[str, Any]:
    """For each way of answering the test questions whether each answer is right; hit@k of both orders for k = 1, 3, 5, 10."""
    answers: dict[str, list[float]] = {}
    for name in ("without", "retriever", "reranker", "tuned"):
        found = {row["id"]: row["responses"][0] for row in round.read(f"test-{name}")}
        if found:
            answers[name] = [float(has_match(found[one.id], one.answers, config.match)) for one in test]
    orders = {
        "retriever": {one.id: [*one.passages] for one in test},
        "reranker": reranked(config, round, test, "test-order"),
    }
    hits = {
        name: {str(k): [float(any(has_match(str(each), one.answers, config.match) for each in order[one.id][:k])) for one in test]
               for k in (1, 3, 5, 10)}
        for name, order in orders.items()
    }  # fmt: skip
    return {"answers": answers, "hits": hits}
