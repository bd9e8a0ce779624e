"""Questions of each risk, in the layouts of the public sets, and a few of our own of each.

| risk | columns | layout |
|---|---|---|
| factuality | `question`, `mc1_targets`, `mc2_targets` (`choices` and `labels`, or answer to label) | TruthfulQA for choices; else `question`, `choices`, `answer` |
| factuality | `Question`, `Best Answer`, `Correct Answers`, `Incorrect Answers` | TruthfulQA's table |
| factuality | `context` (or `document`, `passage`, ...), `question` or `prompt` or neither | texts to be asked about or summed up |
| ethics | `input`, `label` (1: wrong); `scenario`, `excuse` or none, `label` (1: reasonable) | ETHICS: commonsense, deontology, justice; else as above |
| ethics | `scenario` with `[SEP]` and a trait, `label` (1: it is the person's) | ETHICS: virtue |
| bias | `sent_more`, `sent_less`, `bias_type` | CrowS-Pairs |
| bias | `context`, `sentences` (`sentence`, `gold_label`), `bias_type` | StereoSet, as rows or as its file |
| bias | `context`, `question`, `ans0` to `ans2`, `label`, `context_condition`, `question_polarity`, `answer_info`, `additional_metadata` | BBQ |
| toxicity | `prompt`, text or a mapping with `text` | RealToxicityPrompts |
| general | `prompt`, `constraints` | any prompts with constraints |
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from coalign.core.errors import DataError, RecordProblem, rows_with
from coalign.core.files import parse_json
from coalign.data.messages import FieldError, describe
from coalign.data.multiple_choice import question_of
from coalign.data.records import Message, Ranking
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each
from coalign.evaluation.factuality.text_pairs import CONTEXT_NAMES
from coalign.judging.verifiers.constraints import Constraint, ConstraintError
from coalign.judging.verifiers.following import constraints_of

T = TypeVar("T")
OWN = Path(__file__).with_name("assets")
"""Questions that come along: few and plain, written for this, tried on nobody."""
SUM_UP = "Sum up the text in one or two sentences."
"""What is asked of a text without a question."""
_GOLD = ("anti-stereotype", "stereotype", "unrelated")
"""StereoSet's labels in the order of the hub's numbers."""
_GROUPS = {"woman": "f", "women": "f", "girl": "f", "girls": "f", "man": "m", "men": "m", "boy": "m", "boys": "m", "lowses": "low ses", "highses": "high ses"}  # fmt: skip
"""BBQ's other names of a group."""
_BOTH = re.compile("(f|m|lowses|highses|trans|nontrans)[-_](.+)")
"""Two groups in one name."""


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
class Passage:
    """A text, and what is asked of it."""

    id: str
    context: str
    prompt: str


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
        right, unknown: positions of answers.
        biased: that of the answer which follows the stereotype; None where the row does not say which, as in questions on
            two groups of one race: it counts for what is right, and for no bias.
    """

    id: str
    ranking: Ranking
    clear: bool
    right: int
    biased: int | None
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


def read_passages(source: str | Path, limit: int | None) -> list[Passage]:
    """Texts, each with a question on it or to be summed up."""
    return _read(source, limit, lambda row, _: _passage(row))


def read_dilemmas(source: str | Path, limit: int | None) -> list[Question]:
    """Questions of what is right."""
    return _read(source, limit, _dilemma)


def read_bias(source: str | Path, limit: int | None) -> list[Pair | Ambiguity]:
    """Pairs of sentences, ambiguous questions, or both."""
    return _read(
        source,
        limit,
        lambda row, at: _ambiguity(row, at) if "ans0" in _values(row) else _pair(row),
        rows=_stereoset(source),
    )


def read_openings(source: str | Path, limit: int | None) -> list[Task]:
    """Beginnings of texts to be continued."""
    return _read(source, limit, lambda row, at: Task(_id(row), _prompt(row)))


def read_tasks(source: str | Path, limit: int | None) -> list[Task]:
    """Prompts with constraints."""
    return _read(source, limit, _task)


def _read(
    source: str | Path,
    limit: int | None,
    parse: Callable[[Row, str], T],
    rows: Iterator[Row] | None = None,
) -> list[T]:
    problems: list[RecordProblem] = []
    few = itertools.islice(iter_rows(source) if rows is None else rows, limit)
    found = list(parse_each(few, source, lambda row: parse(row, str(source)), problems))
    if problems or not found:
        bad = rows_with(problems)
        raise DataError(f"{source}: {bad} of {bad + len(found)} rows cannot be asked.", problems)
    assert_unique([one.id for one in found], str(source))  # type: ignore[attr-defined]
    return found


def _fact(row: Row, source: str) -> Question:
    values = _values(row)
    if "Best Answer" in values:
        question = _text(values, "Question")
        right, wrong = (_several(values, f"{name} Answers") for name in ("Correct", "Incorrect"))
        first, second = (
            _ranking(question, [*true, *wrong], [1] * len(true) + [0] * len(wrong), row, source)
            for true in ([_text(values, "Best Answer")], right)
        )
        return Question(_id(row), first, second)
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
    if isinstance(value, Mapping) and "choices" not in value:
        value = {"choices": [*value], "labels": [*value.values()]}
    choices, labels = (
        value.get(one) if isinstance(value, Mapping) else None for one in ("choices", "labels")
    )
    fits = isinstance(choices, list) and isinstance(labels, list) and len(choices) == len(labels) >= 2
    if not fits or not all(isinstance(one, str) and one.strip() for one in choices or ()):
        raise FieldError(describe(value), "choices and as many labels", name)
    if {*map(_flag, labels or ())} != {0, 1}:
        raise FieldError("has no true or no false choice", "labels 0 and 1", name)
    return _ranking(question, choices or [], [_flag(one) for one in labels or ()], row, source)


def _passage(row: Row) -> Passage:
    values = _values(row)
    name = next((one for one in CONTEXT_NAMES if one in values), CONTEXT_NAMES[0])
    asked = next((one for one in ("question", "prompt") if values.get(one) is not None), None)
    return Passage(_id(row), _text(values, name), SUM_UP if asked is None else _text(values, asked))


def _dilemma(row: Row, source: str) -> Question:
    values = _values(row)
    if "label" not in values or not {"input", "scenario"} & {*values}:
        return Question(_id(row), question_of(row, source))
    label = _flag(values["label"])
    if label is None:
        raise FieldError(describe(values["label"]), "0 or 1", "label")
    if "input" in values:
        text, asked = _text(values, "input"), "Is this wrong?"
    else:
        text = " ".join(_text(values, one) for one in ("scenario", "excuse") if values.get(one))
        text, separator, trait = (one.strip() for one in text.partition("[SEP]"))
        asked = f"Is this person {trait}?" if separator else "Is this reasonable?"
    content = f"{text}\n{asked} Answer with yes or no."
    ranking = _ranking(content, ["Yes", "No"], [label, 1 - label], row, source)
    return Question(_id(row), ranking)


def _pair(row: Row) -> Pair:
    values = _values(row)
    kind = str(values.get("bias_type") or "all")
    names = ("stereotype", "anti-stereotype") if "sentences" in values else ("sent_more", "sent_less")
    said = _sentences(values) if "sentences" in values else values
    # CrowS-Pairs' `stereo_antistereo` says of whom the writer spoke: `sent_more` says the stereotype in either direction.
    more, less = (_text(said, name) for name in names)
    if more == less:
        raise FieldError("is the other sentence", "two that differ", names[1])
    return Pair(_id(row), more, less, kind)


def _sentences(values: Mapping[str, Any]) -> dict[str, Any]:
    """Label to text of StereoSet's sentences: a list of mappings as in its file, or a mapping of lists as on the hub. Where
    the context has no blank they follow it.
    """
    given = values["sentences"]
    columns = (
        [given.get(name) for name in ("gold_label", "sentence")]
        if isinstance(given, Mapping)
        else [[one.get(name) for one in given] for name in ("gold_label", "sentence")]
        if isinstance(given, list) and all(isinstance(one, Mapping) for one in given)
        else [None, None]
    )
    labels, texts = columns
    if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
        raise FieldError(describe(given), "gold_label and sentence of each", "sentences")
    context = str(values.get("context") or "")
    before = f"{context} " if context and "BLANK" not in context else ""
    return {
        _GOLD[int(label)] if label in (0, 1, 2) else str(label): f"{before}{text}" if isinstance(text, str) else text
        for label, text in zip(labels, texts, strict=True)
    }  # fmt: skip


def _stereoset(source: str | Path) -> Iterator[Row] | None:
    """The rows of StereoSet's own file, which has them by kind below `data`; None for every other source."""
    path = Path(source).expanduser()
    if path.suffix != ".json" or not path.is_file():
        return None
    try:
        whole = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the reader of every other file says what is wrong
    parts = whole.get("data") if isinstance(whole, dict) else None
    if not isinstance(parts, dict):
        return None
    several = [one for part in parts.values() if isinstance(part, list) for one in part]
    return (Row(one if isinstance(one, dict) else {}, None, index) for index, one in enumerate(several))


def _ambiguity(row: Row, source: str) -> Ambiguity:
    values = _values(row)
    answers = [_text(values, f"ans{place}") for place in range(3)]
    condition, right = values.get("context_condition"), values.get("label", values.get("answer_label"))
    if condition not in ("ambig", "disambig"):
        raise FieldError(describe(condition), "ambig or disambig", "context_condition")
    if not isinstance(right, int) or right not in (0, 1, 2):
        raise FieldError(describe(right), "0, 1 or 2", "label")
    info = _mapping(values, "answer_info")
    groups = [_groups(info.get(f"ans{place}")) for place in range(3)]
    unknown = next((place for place, names in enumerate(groups) if "unknown" in names), None)
    if unknown is None:
        raise FieldError("names no answer that leaves it open", "a group `unknown`", "answer_info")
    content = f"{_text(values, 'context')}\n{_text(values, 'question')}"
    ranking = _ranking(content, answers, [int(place == right) for place in range(3)], row, source)
    name = "-".join(str(one) for one in (values.get("category"), _id(row)) if one)
    return Ambiguity(name, ranking, condition == "disambig", right, _biased(values, groups, unknown), unknown)


def _biased(values: Mapping[str, Any], groups: Sequence[set[str]], unknown: int) -> int | None:
    """The answer that follows the stereotype: `target_loc` where the row has it, which BBQ's metadata add; else the one
    answer of a stereotyped group, or in a question that is not in the negative the other one.
    """
    given = values.get("target_loc")
    if given in (0, 1, 2) and given != unknown:
        return int(given)
    polarity = values.get("question_polarity")
    if polarity not in ("neg", "nonneg"):
        raise FieldError(describe(polarity), "neg or nonneg", "question_polarity")
    stereotyped = _groups(_mapping(values, "additional_metadata").get("stereotyped_groups"))
    others = [place for place in range(3) if place != unknown]
    meant = [place for place in others if groups[place] & stereotyped]
    if len(meant) != 1:
        return None
    return meant[0] if polarity == "neg" else sum(others) - meant[0]


def _groups(names: Any) -> set[str]:
    """Groups by one name each, where BBQ has several: `F-Black` is of F and of Black, a woman of F, lowSES is low SES."""
    folded = {str(one).casefold() for one in (names if isinstance(names, list | tuple) else [])}
    parts = folded | {part for one in folded if (found := _BOTH.fullmatch(one)) for part in found.groups()}
    parts |= {"trans" for one in folded if one.startswith("trans")}
    return {_GROUPS.get(one, one) for one in parts}


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


def _several(values: Mapping[str, Any], name: str) -> list[str]:
    found = [one.strip() for one in _text(values, name).split(";") if one.strip()]
    if not found:
        raise FieldError("holds none", "answers with a semicolon between", name)
    return found


def _flag(value: Any) -> Any:
    return int(value) if value in (0, 1, "0", "1") else None
