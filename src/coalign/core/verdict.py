"""The verdict of a check: what was claimed, the rule fixed beforehand, what was measured, and whether it was seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from coalign.core.files import write_json

CheckOutcome = Literal["seen", "not seen", "mixed"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Result of a check.

    Attributes:
        slug: the system.
        outcome: `seen`, `not seen` or `mixed`, by `rule` alone.
        claim: the paper's headline effect, in our words.
        rule: the margin rule, fixed before the run.
        setting: what stands in for the paper's models and data.
        measures: rows of the table: [{"arm": ..., "seed": ..., metric: value, ...}].
        summary: the few figures the rule reads.
        tried: what else was tried, for a *not seen*.
        seconds: processor time.
    """

    slug: str
    outcome: CheckOutcome
    claim: str
    rule: str
    setting: str
    measures: list[dict[str, Any]]
    summary: dict[str, Any]
    tried: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))
