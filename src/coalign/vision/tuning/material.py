"""What is read for tuning on few shots: pictures, the classes that they are divided into, sentences about these."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.core.files import parse_json, read_rows
from coalign.data.media.records import MediaRecord, MediaSet, read_media
from coalign.vision.tuning.few_shot import base_and_novel, classes_of, draw_shots
from coalign.vision.tuning.prompted import plain_name

_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
BASE, NOVEL, TEST = "base", "novel", "test"


@dataclass(frozen=True)
class TestSet:
    """Pictures to measure on, and the classes that compete for them.

    Attributes:
        own: whether the classes are its own, not those that were trained on.
    """

    name: str
    records: Sequence[MediaRecord]
    classes: Sequence[str]
    own: bool = False

    def labels(self) -> list[int]:
        places = {name: at for at, name in enumerate(self.classes)}
        return [places[str(one.label)] for one in self.records]


@dataclass(frozen=True)
class Material:
    """What was read of the data, once for all seeds and arms."""

    data: MediaSet
    test: MediaSet | None
    transfer: Mapping[str, MediaSet]
    base: list[str]
    novel: list[str]
    descriptions: dict[str, list[str]]


def read_material(config: Any) -> Material:
    """Read pictures and descriptions, and divide the classes.

    Raises:
        DataError: pictures or descriptions that cannot be used.
    """

    def read(source: str, split: str) -> MediaSet:
        return read_media(
            source, kind="image", needs=("label",), split=split, on_bad_record=config.on_bad_record
        )

    data = read(config.data, config.split)
    base, novel = base_and_novel(classes_of(data.records), config.protocol)
    if len(base) < 2:
        raise DataError(
            f"{config.data}: {len(base)} class to train on, expected at least 2.",
            hint="--protocol all trains on every class; base-to-novel on the first half of them.",
        )
    test = read(config.test, config.test_split) if config.test else None
    if test is not None:
        known = {*base, *novel}
        unknown = [one for one in test.records if one.label not in known]
        if unknown:
            problems = [
                one.problem("label", f"{one.label!r}", f"a class of {config.data}") for one in unknown
            ]
            raise DataError(f"{config.test}: {len(unknown)} pictures of other classes.", problems)
    transfer = dict(one.split("=", 1) for one in config.transfer)
    others = {name: read(source, config.test_split) for name, source in transfer.items()}
    return Material(data, test, others, base, novel, descriptions_of(config, base))


def test_sets(config: Any, material: Material, seed: int) -> list[TestSet]:
    """The sets that a seed is measured on. The pictures of novel classes are the same for all seeds, and those of base
    classes too where there is a test set.

    Raises:
        DataError: no picture is left to measure on.
    """
    first = BASE if config.protocol == "base-to-novel" else TEST
    if material.test is None:
        rest = draw_shots(material.data.records, material.base, config.shots, seed).rest
        other = [one for one in material.data.records if one.label in {*material.novel}]
    else:
        rest = [one for one in material.test.records if one.label in {*material.base}]
        other = [one for one in material.test.records if one.label in {*material.novel}]
    sets = [TestSet(first, rest, material.base)]
    if config.protocol == "base-to-novel":
        sets.append(TestSet(NOVEL, other, material.novel))
    for name, found in material.transfer.items():
        classes = classes_of(found.records)
        same = {*classes} <= {*material.base}
        sets.append(TestSet(name, found.records, material.base if same else classes, own=not same))
    for one in sets:
        if not one.records or not one.classes:
            raise DataError(
                f"no picture is left to measure {one.name} on.",
                hint="Give a --test set, fewer --shots, or more pictures.",
            )
    return sets


def descriptions_of(config: Any, base: Sequence[str]) -> dict[str, list[str]]:
    """Sentences about each base class.

    Raises:
        DataError: the file is not {class: [sentences]} or lacks a class.
    """
    if config.descriptions is None:
        return {name: [one.format(plain_name(name)) for one in config.templates] for name in base}
    path = Path(config.descriptions)
    said = _read_descriptions(path)
    named = {plain_name(str(name)).casefold(): value for name, value in said.items()}
    found: dict[str, list[str]] = {}
    problems: list[RecordProblem] = []
    for name in base:
        value = named.get(plain_name(name).casefold())
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and texts and all(isinstance(one, str) and one.strip() for one in texts):
            found[name] = texts
        else:
            problem = "missing" if value is None else "no list of sentences"
            problems.append(RecordProblem(str(path), 1, name, problem, "a list of one or more sentences"))
    if problems:
        raise DataError(f"{path}: {len(problems)} of {len(base)} classes have no descriptions.", problems)
    return found


def _read_descriptions(path: Path) -> dict[str, Any]:
    """Class to sentences: a JSON object, or rows of `coalign generate` whose ids are the classes, a sentence a line.

    Raises:
        DataError: the file cannot be read or is neither.
    """
    try:
        if path.suffix != ".jsonl":
            said: Any = parse_json(path.read_text(encoding="utf-8"))
        else:
            said = {str(row["id"]): sentences_of(row["responses"]) for row in read_rows(path)}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected rows with id and responses, as `coalign generate` writes them"
        ) from error
    if not isinstance(said, dict):
        raise DataError(f"{path}: not an object, expected {{class: [sentences]}}")
    return said


def sentences_of(responses: Sequence[str]) -> list[str]:
    """The lines of a language model's responses, without what marks a list."""
    lines = [_MARK.sub("", line).strip() for text in responses for line in text.splitlines()]
    return [one for one in lines if one]
