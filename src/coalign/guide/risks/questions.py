"""Questions of each risk, in the layouts of the public sets, and a few of our own of each.

| risk | columns | layout |
|---|---|---|
| factuality | `question`, `mc1_targets`, `mc2_targets` (`choices`, `labels`) | TruthfulQA; else `question`, `choices`, `answer` |
| ethics | `input`, `label` (1: wrong); `scenario`, `excuse` or none, `label` (1: reasonable) | ETHICS: commonsense, deontology, justice; else as above |
| bias | `sent_more`, `sent_less`, `bias_type`; `stereotype`, `anti-stereotype` | CrowS-Pairs; StereoSet's sentences |
| bias | `context`, `question`, `ans0` to `ans2`, `label`, `context_condition`, `answer_info`, `additional_metadata` | BBQ |
| toxicity | `prompt`, text or a mapping with `text` | RealToxicityPrompts |
| general | `prompt`, `constraints` | any prompts with constraints |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from coalign.core.errors import DataError, RecordProblem, rows_with
from coalign.data.messages import FieldError, describe
from coalign.data.multiple_choice import question_of
from coalign.data.records import Message, Ranking
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each
from coalign.judging.verifiers.constraints import Constraint, ConstraintError
from coalign.judging.verifiers.following import constraints_of

T = TypeVar("T")
OWN = Path(__file__).with_name("assets")
"""Questions that come along: few and plain, written for this, tried on nobody."""


@dataclass(frozen=True)
class Question:
    """A question with answers of which some are true.

    Attributes:
        ranking: MC1's choices, or all; scores are 1 for true ones.
        second: MC2's choices, where they are others.
    """

    id: str
    ranking: Ranking
    second: Ranking | None = None


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in the group they speak of; the first says the stereotype."""

    id: str
    more: str
    less: str
    kind: str


@dataclass(frozen=True)
class Ambiguity:
    """A question of BBQ.

    Attributes:
        clear: the context says the answer; else only leaving it open is right.
        right, biased, unknown: positions of answers.
    """

    id: str
    ranking: Ranking
    clear: bool
    right: int
    biased: int
    unknown: int


@dataclass(frozen=True)
class Task:
    """A prompt, with what its answer must keep to."""

    id: str
    prompt: str
    constraints: tuple[Constraint, ...] = ()


def read_facts(source: str | Path, limit: int | None) -> list[Question]:
    """Questions of fact."""
    return _read(source, limit, _fact)


def read_dilemmas(source: str | Path, limit: int | None) -> list[Question]:
    """Questions of what is right."""
    return _read(source, limit, _dilemma)


def read_bias(source: str | Path, limit: int | None) -> list[Pair | Ambiguity]:
    """Pairs of sentences, ambiguous questions, or both."""
    return _read(source, limit, lambda row, at: _ambiguity(row, at) if "ans0" in _values(row) else _pair(row))


def read_openings(source: str | Path, limit: int | None) -> list[Task]:
    """Beginnings of texts to be continued."""
    return _read(source, limit, lambda row, at: Task(_id(row), _prompt(row)))


def read_tasks(source: str | Path, limit: int | None) -> list[Task]:
    """Prompts with constraints."""
    return _read(source, limit, _task)


def _read(source: str | Path, limit: int | None, parse: Callable[[Row, str], T]) -> list[T]:
    problems: list[RecordProblem] = []
    rows = (row for row in iter_rows(source) if limit is None or row.index < limit)
    found = list(parse_each(rows, source, lambda row: parse(row, str(source)), problems))
    if problems or not found:
        bad = rows_with(problems)
        raise DataError(f"{source}: {bad} of {bad + len(found)} rows cannot be asked.", problems)
    assert_unique([one.id for one in found], str(source))  # type: ignore[attr-defined]
    return found


def _fact(row: Row, source: str) -> Question:
    values = _values(row)
    if "mc1_targets" not in values and "mc2_targets" not in values:
        return Question(_id(row), question_of(row, source))
    parts = {
        name: _targets(values[name], name, _text(values, "question"), row, source)
        for name in ("mc1_targets", "mc2_targets")
        if values.get(name)
    }
    first = parts.get("mc1_targets") or parts["mc2_targets"]
    return Question(_id(row), first, parts.get("mc2_targets"))


def _targets(value: Any, name: str, question: str, row: Row, source: str) -> Ranking:
    choices, labels = (
        value.get(one) if isinstance(value, Mapping) else None for one in ("choices", "labels")
    )
    fits = isinstance(choices, list) and isinstance(labels, list) and len(choices) == len(labels) >= 2
    if not fits or not all(isinstance(one, str) and one.strip() for one in choices or ()):
        raise FieldError(describe(value), "choices and as many labels", name)
    if {*map(_flag, labels or ())} != {0, 1}:
        raise FieldError("has no true or no false choice", "labels 0 and 1", name)
    return _ranking(question, choices or [], [_flag(one) for one in labels or ()], row, source)


def _dilemma(row: Row, source: str) -> Question:
    values = _values(row)
    if "label" not in values or not {"input", "scenario"} & {*values}:
        return Question(_id(row), question_of(row, source))
    label = _flag(values["label"])
    if label is None:
        raise FieldError(describe(values["label"]), "0 or 1", "label")
    if "input" in values:
        text, asked, yes = _text(values, "input"), "Is this wrong?", label
    else:
        text = " ".join(_text(values, one) for one in ("scenario", "excuse") if values.get(one))
        asked, yes = "Is this reasonable?", label
    ranking = _ranking(f"{text}\n{asked} Answer with yes or no.", ["Yes", "No"], [yes, 1 - yes], row, source)
    return Question(_id(row), ranking)


def _pair(row: Row) -> Pair:
    values = _values(row)
    names = ("sent_more", "sent_less") if "sent_more" in values else ("stereotype", "anti-stereotype")
    more, less = (_text(values, name) for name in names)
    if more == less:
        raise FieldError("is the other sentence", "two that differ", names[1])
    # Of pairs that speak against a stereotype CrowS-Pairs has the stereotype in the second sentence.
    swapped = values.get("stereo_antistereo") == "antistereo"
    kind = str(values.get("bias_type") or "all")
    return Pair(_id(row), *((less, more) if swapped else (more, less)), kind)


def _ambiguity(row: Row, source: str) -> Ambiguity:
    values = _values(row)
    answers = [_text(values, f"ans{place}") for place in range(3)]
    condition, right = values.get("context_condition"), values.get("label")
    if condition not in ("ambig", "disambig"):
        raise FieldError(describe(condition), "ambig or disambig", "context_condition")
    if not isinstance(right, int) or right not in (0, 1, 2):
        raise FieldError(describe(right), "0, 1 or 2", "label")
    groups = _groups(values)
    unknown = next((place for place, names in enumerate(groups) if "unknown" in names), None)
    if unknown is None:
        raise FieldError("names no answer that leaves it open", "a group `unknown`", "answer_info")
    stereotyped = {
        str(one).casefold() for one in _mapping(values, "additional_metadata").get("stereotyped_groups") or ()
    }
    meant = [place for place, names in enumerate(groups) if place != unknown and names & stereotyped]
    if len(meant) != 1:
        raise FieldError(
            "name one answer's group no more than the other's", "one of them", "stereotyped_groups"
        )
    other = 3 - unknown - meant[0]
    # A question in the negative asks who did it: there the stereotyped group is the biased answer.
    biased = other if values.get("question_polarity") == "nonneg" else meant[0]
    content = f"{_text(values, 'context')}\n{_text(values, 'question')}"
    ranking = _ranking(content, answers, [int(place == right) for place in range(3)], row, source)
    return Ambiguity(_id(row), ranking, condition == "disambig", right, biased, unknown)


def _groups(values: Mapping[str, Any]) -> list[set[str]]:
    info = _mapping(values, "answer_info")
    return [{str(one).casefold() for one in info.get(f"ans{place}") or ()} for place in range(3)]


def _task(row: Row, source: str) -> Task:
    values = _values(row)
    try:
        constraints = constraints_of(values)
    except ConstraintError as error:
        raise FieldError(str(error), "constraints", "constraints") from error
    if not constraints:
        raise FieldError("holds none", "one or more", "constraints")
    return Task(_id(row), _prompt(row), tuple(constraints))


def _prompt(row: Row) -> str:
    value = _values(row).get("prompt")
    return _text(
        value if isinstance(value, Mapping) else _values(row),
        "text" if isinstance(value, Mapping) else "prompt",
    )


def _ranking(question: str, choices: list[str], true: list[Any], row: Row, source: str) -> Ranking:
    return Ranking(
        prompt=[Message(role="user", content=question)],
        responses=tuple(choices),
        scores=tuple(map(float, true)),
        source=row.source(source),
        plain=True,
    )


def _values(row: Row) -> dict[str, Any]:
    return row.value or {}


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values.get(name)
    if not isinstance(value, Mapping):
        raise FieldError(describe(value), "a mapping", name)
    return value


def _id(row: Row) -> str:
    return str(_values(row).get("id") or _values(row).get("example_id") or f"row {row.index + 1}")


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise FieldError(describe(value), "text", name)
    return value.strip()


def _flag(value: Any) -> Any:
    return int(value) if value in (0, 1, "0", "1") else None
