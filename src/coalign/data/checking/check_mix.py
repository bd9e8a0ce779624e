"""What `coalign data check` says of several sources together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from coalign.data.convert import common_kinds
from coalign.data.readers import RecordSet
from coalign.data.records import Kind, responses_of
from coalign.data.sources import DataSource
from coalign.data.splits import prompt_key


@dataclass(frozen=True)
class MixedSource:
    """A source of a mix: its good records, those under its cap, and what its weight makes of them in a pass, of which
    `share` is its part. A training converts and holds out before it draws.
    """

    tag: str
    kind: Kind
    records: int
    capped: int
    weight: float
    in_pass: int
    share: float


@dataclass(frozen=True)
class Mix:
    """Several sources together.

    Attributes:
        repeated: records that an earlier source has exactly so.
        shared_prompts: prompts that more than one source has.
        kinds: what the records of all can be read as together, beside prompts.
    """

    sources: list[MixedSource]
    repeated: int
    shared_prompts: int
    kinds: list[Kind]

    @property
    def usable(self) -> bool:
        """Whether a training can take them together; with a source of prompts they are prompts."""
        return bool(self.kinds) or any(one.kind == "prompt" for one in self.sources)

    def warnings(self) -> list[str]:
        """What may be meant but often is a mistake, one sentence each."""
        lines = []
        kinds = list(dict.fromkeys(one.kind for one in self.sources))
        if len(kinds) > 1:
            only = (
                f"as {', '.join(self.kinds)}"
                if self.kinds
                else "as prompts: no training takes their responses together"
            )
            lines.append(
                f"The sources hold records of kinds {' and '.join(kinds)}, which are read together only {only}."
            )
        counts = (
            (self.repeated, "Records that an earlier source has exactly so"),
            (self.shared_prompts, "Prompts that more than one source has"),
        )
        return lines + [f"{what}: {number:,}." for number, what in counts if number]


def check_mix(sources: Sequence[DataSource], found: Sequence[RecordSet]) -> Mix:
    """What several sources are together, as `scan_records` found each."""
    prompts: Counter[str] = Counter()
    seen: set[tuple[str, tuple[str, ...]]] = set()
    repeated = 0
    for one in found:
        records = {(prompt_key(record), responses_of(record)) for record in one.records}
        repeated += len(records & seen)
        seen |= records
        prompts.update({key for key, _ in records})
    capped = [min(len(one), source.max or len(one)) for source, one in zip(sources, found, strict=True)]
    in_pass = [round(count * source.weight) for count, source in zip(capped, sources, strict=True)]
    rows = [
        MixedSource(source.tag, one.kind, len(one), most, source.weight, count, count / max(sum(in_pass), 1))
        for source, one, most, count in zip(sources, found, capped, in_pass, strict=True)
    ]
    shared = sum(count > 1 for count in prompts.values())
    return Mix(rows, repeated, shared, common_kinds([one.kind for one in found]))
