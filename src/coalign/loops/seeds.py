"""What is trained before the rounds: which options say so, and how its records are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from coalign.core.errors import DataError
from coalign.core.options import OptionGroup, Positive, option
from coalign.data.convert import convert
from coalign.data.readers import read_records
from coalign.data.records import Record
from coalign.data.usable import assert_contrast, equal_responses
from coalign.loops.labelling import SeedStage

if TYPE_CHECKING:
    from coalign.training.objective import Objective


@dataclass(kw_only=True)
class SeedOptions(OptionGroup):
    """A training before the rounds, from M0 to M1."""

    __group__ = "Seed stage"

    seed_data: str | None = option(None, "records that M0 is trained on before the rounds, which makes M1")
    seed_epochs: Positive = option(1.0, "passes over them", only_with="seed_data")
    seed_learning_rate: Positive | None = option(
        None, "peak learning rate of that training; by default as of the rounds", only_with="seed_data"
    )


def seed_stage(config: Any, objective: Objective, constants: Any = None) -> SeedStage | None:
    """The training before the rounds that the options ask for, None without `seed_data`.

    Raises:
        DataError: the file cannot be read, or not as the objective's kind of data; every pair of it a tie.
    """
    if config.seed_data is None:
        return None
    records = read_seed(config.seed_data, objective)
    options = replace(
        config,
        epochs=config.seed_epochs,
        learning_rate=config.seed_learning_rate or config.learning_rate,
    )
    return SeedStage(objective=objective, records=records, options=options, constants=constants)


def read_seed(source: str, objective: Objective) -> list[Record]:
    """Records of the kind that an objective learns from.

    Raises:
        DataError: see `seed_stage`.
    """
    found = read_records(source, text_alone=False)
    try:
        records = convert(found.records, found.kind, objective.data)
    except DataError as error:
        raise DataError(f"{source}: {error.message}", error.problems, hint=error.hint) from error
    if not records:
        raise DataError(
            f"{source}: no record is left to learn from.", hint="`coalign data check` shows what is there."
        )
    problems = equal_responses(records)
    if problems:
        raise DataError(f"{len(problems)} of {len(records)} records set a response against itself.", problems)
    assert_contrast(records, objective.data, source)
    return records
