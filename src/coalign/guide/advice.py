"""Ranked systems for a situation, with reasons, commands and costs, and the reasons against the others.

A system is left out where its access, data or modality is not there, or where it improves something else than what was
asked for. The others are ranked by points: what they are for, what data they are made for, and what else they ask for.
The rule is ours. The same situation always gives the same list.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coalign.core import catalogue
from coalign.core.catalogue import Entry, entries, get
from coalign.guide.situation import ACCESS, BAD, KINDS, Budget, Known, Situation, goals, known_systems
from coalign.guide.taxonomy import MAPS, taxonomy

IMPLIED: Mapping[str, tuple[str, ...]] = {
    **{kind: tuple(others) for kind, others in catalogue.IMPLIED.items()},
    BAD: ("feedback", "prompts"),
    "conversations": ("prompts",),
}
"""Data that other data stands for."""
ASKED = {
    "strong": "a stronger model that writes or judges",
    "reward": "a reward model, or rules that a program checks",
    "base": "a base model",
    "aligned": "an aligned model beside it",
}
USUAL = ("preferences", "instructions")
"""What is wanted where nobody says."""
TRAINING_RATE: Mapping[Budget, float] = {"cpu": 1e11, "gpu": 1e14, "cluster": 8e14}
"""Floating-point operations a second that training reaches; costs are rough."""
SAMPLING_RATE: Mapping[Budget, float] = {"cpu": 2e10, "gpu": 1e13, "cluster": 8e13}
SAMPLED_TOKENS = 256
_WORK: Mapping[Budget, float] = {"cpu": 8, "gpu": 30, "cluster": 100}
"""Passes over a record above which a system is heavy for a budget."""
_TYPICAL = 1000


@dataclass(frozen=True)
class Cost:
    """What a system takes, roughly.

    Attributes:
        records: that it is counted for.
        training: floating-point operations of training.
        sampled: tokens to sample.
        requests: to a judge or a stronger model.
        hours: on the stated budget, without requests.
    """

    records: int
    training: float
    sampled: float
    requests: float
    hours: float

    @property
    def text(self) -> str:
        parts = [f"{self.training:.0e} FLOP of training"] if self.training else []
        parts += [f"{self.sampled:,.0f} sampled tokens"] if self.sampled else []
        parts += [f"{self.requests:,.0f} requests to a judge"] if self.requests else []
        if not parts:
            return f"seconds, for {self.records:,} records"
        time = "" if not self.training and not self.sampled else f"; {_time(self.hours)}"
        return f"{', '.join(parts)}{time}, for {self.records:,} records"


@dataclass(frozen=True)
class Advice:
    """A system that fits.

    Attributes:
        points: of the ranking.
        reasons: for it, the first being what it is for.
        needs: what it asks for that nobody has named.
        places: its node in each map, as `A.1.1.3 Name`.
        command: to run, placeholders in capitals.
        after: commands that measure the result.
    """

    slug: str
    title: str
    status: str
    points: float
    reasons: list[str]
    needs: list[str]
    places: dict[str, str]
    command: str
    cost: Cost
    after: list[str] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        return self.status != "planned"


@dataclass(frozen=True)
class Advised:
    """Systems that fit, the best first, and why the others do not."""

    systems: list[Advice]
    left_out: dict[str, str]
    data: str = "DATA"

    def first(self, count: int) -> list[Advice]:
        return self.systems[:count]


def advise(situation: Situation, *, data: str = "DATA") -> Advised:
    """The systems for a situation.

    Args:
        data: the file in the commands.
    """
    fitting: list[tuple[float, int, Advice]] = []
    left_out: dict[str, str] = {}
    for place, entry in enumerate(entries()):
        known = known_systems()[entry.slug]
        against = why_not(entry, known, situation)
        if against is not None:
            left_out[entry.slug] = against
            continue
        points, reasons, needs = _points(entry, known, situation)
        one = Advice(
            entry.slug,
            entry.title,
            entry.status,
            points,
            reasons,
            needs,
            places(entry.slug),
            filled(known.command, data, situation.model),
            cost(known, situation),
            [_after(known.after, situation)] if known.after is not None else [],
        )
        fitting.append((-points, place, one))
    return Advised([one for _, _, one in sorted(fitting, key=lambda row: row[:2])], left_out, data)


def usable(have: list[str]) -> set[str]:
    """Kinds of data at hand, and those that they stand for."""
    return {*have}.union(*(IMPLIED.get(kind, ()) for kind in have))


def modality_of(entry: Entry) -> str:
    """What a system works on."""
    return next((kind for kind in ("tables", "audio", "video", "images") if kind in entry.data), "text")


def why_not(entry: Entry, known: Known, situation: Situation) -> str | None:
    """The first reason against a system, or None."""
    wanted = set(situation.goal)
    if wanted and not wanted.intersection(known.goals):
        return f"is about something else: {goals()[known.goals[0]]}"
    modalities = {situation.modality} if situation.modality else set()
    modalities |= (
        {kind for kind in situation.have if kind in ("images", "video", "audio", "tables")}
        if not modalities
        else set()
    )
    if not wanted and modality_of(entry) not in (modalities or {"text"}):
        return f"works on {modality_of(entry)}"
    if wanted and modalities and modality_of(entry) not in modalities:
        return f"works on {modality_of(entry)}"
    if ACCESS.index(known.access) > ACCESS.index(situation.access):
        return f"needs {'the weights' if known.access == 'weights' else 'the probabilities of tokens'}"
    unfit = [kind for kind in situation.have if kind in known.unfit]
    if unfit:
        return f"is not for {KINDS[unfit[0]]}"
    needed = [kind for kind in entry.data if kind not in usable(situation.have)]
    if situation.have and needed:
        return f"needs {KINDS[needed[0]]}"
    if "base" in known.asks and situation.model_kind == "aligned":
        return "is for base models"
    return None


def _points(entry: Entry, known: Known, situation: Situation) -> tuple[float, list[str], list[str]]:
    points, reasons = 0.0, [known.why]
    hits = [one for one in known.goals if one in situation.goal]
    if hits:
        points += 5 if known.goals[0] in hits else 3
        reasons.append(f"for what you want: {goals()[hits[0]]}")
    elif known.goals[0] in USUAL:
        points += 1
    made_for = [kind for kind in known.have if kind in situation.have]
    if made_for:
        points += 3 if known.have[0] in made_for else 2
        reasons.append(f"made for {KINDS[made_for[0]]}")
    there = {"strong": situation.strong, "reward": situation.reward, "base": situation.model_kind == "base"}
    needs = []
    for one in known.asks:
        if there.get(one, False):
            points += 1.5
            reasons.append(f"uses {ASKED[one]}")
        else:
            points -= 0.5
            needs.append(ASKED[one])
    if not known.have:
        points -= 0.25
    needs += [KINDS[kind] for kind in entry.data if not situation.have]
    if sum(known.work) > _WORK[situation.budget]:
        points -= 1
        reasons.append(f"heavy for a {situation.budget.upper()}")
    points += {"available": 0.25, "preview": 0.1}.get(entry.status, -2)
    return points, reasons, needs


def places(slug: str) -> dict[str, str]:
    """The system's node in each map."""
    nodes = {name: taxonomy(name).place(slug) for name in MAPS}
    return {name: f"{node.id} {node.name}" for name, node in nodes.items()}


def filled(command: str, data: str, model: str) -> str:
    """A command with its file and model."""
    return command.replace("{data}", shlex.quote(data)).replace("{model}", shlex.quote(model))


def _after(slug: str, situation: Situation) -> str:
    command = known_systems()[slug].command
    return filled(command, "RESPONSES" if "arena" in slug else "DATA", situation.model)


def cost(known: Known, situation: Situation) -> Cost:
    """Passes over the records times what a pass takes; the rates are rough."""
    records = situation.records or _TYPICAL
    trained, sampled, asked = known.work
    training = 6 * situation.model_size * situation.tokens * records * trained
    tokens = SAMPLED_TOKENS * records * sampled
    seconds = training / TRAINING_RATE[situation.budget]
    seconds += 2 * situation.model_size * tokens / SAMPLING_RATE[situation.budget]
    return Cost(records, training, tokens, records * asked, seconds / 3600)


def _time(hours: float) -> str:
    if hours < 1 / 30:
        return "a minute or two"
    if hours < 1.5:
        return f"about {60 * hours:.0f} minutes"
    return f"about {hours:.0f} hours" if hours < 48 else f"about {hours / 24:.0f} days"


def as_row(one: Advice) -> dict[str, Any]:
    """An advice as JSON."""
    return {
        "slug": one.slug,
        "title": one.title,
        "status": one.status,
        "points": one.points,
        "reasons": one.reasons,
        "needs": one.needs,
        "places": one.places,
        "command": one.command,
        "after": one.after,
        "cost": {**vars(one.cost), "text": one.cost.text},
        "url": get(one.slug).url,
    }
