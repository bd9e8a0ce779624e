"""Given records, as their files hold them, for checks on real text (`coalign reproduce SLUG --data FILE`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from coalign.core.errors import DataError
from coalign.core.files import read_rows
from coalign.data.readers import read_records
from coalign.data.records import Demonstration, Judgment, Preference, PromptRecord, Ranking, Record

R = TypeVar("R", bound=Record)


def read_groups(path: Path) -> list[Ranking]:
    """Rankings with different scores, from a rankings file or from GSM8K's `example_model_solutions.jsonl`.

    Raises:
        DataError: there is none.
    """
    found = _example_solutions(path)
    if not found:
        found = [one for one in read_records(path).records if isinstance(one, Ranking)]
    usable = [one for one in found if len(set(one.scores)) > 1]
    hint = "Give `prompt`, `responses` and `scores`, or GSM8K's example_model_solutions.jsonl."
    return _enough(usable, f"{path}: no ranking whose scores differ.", hint)


def _example_solutions(path: Path) -> list[Ranking]:
    """Rows of a question and, under several names, `{"solution", "is_correct"}`; an empty list for other files."""
    if path.suffix != ".jsonl":
        return []
    rankings = []
    for row in read_rows(path):
        marks = {
            one["solution"]: float(one["is_correct"])
            for one in row.values()
            if isinstance(one, dict) and {"solution", "is_correct"} <= one.keys()
        }
        if isinstance(row.get("question"), str) and len(marks) > 1:
            prompt: Any = [{"role": "user", "content": row["question"]}]
            rankings.append(Ranking(prompt=prompt, responses=tuple(marks), scores=tuple(marks.values())))
    return rankings


def read_answers(path: Path) -> list[Demonstration]:
    """Prompts with one answer each, from demonstrations or judged answers.

    Raises:
        DataError: there are fewer than two.
    """
    found = [
        Demonstration.of(one, completion=one.completion)
        for one in read_records(path).records
        if isinstance(one, Demonstration | Judgment)
    ]
    missing = f"{path}: {len(found)} prompts with an answer."
    return _enough(found, missing, "Give `prompt` and `completion`.", 2)


def read_pairs(path: Path) -> tuple[list[Preference], int]:
    """Preference pairs, and how many records of the file cannot be used.

    Raises:
        DataError: there is none.
    """
    found = read_records(path, on_bad_record="skip")
    pairs = [one for one in found.records if isinstance(one, Preference)]
    hint = "Give `prompt`, `chosen` and `rejected`, or a file of the Anthropic HH data."
    return _enough(pairs, f"{path}: no preference pair, found {found.recognised}.", hint), found.n_bad


def read_prompts(path: Path) -> list[PromptRecord]:
    """The prompts of records of any kind, each once.

    Raises:
        DataError: there are fewer than two.
    """
    found = [one for one in read_records(path, kind="prompt").records if isinstance(one, PromptRecord)]
    distinct = list({str(one.prompt): one for one in found}.values())
    return _enough(distinct, f"{path}: {len(distinct)} distinct prompts.", "Give `prompt` on every line.", 2)


def read_judgments(path: Path) -> list[Judgment]:
    """Answers with what a judge said of them in words.

    Raises:
        DataError: there is none.
    """
    found = read_records(path)
    judged = [one for one in found.records if isinstance(one, Judgment)]
    hint = "Give `prompt`, `completion` and `judgment`, or CUT's train-alpaca-sample-iter1.json."
    return _enough(judged, f"{path}: no judged answer, found {found.recognised}.", hint)


def _enough(found: list[R], missing: str, hint: str, least: int = 1) -> list[R]:
    if len(found) < least:
        raise DataError(missing, hint=hint)
    return found


def misplaced(records: Sequence[Demonstration], share: float) -> tuple[list[Demonstration], int]:
    """The records, the first so many of them (`share`, at least two) with each other's answers, and their number."""
    count = max(2, round(share * len(records)))
    answers = [records[(row + 1) % count].completion for row in range(count)]
    moved = [replace(one, completion=text) for one, text in zip(records[:count], answers, strict=True)]
    return [*moved, *records[count:]], count
