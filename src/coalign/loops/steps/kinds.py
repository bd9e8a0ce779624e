"""What a step of a pipeline is: local, ordered or a choice (`coalign.loops.pipeline`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from coalign.loops.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(slots=True)
class Kept:
    """A record that goes on.

    Attributes:
        row: its columns; an `id` is set by the pipeline: that of the record it was made from, numbered where several
            came from one.
        facts: what the manifest keeps of this step.
    """

    row: Row
    facts: Mapping[str, Any] = field(default_factory=lambda: NOTHING)


@dataclass(slots=True)
class Rejected:
    """A record that ends here.

    Attributes:
        reason: a few words, the same for all that fall for it: they are counted.
    """

    row: Row
    reason: str
    facts: Mapping[str, Any] = field(default_factory=lambda: NOTHING)


Made = Kept | Rejected


class Named(Protocol):
    """What every step has. `needs`: columns without which it cannot work."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> Sequence[str]: ...


class Local(Named, Protocol):
    """A step without a memory.

    It may have `alone = True` (begin a pass), `batch` (most records at a time) and `close()` (called after its pass).
    """

    def __call__(self, rows: Sequence[Row]) -> Sequence[Sequence[Made]]:
        """What becomes of each record, in their order."""
        ...


class Ordered(Named, Protocol):
    """A step that keeps a record or rejects it by what it kept before. `full`: no further record will be kept."""

    @property
    def full(self) -> bool: ...

    def look(self, row: Row) -> Made:
        """The record as it is, kept or rejected; nothing is remembered."""
        ...

    def remember(self, row: Row) -> None:
        """A record that was kept, now or before a kill."""
        ...


@dataclass(frozen=True)
class Picks:
    """What a choice came to.

    Attributes:
        groups: places of the records that make one together, mostly one each; in the order of the result.
        reason: of records in no group: one for all, or each by its place.
        of: [records] of each the place of the record that stands for it, where it is not kept for another's sake.
        scores: [records] noted of records that are not kept.
    """

    groups: NDArray[np.integer[Any]] | Sequence[int] | Sequence[tuple[int, ...]]
    reason: str | Callable[[int], str]
    of: NDArray[np.integer[Any]] | None = None
    scores: NDArray[np.floating[Any]] | None = None


class Choice(Named, Protocol):
    """A step that decides when it has seen a sketch of every record.

    What is picked stays as it is; a step that makes records of groups has a `join` (`Joining`).
    """

    def sketch(self, rows: Sequence[Row]) -> Any:
        """[rows, ...] what it needs of each record: numbers or bytes as one array, of the same type every time. They are
        spilled to disk.
        """
        ...

    def choose(self, sketches: Any) -> Picks:
        """The choice.

        Args:
            sketches: [records, ...] the sketches, an array that lies on disk.
        """
        ...


class Joining(Choice, Protocol):
    """A choice whose groups become other records."""

    def join(self, rows: Sequence[Row]) -> Sequence[Made]:
        """The record or records that a group makes."""
        ...


Step = Local | Ordered | Choice


def is_ordered(step: Step) -> TypeGuard[Ordered]:
    """Whether a step decides by what it kept before."""
    return hasattr(step, "remember")


def is_choice(step: Step) -> TypeGuard[Choice]:
    """Whether a step decides when it has seen every record."""
    return hasattr(step, "choose")


def is_joining(step: Choice) -> TypeGuard[Joining]:
    """Whether the groups of a choice become other records."""
    return hasattr(step, "join")
