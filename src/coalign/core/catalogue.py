"""The catalogue: every system with its paper, room, needs and claim. Reading it imports nothing heavy."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.names import suggest

ROOMS = {
    "preference": "learning from fixed feedback",
    "selfalign": "systems that make their own data",
    "rewards": "reward models, transforms, verifiers",
    "decoding": "alignment at inference time",
    "evaluation": "metrics, judges, tournaments, protocols",
    "curation": "making, filtering, selecting and mixing data",
    "vision": "images and text",
    "video": "video and text",
    "speech": "sound and text",
    "tables": "table structure",
    "platform": "whole pipelines over several rooms",
    "guide": "the surveys as a map of the field",
}
"""Room to what it holds, in the order in which systems are listed."""

VERBS = {
    "fit": "learn",
    "score": "measure",
    "generate": "decode",
    "build": "make or select data",
    "evaluate": "compare and report",
}

DATA = {
    "prompts": "prompts without responses",
    "demonstrations": "prompts with the response to imitate, or questions with their answer",
    "preferences": "prompts with a chosen and a rejected response",
    "rankings": "prompts with several scored or ranked responses",
    "feedback": "prompts with a response and thumbs up or down",
    "judgments": "prompts with a response and a written judgment",
    "responses": "responses of several models or methods to the same prompts",
    "conversations": "logs of chats with several turns",
    "texts": "texts or pairs of texts",
    "images": "images, with captions or labels where the system learns from them",
    "audio": "recordings with transcripts",
    "video": "videos or their features",
    "tables": "annotated tables",
}

MODELS = {
    "policy": "the language model that is trained, steered or measured",
    "base": "a language model without alignment tuning",
    "reference": "a frozen copy to compare with",
    "aligned": "a language model that is already aligned",
    "judge": "a model that writes verdicts",
    "teacher": "a model that writes data",
    "reward": "a model that scores responses",
    "encoder": "a model that embeds text, images or video",
    "vlm": "a model that reads images and writes text",
    "generator": "a model that makes images",
    "recogniser": "a speech recogniser with a CTC head",
    "network": "a network that the system builds itself",
}

CONFIDENCE = {
    "high": "confirmed from the paper or its official code",
    "medium": "confirmed in the main; some parts are reconstructed",
    "medium-low": "confirmed in outline; central parts are reconstructed",
    "low": "only the idea is confirmed; the form is reconstructed",
}

_IMPLIED = {
    "rankings": ("preferences", "demonstrations", "feedback", "prompts"),
    "preferences": ("demonstrations", "feedback", "prompts"),
    "demonstrations": ("prompts",),
    "feedback": ("prompts",),
    "judgments": ("prompts",),
}


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
    text = resources.files("coalign.core").joinpath("catalogue.toml").read_text(encoding="utf-8")
    rows = [_entry(row) for row in tomllib.loads(text)["system"]]
    rooms = list(ROOMS)
    return tuple(sorted(rows, key=lambda entry: rooms.index(entry.room)))


def _entry(row: dict[str, Any]) -> Entry:
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in row.items()
    }
    return Entry(**fields)


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
    usable = given.union(*(_IMPLIED.get(kind, ()) for kind in given))
    fitting = [entry for entry in found if usable.issuperset(entry.data)]
    return tuple(sorted(fitting, key=lambda entry: -len(given.intersection(entry.data))))


def _data_kind(name: str) -> str:
    kind = name.strip().lower()
    if kind in DATA:
        return kind
    if f"{kind}s" in DATA:
        return f"{kind}s"
    raise ConfigError(f"have: {name!r} is not a kind of data, expected one of: {', '.join(DATA)}")
