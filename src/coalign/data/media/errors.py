"""A picture or clip that cannot be used, as `file: problem`."""

from __future__ import annotations

from coalign.core.errors import CoalignError
from coalign.data.messages import FieldError


class MediaError(CoalignError):
    """A picture or clip that cannot be used.

    Attributes:
        file: its path, or what stands for one (`<bytes>`, `shard.tar/0001.jpg`).
        problem: what is wrong with it.
        expected: what would do.
    """

    def __init__(self, file: str, problem: str, expected: str, hint: str | None = None) -> None:
        super().__init__(f"{file}: {problem}, expected {expected}.", hint)
        self.file = file
        self.problem = problem
        self.expected = expected

    def of_field(self, field: str) -> FieldError:
        """The same as what is wrong with a field of a record."""
        return FieldError(f"{self.file}: {self.problem}", self.expected, field)
