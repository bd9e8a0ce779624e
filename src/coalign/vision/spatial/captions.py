"""Spatial captions: the question that asks for them, their forms, and what they say."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable

from coalign.measures.media.spatial import OPPOSITE, mirrored, relation_phrases
from coalign.vision.spatial.options import CaptionForm

QUESTION = (
    "Describe this picture in two short sentences. Say where its objects are relative to each other, with words such as "
    "left, right, above, below, in front of, behind, next to, far from, inside and outside, and how large they are "
    "compared with each other. Write the description alone."
)
"""Ours, after the parts that the paper describes: length, words for relations, relative sizes."""
RELATION_WORDS = {
    name: re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    for name, words in {
        "left": "left", "right": "right", "above": "above|over|on top of", "below": "below|under|beneath|underneath",
        "front": "front", "behind": "behind", "near": "near|next to|beside|adjacent|close to", "far": "far|distant",
        "inside": "inside|within", "outside": "outside", "larger": "larger|bigger|taller", "smaller": "smaller|shorter",
    }.items()
}  # fmt: skip
"""Words of which captions are asked to make use."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_NAMES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}


def sentences(text: str) -> list[str]:
    """The sentences of a caption that hold something."""
    return [one.strip() for one in _SENTENCE.split(text) if one.strip(" .!?\n")]


def negated(text: str) -> str:
    """A caption whose first relation is said by what it is not: "a cat left of a cup" becomes "a cat not right of a cup".
    Without a relation that has an opposite it stays as it is.
    """
    for relation, start, end in relation_phrases(text):
        if relation in OPPOSITE:
            return f"{text[:start]}not {_NAMES[OPPOSITE[relation]]}{text[end:]}"
    return text


def in_form(text: str, form: CaptionForm, draw: random.Random) -> str:
    """A spatial caption in another form; `short` draws one of its sentences alike."""
    if form == "negated":
        return negated(text)
    parts = sentences(text)
    return draw.choice(parts) if form == "short" and parts else text


def drawn_caption(
    general: str,
    spatial: str | None,
    draw: random.Random,
    *,
    share: float,
    form: CaptionForm = "long",
    flip: bool = False,
) -> tuple[str, bool, bool]:
    """A picture's caption for an epoch, whether it is the spatial one, and whether the picture is mirrored.

    Args:
        spatial: None for a picture that has none.
        share: probability of the spatial caption, where there are both.
        flip: mirror half of the pictures; left and right are then exchanged in the caption.
    """
    chosen = draw.random() < share
    chosen = spatial is not None and (chosen or not general)
    text = in_form(spatial, form, draw) if chosen and spatial is not None else general
    mirror = flip and draw.random() < 0.5
    return (mirrored(text) if mirror else text), chosen, mirror


def relation_shares(captions: Iterable[str]) -> dict[str, float]:
    """Relation word to the share of the captions that have it; under `any` those that have one at least."""
    counts: Counter[str] = Counter()
    total = 0
    for text in captions:
        found = [name for name, words in RELATION_WORDS.items() if words.search(text)]
        counts.update(found)
        counts["any"] += bool(found)
        total += 1
    return {name: counts[name] / total if total else 0.0 for name in (*RELATION_WORDS, "any")}


def cleaned(answer: str) -> str:
    """A model's answer as a caption: one line, without quotation marks around it."""
    return " ".join(answer.split()).strip("\"'“” ")
