"""Are the objects of a picture where its description puts them? VISOR and the 2-D spatial score of T2I-CompBench.

Boxes are (x_min, y_min, x_max, y_max) in pixels; y grows downwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

Relation = Literal["left", "right", "above", "below", "near"]
Box: TypeAlias = tuple[float, float, float, float]
RELATIONS: tuple[Relation, ...] = ("left", "right", "above", "below", "near")
OPPOSITE: dict[Relation, Relation] = {"left": "right", "right": "left", "above": "below", "below": "above"}
SIDE = 512
"""Pixels of the longer side of the pictures that T2I-CompBench's distances are made for."""
NEAR = 150.0
OVERLAP = 0.1
"""Intersection over union from which a position counts less."""
_WORDS: dict[Relation, str] = {
    "left": r"(?:to|on|at) the left(?: side| hand side)? of|left of",
    "right": r"(?:to|on|at) the right(?: side| hand side)? of|right of",
    "above": r"on (?:the )?top of|above|over",
    "below": r"(?:on|at) the bottom of|below|beneath|underneath|under",
    "near": r"next to|on (?:the )?side of|beside|close to|adjacent to|near",
}
_PHRASE = re.compile("|".join(rf"\b(?P<{name}>{words})\b" for name, words in _WORDS.items()), re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:a|an|the|one)\s+", re.IGNORECASE)
_VERB = re.compile(r"\s+(?:is|are|sits|stands|lies)$", re.IGNORECASE)


@dataclass(frozen=True)
class SpatialPrompt:
    """A description "A r B": `first` is `relation` of `second` ("a cat left of a cup")."""

    text: str
    first: str
    relation: Relation
    second: str


@dataclass(frozen=True)
class Detection:
    """An object that a detector found."""

    label: str
    score: float
    box: Box

    @property
    def centre(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True)
class SpatialOutcome:
    """What one picture shows of its prompt.

    Attributes:
        first, second: the objects as they were found, None where one was not.
        correct: both are there and stand as they should by their centres (VISOR).
        score: of T2I-CompBench, in [0, 1].
    """

    first: Detection | None
    second: Detection | None
    correct: bool
    score: float

    @property
    def both(self) -> bool:
        return self.first is not None and self.second is not None


def parse_spatial_prompt(text: str) -> SpatialPrompt | None:
    """The objects and the relation of a description; None where it states no relation that can be measured in the plane.

    Articles and a verb before the relation are left out of the objects. Where several phrases stand in the text the first
    counts.
    """
    clean = " ".join(text.split()).strip(" .")
    found = _PHRASE.search(clean)
    if found is None or found.lastgroup is None:
        return None
    before = _VERB.sub("", clean[: found.start()].strip(" ,"))
    first, second = (_ARTICLE.sub("", one.strip(" ,")) for one in (before, clean[found.end() :]))
    if not first or not second:
        return None
    return SpatialPrompt(text, first, cast(Relation, found.lastgroup), second)


def relation_phrases(text: str) -> list[tuple[Relation, int, int]]:
    """The phrases of a text that name a relation: which, from where to where."""
    return [(cast(Relation, one.lastgroup), one.start(), one.end()) for one in _PHRASE.finditer(text)]


def mirrored(text: str) -> str:
    """A caption of the mirrored picture: left and right exchanged, written as they were."""

    def swap(found: re.Match[str]) -> str:
        word = found[0]
        other = "right" if word.lower() == "left" else "left"
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return re.sub(r"\b(?:left|right)\b", swap, text, flags=re.IGNORECASE)


def stands(relation: Relation, first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether a centre stands in a relation to another (VISOR): left x_A < x_B, above y_A < y_B; equal ones do not.

    Raises:
        ValueError: VISOR has no rule for `near`.
    """
    match relation:
        case "left":
            return first[0] < second[0]
        case "right":
            return first[0] > second[0]
        case "above":
            return first[1] < second[1]
        case "below":
            return first[1] > second[1]
        case _:
            raise ValueError(f"VISOR has no rule for {relation!r}")


def position_score(relation: Relation | None, first: Box, second: Box, *, scale: float = 1.0) -> float:
    """How well two boxes stand in a relation, in [0, 1] (T2I-CompBench, 2-D spatial).

    A direction needs the larger distance of the centres on its own axis; 1, or 0.1 / IoU where they overlap by 0.1 or
    more. `near`: 1 within 150 pixels on an axis, else 150 over the larger distance.

    Args:
        relation: None scores 0, as a phrase does there that no rule knows ("on top of").
        scale: pixels of a picture of 512 to one of this one.
    """
    if relation is None:
        return 0.0
    across, down = (
        scale * ((second[axis] + second[axis + 2]) - (first[axis] + first[axis + 2])) / 2 for axis in (0, 1)
    )
    if relation == "near":
        return 1.0 if min(abs(across), abs(down)) < NEAR else NEAR / max(abs(across), abs(down))
    sideways = relation in ("left", "right")
    along, beside = (across, down) if sideways else (down, across)
    if relation in ("right", "below"):
        along = -along
    if along <= 0 or along <= abs(beside):
        return 0.0
    overlap = intersection_over_union(first, second)
    return 1.0 if overlap < OVERLAP else OVERLAP / overlap


def intersection_over_union(first: Box, second: Box) -> float:
    """Shared area over joint area; 0 for boxes without area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    joint = sum((one[2] - one[0]) * (one[3] - one[1]) for one in (first, second)) - shared
    return shared / joint if joint > 0 else 0.0


def image_score(first: float | None, second: float | None, position: float, *, least: float = 0.5) -> float:
    """T2I-CompBench's score of a picture: 0.25 (conf_A + conf_B) + 0.5 position where both objects are there, 0.25 conf
    for one, 0 for none; what is below `least` becomes 0.

    Args:
        first, second: the confidences of the detector, None where it found nothing.
    """
    score = 0.25 * ((first or 0.0) + (second or 0.0))
    if first is not None and second is not None:
        score += 0.5 * position
    return score if score >= least else 0.0


def spatial_outcome(
    prompt: SpatialPrompt, detections: Iterable[Detection], *, threshold: float = 0.1, width: int, height: int
) -> SpatialOutcome:
    """What a picture shows of its prompt. Of several detections with a label the one with the highest score counts.

    Args:
        detections: labels are those of the prompt's objects.
        threshold: detections count above it.
        width, height: of the picture, for the distances of T2I-CompBench.
    """
    best: dict[str, Detection] = {}
    for one in detections:
        if one.score > threshold and (one.label not in best or one.score > best[one.label].score):
            best[one.label] = one
    first, second = best.get(prompt.first), best.get(prompt.second)
    position, correct = 0.0, False
    if first is not None and second is not None:
        scale = SIDE / max(width, height)
        position = position_score(prompt.relation, first.box, second.box, scale=scale)
        near = prompt.relation == "near"
        correct = position == 1.0 if near else stands(prompt.relation, first.centre, second.centre)
    score = image_score(first.score if first else None, second.score if second else None, position)
    return SpatialOutcome(first, second, correct, score)


def visor(outcomes: Sequence[Sequence[tuple[bool, bool, bool]]]) -> dict[str, float | None]:
    """VISOR over prompts, in [0, 1] (Gokhale et al. 2022, section 3).

    Args:
        outcomes: for each prompt, for each of its pictures: whether A is there, whether B is, whether both are and stand
            right.

    Returns:
        `OA` share of pictures with both objects, `OA_A`, `OA_B` with one; `VISOR_cond` share of right ones among those with
        both, None where no picture has both; `VISOR_uncond` among all; `VISOR_n` share of prompts with n right pictures or
        more, n up to the pictures a prompt; `both` how many pictures have both. None where there is no picture.
    """
    pictures = [one for group in outcomes for one in group]
    count = len(pictures)
    both = sum(a and b for a, b, _ in pictures)
    right = sum(correct for *_, correct in pictures)
    found: dict[str, float | None] = {
        "OA": _share(both, count),
        "OA_A": _share(sum(a for a, _, _ in pictures), count),
        "OA_B": _share(sum(b for _, b, _ in pictures), count),
        "VISOR_cond": _share(right, both),
        "VISOR_uncond": _share(right, count),
    }
    each = [sum(correct for *_, correct in group) for group in outcomes]
    for least in range(1, max(map(len, outcomes), default=0) + 1):
        found[f"VISOR_{least}"] = _share(sum(one >= least for one in each), len(each))
    return {**found, "both": both}


def visor_by(
    groups: Mapping[str, Sequence[Sequence[tuple[bool, bool, bool]]]],
) -> dict[str, dict[str, float | None]]:
    """`visor` of each group (a relation) and of all together under `all`."""
    joint = [one for group in groups.values() for one in group]
    return {**{name: visor(group) for name, group in groups.items()}, "all": visor(joint)}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
