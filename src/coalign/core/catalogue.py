"""The catalogue: every system with its paper, room, needs and claim. Reading it imports nothing heavy."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.names import suggest

_TABLES = tomllib.loads((resources.files("coalign.core") / "catalogue.toml").read_text(encoding="utf-8"))

ROOMS: dict[str, str] = _TABLES["rooms"]
"""Room to what it holds, in the order in which systems are listed."""
VERBS: dict[str, str] = _TABLES["verbs"]
DATA: dict[str, str] = _TABLES["data"]
MODELS: dict[str, str] = _TABLES["models"]
CONFIDENCE: dict[str, str] = _TABLES["confidence"]
"""What systems do, need and run on, and how well they could be confirmed: key to words."""
IMPLIED: dict[str, list[str]] = _TABLES["implied"]
"""Kind of data to those that it serves for, too."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One system.

    Attributes:
        slug: its name, for ever.
        title: the paper's title.
        arxiv: the paper's arXiv identifier.
        room: key of `ROOMS`; the package that holds it.
        status: `available`; `preview`, which runs but has no check of its claim yet; or `planned`. Everything else
            that depends on availability reads this field.
        verbs: keys of `VERBS`; what the system does.
        data: keys of `DATA`; what it needs from the user.
        models: keys of `MODELS`; what it runs on.
        confidence: key of `CONFIDENCE`; how well the method could be confirmed.
        claim: the paper's headline effect in our words.
        reconstruction: what is ours where the confidence is below high.
    """

    slug: str
    title: str
    arxiv: str
    room: str
    status: str
    verbs: tuple[str, ...]
    data: tuple[str, ...]
    models: tuple[str, ...]
    confidence: str
    claim: str
    reconstruction: str = ""

    @property
    def available(self) -> bool:
        """Whether it can run."""
        return self.status in ("available", "preview")

    @property
    def checked(self) -> bool:
        """Whether it has a check of its paper's claim."""
        return self.status == "available"

    @property
    def year(self) -> int:
        """Year of the paper's first version, which the arXiv identifier begins with."""
        return 2000 + int(self.arxiv[:2])

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"

    @property
    def command(self) -> str:
        return f"coalign run {self.slug}"


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Every system, by room in the order of `ROOMS`."""
    rows: Iterable[dict[str, Any]] = (
        {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        for row in _TABLES["system"]
    )
    rooms = list(ROOMS)
    return tuple(sorted((Entry(**row) for row in rows), key=lambda entry: rooms.index(entry.room)))


def get(slug: str) -> Entry:
    """The system `slug`; case and underscores do not matter.

    Raises:
        ConfigError: there is none; the nearest names are given.
    """
    known = {entry.slug: entry for entry in entries()}
    name = slug.lower().replace("_", "-")
    if name not in known:
        raise ConfigError(
            f"No system is called {slug!r}.", hint=suggest(name, known, "`coalign methods` lists all.")
        )
    return known[name]


def select(
    *, room: str | None = None, have: Collection[str] | None = None, available: bool = False
) -> tuple[Entry, ...]:
    """The systems that fit.

    Args:
        room: only this room.
        have: the kinds of data at hand (keys of `DATA`). A system fits when all that it needs is there; richer
            data serves where simpler is needed (pairs hold prompts). Systems that need most of it come first.
        available: only those that can run now.

    Raises:
        ConfigError: an unknown room or kind of data.
    """
    if room is not None and room not in ROOMS:
        raise ConfigError(f"room: {room!r} is unknown, expected one of: {', '.join(ROOMS)}")
    found = [
        entry
        for entry in entries()
        if (room is None or entry.room == room) and (entry.available or not available)
    ]
    if have is None:
        return tuple(found)
    given = {_data_kind(kind) for kind in have}
    usable = given.union(*(IMPLIED.get(kind, ()) for kind in given))
    fitting = [entry for entry in found if usable.issuperset(entry.data)]
    return tuple(sorted(fitting, key=lambda entry: -len(given.intersection(entry.data))))


def _data_kind(name: str) -> str:
    kind = name.strip().lower()
    if kind in DATA:
        return kind
    if f"{kind}s" in DATA:
        return f"{kind}s"
    raise ConfigError(f"have: {name!r} is not a kind of data, expected one of: {', '.join(DATA)}")
