"""Rows of public data sets, in the columns of their copies on the hub, as records of tasks.

`--train snli=stanfordnlp/snli` reads a data set of the hub, `--train snli=snli_train.jsonl` a file with its columns.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import ConfigError
from coalign.core.names import suggest
from coalign.data.messages import FieldError, describe
from coalign.evaluation.factuality.records import (
    ALIGNED,
    CONTRADICTING,
    NEUTRAL,
    TaskRecord,
    read_task_records,
    text,
    texts,
)

Row = Mapping[str, Any]
Convert = Callable[[Row], list[TaskRecord]]
CONVERTERS: dict[str, Convert] = {}
_VERDICTS = {
    "entailment": ALIGNED,
    "supports": ALIGNED,
    "supported": ALIGNED,
    "neutral": NEUTRAL,
    "not enough info": NEUTRAL,
    "contradiction": CONTRADICTING,
    "refutes": CONTRADICTING,
    "refuted": CONTRADICTING,
}


def read_sources(
    sources: Sequence[str],
    most: int,
    on_bad_record: Literal["fail", "skip"],
    seed: int,
    tell: Callable[[str], None],
) -> list[TaskRecord]:
    """The records of every source, mixed.

    Args:
        sources: `NAME=SOURCE` for a public data set's columns, or a file of records.
        most: records of one source.
        seed: of their order.
        tell: given a sentence on what each source gave.

    Raises:
        DataError, ConfigError: see `read_task_records` and `converter`.
    """
    records: list[TaskRecord] = []
    for one in sources:
        name, found, source = one.partition("=")
        known = bool(found) and not Path(one).exists()
        read = read_task_records(
            source if known else one,
            most=most,
            convert=converter(name) if known else None,
            on_bad_record=on_bad_record,
            dataset=name if known else Path(one).stem,
        )
        tasks = Counter(record.task for record in read.records)
        note = f"{one}: {len(read.records)} records ({', '.join(f'{n} {task}' for task, n in tasks.items())}) of {read.rows} rows"
        if read.problems:
            note += f", {len(read.problems)} bad rows skipped; the first: {read.problems[0]}"
        tell(note)
        records += read.records
    random.Random(seed).shuffle(records)
    return records


def converter(name: str) -> Convert:
    """The converter of a data set.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in CONVERTERS:
        advice = suggest(name, CONVERTERS, f"Known: {', '.join(CONVERTERS)}.")
        raise ConfigError(f"train: there is no converter {name!r}. {advice}")
    return CONVERTERS[name]


def _register(*names: str) -> Callable[[Convert], Convert]:
    def keep(convert: Convert) -> Convert:
        CONVERTERS.update(dict.fromkeys(names, convert))
        return convert

    return keep


def _verdict(row: Row, column: str = "label") -> int:
    """A three-way label as a number or as a word; -1 (no majority) is kept."""
    value = row.get(column)
    if isinstance(value, str) and value.strip().lower() in _VERDICTS:
        return _VERDICTS[value.strip().lower()]
    if isinstance(value, int) and not isinstance(value, bool) and -1 <= value <= 2:
        return value
    raise FieldError(describe(value), "-1, 0, 1, 2 or a verdict in words", column)


def _bit(row: Row, column: str) -> int:
    value = row.get(column)
    if value in (0, 1, "0", "1", True, False):
        return int(value)  # type: ignore[arg-type]
    raise FieldError(describe(value), "0 or 1", column)


def _number(row: Row, column: str, low: float, high: float) -> float:
    value = row.get(column)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not low <= number <= high:
        raise FieldError(describe(value), f"a number from {low:g} to {high:g}", column)
    return number


def _first(row: Row, *columns: str) -> str:
    """The column among these that the row has."""
    return next((one for one in columns if one in row), columns[0])


@_register("snli", "mnli", "anli")
def natural_language_inference(row: Row) -> list[TaskRecord]:
    """SNLI, MultiNLI, ANLI: `premise`, `hypothesis`, `label`."""
    label = _verdict(row)
    return [TaskRecord("nli", text(row, "premise"), (text(row, "hypothesis"),), label=label)]


@_register("doc_nli")
def document_inference(row: Row) -> list[TaskRecord]:
    """DocNLI: `premise`, `hypothesis`, `label` entailment or not_entailment."""
    label = row.get("label")
    if label not in ("entailment", "not_entailment"):  # numbers differ between copies
        raise FieldError(describe(label), "entailment or not_entailment", "label")
    aligned = label == "entailment"
    return [TaskRecord("bin_nli", text(row, "premise"), (text(row, "hypothesis"),), label=float(aligned))]


@_register("nli_fever", "vitaminc")
def fact_checking(row: Row) -> list[TaskRecord]:
    """NLI-FEVER (`context`, `query`) and VitaminC (`evidence`, `claim`), `label` in words or as a number."""
    evidence = text(row, _first(row, "evidence", "context", "premise"))
    claim = text(row, _first(row, "claim", "query", "hypothesis"))
    return [TaskRecord("fact_checking", evidence, (claim,), label=_verdict(row))]


@_register("qqp", "paws")
def paraphrase(row: Row) -> list[TaskRecord]:
    """QQP (`question1`, `question2`, `label` or `is_duplicate`), PAWS (`sentence1`, `sentence2`, `label`)."""
    label = _bit(row, _first(row, "label", "is_duplicate"))
    first, second = _first(row, "sentence1", "question1"), _first(row, "sentence2", "question2")
    return [TaskRecord("paraphrase", text(row, first), (text(row, second),), label=label)]


@_register("sick", "stsb")
def similarity(row: Row) -> list[TaskRecord]:
    """SICK (`sentence_A`, `sentence_B`, `relatedness_score`), STS-B (`sentence1`, `sentence2`, `label` or `score`)."""
    first, second = _first(row, "sentence1", "sentence_A"), _first(row, "sentence2", "sentence_B")
    score = _number(row, _first(row, "score", "relatedness_score", "label"), 0, 5)
    return [TaskRecord("sts", text(row, first), (text(row, second),), label=score)]


@_register("squad", "squad_v2")
def extractive(row: Row) -> list[TaskRecord]:
    """SQuAD: `context`, `question`, `answers`. A question without an answer has nothing to align and gives no record.

    Wrong answers, which make negatives, are in `wrong_answers` where somebody made them.
    """
    answers = row.get("answers")
    found = answers.get("text") if isinstance(answers, Mapping) else answers
    if not isinstance(found, list | tuple):
        raise FieldError(describe(answers), "a mapping with a list `text`", "answers")
    context, question = text(row, "context"), text(row, "question")
    right = [(one, 1.0) for one in found[:1]]
    wrong = [(one, 0.0) for one in texts(row, "wrong_answers")]
    return [TaskRecord("qa", context, (question,), (answer,), label) for answer, label in [*right, *wrong]]


@_register("race")
def multiple_choice(row: Row) -> list[TaskRecord]:
    """RACE: `article`, `question`, `options`, `answer` (a letter). The blank of a cloze question takes the option."""
    question, options = text(row, "question"), texts(row, "options")
    letter = row.get("answer")
    if not isinstance(letter, str) or len(letter) != 1 or not 0 <= ord(letter) - ord("A") < len(options):
        raise FieldError(describe(letter), "the letter of an option", "answer")
    filled = [question.replace("_", one) if "_" in question else f"{question} {one}" for one in options]
    right = filled.pop(ord(letter) - ord("A"))
    return [TaskRecord("multiple_choice_qa", text(row, "article"), (right,), tuple(filled))]


@_register("boolq")
def yes_or_no(row: Row) -> list[TaskRecord]:
    """BoolQ: `passage`, `question`, `answer` true or false."""
    question = text(row, "question")
    right, wrong = ("Yes.", "No.") if _bit(row, _first(row, "answer", "label")) else ("No.", "Yes.")
    return [
        TaskRecord(
            "multiple_choice_qa", text(row, "passage"), (f"{question} {right}",), (f"{question} {wrong}",)
        )
    ]


@_register("ms_marco")
def retrieval(row: Row) -> list[TaskRecord]:
    """MS MARCO: `query`, `passages` with `passage_text` and `is_selected`: one record a passage."""
    passages = row.get("passages")
    if not isinstance(passages, Mapping):
        raise FieldError(describe(passages), "a mapping with passage_text and is_selected", "passages")
    query = text(row, "query")
    found, selected = texts(passages, "passage_text"), passages.get("is_selected") or []
    if len(found) != len(selected):
        raise FieldError(f"{len(found)} texts but {len(selected)} flags", "one flag a text", "passages")
    return [
        TaskRecord("ir", one, (query,), label=float(flag)) for one, flag in zip(found, selected, strict=True)
    ]


@_register("gap")
def pronouns(row: Row) -> list[TaskRecord]:
    """GAP: `Text`, `Pronoun`, `A`, `A-coref`, `B`, `B-coref`: one record a name. The question's wording is ours."""
    passage, pronoun = text(row, "Text"), text(row, "Pronoun")
    records = []
    for name in ("A", "B"):
        flag = row.get(f"{name}-coref")
        if str(flag).lower() not in ("true", "false"):
            raise FieldError(describe(flag), "true or false", f"{name}-coref")
        question = f'Who does "{pronoun}" refer to?'
        label = float(str(flag).lower() == "true")
        records.append(TaskRecord("coreference", passage, (question,), (text(row, name),), label))
    return records


@_register("wikihow", "xsum", "cnn_dailymail", "samsum")
def summaries(row: Row) -> list[TaskRecord]:
    """WikiHow, XSum, CNN/DailyMail, SAMSum: the text and its summary under their usual names."""
    source = text(row, _first(row, "text", "document", "article", "dialogue"))
    summary = text(row, _first(row, "summary", "headline", "highlights"))
    return [TaskRecord("summarization", source, (summary,))]
