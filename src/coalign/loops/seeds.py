"""What is trained before the rounds: which options say so, and how its records are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from coalign.core.errors import DataError
from coalign.core.options import OptionGroup, Positive, option
from coalign.data.checking.usable import assert_contrast, equal_responses
from coalign.data.convert import converted
from coalign.data.readers import read_records
from coalign.data.records import Kind, Record
from coalign.loops.labelling import SeedStage

if TYPE_CHECKING:
    from coalign.training.objective import Objective


@dataclass(kw_only=True)
class SeedOptions(OptionGroup):
    """A training before the rounds, from M0 to M1. A system names the options that bring records to it as `seeds_from`."""

    __group__ = "Seed stage"
    seeds_from: ClassVar[tuple[str, ...]] = ("seed_data",)

    seed_data: str | None = option(None, "records that M0 is trained on before the rounds, which makes M1")
    seed_epochs: Positive = option(1.0, "passes over the records of the seed stage")
    seed_learning_rate: Positive | None = option(
        None, "peak learning rate of the seed stage; by default as of the rounds"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(getattr(self, name) for name in self.seeds_from):
            self.refuse(["seed_epochs", "seed_learning_rate"], f"without {' or '.join(self.seeds_from)}")


def seed_stage(
    config: Any, objective: Objective, constants: Any = None, *, also: Sequence[Record] = ()
) -> SeedStage | None:
    """The training before the rounds that the options ask for, None without `seed_data` and further records.

    Args:
        also: records of the objective's kind besides those of `seed_data`.

    Raises:
        DataError: the file cannot be read, or not as the objective's kind of data; every pair of it a tie.
    """
    own = [] if config.seed_data is None else read_seed(config.seed_data, objective.data)
    records = [*own, *also]
    if not records:
        return None
    return SeedStage(objective=objective, records=records, options=seed_training(config), constants=constants)


def seed_training(config: Any) -> Any:
    """The options of a system as the seed stage takes them."""
    return replace(
        config,
        epochs=config.seed_epochs,
        learning_rate=config.seed_learning_rate or config.learning_rate,
    )


def read_seed(source: str, kind: Kind) -> list[Record]:
    """Records of a kind, or what can be read as it.

    Raises:
        DataError: see `seed_stage`.
    """
    found = read_records(source, text_alone=False)
    records = converted(found, kind)
    if not records:
        raise DataError(
            f"{source}: no record is left to learn from.", hint="`coalign data check` shows what is there."
        )
    problems = equal_responses(records)
    if problems:
        raise DataError(f"{len(problems)} of {len(records)} records set a response against itself.", problems)
    assert_contrast(records, kind, source)
    return [*records]
