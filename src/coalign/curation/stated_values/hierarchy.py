"""A hierarchy of values (dimensions, sub-dimensions, values), and combinations of one value of each dimension.

A file of one's own is YAML or JSON: dimension to sub-dimension to a list of values, each a sentence, or a mapping of
`value` (its name), `description` and `constraints` that programs can check::

    style:
      length:
        - The answer is thorough.
        - {value: short, description: The answer has at most 50 words., constraints: [{verifier: max_words, n: 50}]}
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import load_file
from coalign.judging.verifiers.constraints import Constraint, ConstraintError, parse_constraints

SHIPPED = Path(__file__).with_name("values.json")
_TRIES = 1000


@dataclass(frozen=True)
class Value:
    """One value.

    Attributes:
        name: short; what tables call it.
        description: a sentence of what an answer then is like.
        constraints: what programs can check of it.
    """

    dimension: str
    subdimension: str
    name: str
    description: str
    constraints: tuple[Constraint, ...] = ()

    @property
    def preference(self) -> dict[str, Any]:
        """As a row's `preference_set` holds it; `preference` is what the value means for one instruction."""
        checked = {"constraints": [one.to_json() for one in self.constraints]} if self.constraints else {}
        return {
            "dimension": self.dimension,
            "subdimension": self.subdimension,
            "value": self.name,
            "preference": self.description,
            "description": self.description,
            **checked,
        }


Combination = tuple[Value, ...]
"""One value of each dimension, in their order."""


@dataclass(frozen=True)
class Hierarchy:
    """Dimension to its values."""

    dimensions: Mapping[str, Sequence[Value]]

    @property
    def combinations(self) -> int:
        """How many combinations there are."""
        return math.prod(map(len, self.dimensions.values()))

    def draw(
        self, count: int, key: str, *, unseen: bool | None = None, share: float = 0.0, seed: int = 0
    ) -> list[Combination]:
        """Different combinations, the same ones for the same key; as far as a dimension has values enough, no two share one.

        Args:
            key: what they are for (an instruction's id).
            unseen: only combinations that `is_unseen` says this of; None takes any.
            share: of combinations that are kept unseen.

        Raises:
            ConfigError: there are not so many.
        """
        drawn: list[Combination] = []
        random_ = random.Random(f"{seed}/{key}")
        for tried in range(_TRIES * count):
            used = {value for one in drawn for value in one} if tried % _TRIES < _TRIES // 2 else set()
            picked = tuple(
                random_.choice([one for one in values if one not in used] or list(values))
                for values in self.dimensions.values()
            )
            fits = unseen is None or is_unseen(picked, share, seed) == unseen
            if fits and picked not in drawn:
                drawn.append(picked)
            if len(drawn) == count:
                return drawn
        kept = (
            ""
            if unseen is None
            else f" of those that are {'kept for' if unseen else 'not kept for'} held-out instructions"
        )
        raise ConfigError(
            f"values: no {count} different combinations{kept} among {self.combinations}.",
            hint="Give more values, fewer system messages an instruction, or another share of unseen combinations.",
        )


def is_unseen(combination: Sequence[Value], share: float, seed: int = 0) -> bool:
    """Whether a combination is kept for held-out instructions: a share of them, by a seeded hash of their names."""
    names = json.dumps([seed, *([one.subdimension, one.name] for one in combination)])
    number = int.from_bytes(hashlib.blake2b(names.encode(), digest_size=8).digest())
    return number < share * 2**64


def read_hierarchy(path: Path | None = None) -> Hierarchy:
    """The hierarchy of a file; None takes the shipped one.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is no hierarchy; every wrong place is named.
    """
    path = path or SHIPPED
    problems: list[str] = []
    dimensions = {
        name: [
            value
            for sub, entries in _mapping(path, name, inner, problems).items()
            for value in _values(path, name, sub, entries, problems)
        ]
        for name, inner in load_file(path).items()
    }
    problems += [
        f"{path}: {name}: has no value, expected at least one"
        for name, found in dimensions.items()
        if not found
    ]
    if not dimensions:
        problems.append(f"{path}: is empty, expected dimensions with sub-dimensions and values")
    if problems:
        raise DataError("\n".join(problems))
    return Hierarchy({name.replace("_", " "): found for name, found in dimensions.items()})


def _mapping(path: Path, name: str, inner: Any, problems: list[str]) -> Mapping[str, Any]:
    if isinstance(inner, Mapping):
        return inner
    problems.append(
        f"{path}: {name}: is a {type(inner).__name__}, expected a mapping of sub-dimensions to lists"
    )
    return {}


def _values(path: Path, name: str, sub: str, entries: Any, problems: list[str]) -> list[Value]:
    dimension, found = name.replace("_", " "), []
    if not isinstance(entries, list):
        problems.append(f"{path}: {name}.{sub}: is a {type(entries).__name__}, expected a list of values")
        return []
    for place, entry in enumerate(entries):
        given = {"value": entry, "description": entry} if isinstance(entry, str) else entry
        where = f"{path}: {name}.{sub}[{place}]"
        if not isinstance(given, Mapping) or not isinstance(given.get("description"), str):
            problems.append(f"{where}: has no description, expected a sentence or a mapping with one")
            continue
        try:
            constraints = parse_constraints(given["constraints"]) if "constraints" in given else ()
        except ConstraintError as error:
            problems.append(f"{where}.{error.field}: {error.problem}, expected {error.expected}")
            continue
        short = str(given.get("value") or given["description"])
        found.append(Value(dimension, str(sub), short, given["description"], constraints))
    return found
