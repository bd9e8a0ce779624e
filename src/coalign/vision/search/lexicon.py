"""Attributes of pictures as phrases, which of them a picture shows, and sentences made of these."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import ConfigError
from coalign.core.yaml_text import load_yaml, parse_yaml

if TYPE_CHECKING:
    from torch import Tensor

_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
_BLANK = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Category:
    """One attribute.

    Attributes:
        prompt: sentence with {} for a phrase, as the labeller compares it with a picture.
        required: one phrase always holds; otherwise one only where the labeller is sure.
        negative: place of the phrase that says the attribute is absent; it stands in no sentence.
    """

    name: str
    phrases: tuple[str, ...]
    prompt: str = "{}"
    required: bool = False
    negative: int | None = None

    def prompts(self) -> list[str]:
        return [self.prompt.format(one) for one in self.phrases]


@dataclass(frozen=True)
class Lexicon:
    """Attributes and the sentences that their phrases are put into."""

    categories: tuple[Category, ...]
    templates: tuple[str, ...]

    def phrases(self, chosen: Mapping[str, int | None]) -> dict[str, str]:
        """Category to the phrase that is said of a picture; absent and unsure ones are left out."""
        return {
            one.name: one.phrases[place]
            for one in self.categories
            if (place := chosen.get(one.name)) is not None and place != one.negative
        }

    def sentence(self, chosen: Mapping[str, int | None], draw: random.Random) -> str:
        """A template by lot, filled. Parts in brackets whose phrase is missing are left out."""
        return fill(self.templates[draw.randrange(len(self.templates))], self.phrases(chosen))


def fill(template: str, phrases: Mapping[str, str]) -> str:
    """A sentence of a template: `{category}` becomes its phrase, `[...]` without one of its phrases nothing.

    Sentences begin with a large letter, and "a" becomes "an" before a vowel.

    Raises:
        KeyError: a blank outside of brackets has no phrase.
    """

    def part(found: re.Match[str]) -> str:
        return found[1] if all(one in phrases for one in _BLANK.findall(found[1])) else ""

    text = _BLANK.sub(lambda found: phrases[found[1]], _OPTIONAL.sub(part, template))
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\b([Aa]) (?=[aeioAEIO])", r"\1n ", text)
    return re.sub(r"(^|[.!?] )([a-z])", lambda found: found[1] + found[2].upper(), text)


def choose(
    images: Tensor, phrases: Tensor, *, required: bool, scale: float = 100.0, threshold: float = 0.9
) -> tuple[Tensor, Tensor]:
    """The phrase of one category that each picture shows (paper, section 3.1).

    Args:
        images: [N, D] of any length.
        phrases: [P, D] of any length.
        required: the nearest always holds; otherwise only where its share of softmax(scale * cosine) over the phrases of
            the category is above `threshold`.

    Returns:
        [N] places, -1 where none holds, of equal ones the first; and [N] that share.
    """
    logits = (
        scale
        * torch.nn.functional.normalize(images, dim=-1)
        @ torch.nn.functional.normalize(phrases, dim=-1).T
    )
    places = logits.argmax(1)
    sure = logits.softmax(1).gather(1, places[:, None])[:, 0]
    return (places if required else torch.where(sure > threshold, places, -1)), sure


def read_lexicon(path: Path | None) -> Lexicon:
    """A lexicon from a YAML file, or the built-in one of persons.

    Raises:
        ConfigError: it is not of the form {categories: {name: {phrases, prompt, required, negative}}, templates: [...]}.
    """
    if path is None:
        said = parse_yaml(
            (resources.files("coalign.vision.search") / "assets/persons.yaml").read_text("utf-8")
        )
        return lexicon_of(said, "persons.yaml")
    return lexicon_of(load_yaml(path), str(path))


def lexicon_of(said: Any, name: str) -> Lexicon:
    """A lexicon of plain values; `name` is its file's, for messages."""
    if not isinstance(said, dict) or set(said) != {"categories", "templates"}:
        raise ConfigError(f"{name}: expected categories and templates")
    if not isinstance(said["categories"], dict) or not said["categories"]:
        raise ConfigError(f"{name}: categories: expected {{name: {{phrases: [...]}}}}")
    categories = tuple(_category(key, value, name) for key, value in said["categories"].items())
    templates = said["templates"]
    if not _texts(templates, 1):
        raise ConfigError(f"{name}: templates: expected a list of one or more sentences")
    required = {one.name for one in categories if one.required}
    for template in templates:
        unknown = set(_BLANK.findall(template)) - {one.name for one in categories}
        if unknown:
            raise ConfigError(f"{name}: templates: {sorted(unknown)[0]!r} is no category: {template!r}")
        loose = set(_BLANK.findall(_OPTIONAL.sub("", template))) - required
        if loose:
            raise ConfigError(
                f"{name}: templates: {sorted(loose)[0]!r} is not required, put its part in [brackets]: {template!r}"
            )
    return Lexicon(categories, tuple(templates))


def _category(key: Any, value: Any, name: str) -> Category:
    where = f"{name}: categories: {key}"
    if not isinstance(value, dict) or set(value) - {"phrases", "prompt", "required", "negative"}:
        raise ConfigError(f"{where}: expected phrases, prompt, required, negative")
    phrases: Any = value.get("phrases")
    prompt, negative = value.get("prompt", "{}"), value.get("negative")
    if not _texts(phrases, 2):
        raise ConfigError(f"{where}: phrases: expected a list of two or more texts")
    if not isinstance(prompt, str) or prompt.count("{}") != 1:
        raise ConfigError(f"{where}: prompt: {prompt!r}, expected a text with one {{}}")
    required = value.get("required", False)
    if not isinstance(required, bool):
        raise ConfigError(f"{where}: required: {required!r}, expected true or false")
    if negative is not None and (type(negative) is not int or not 0 <= negative < len(phrases)):
        raise ConfigError(
            f"{where}: negative: {negative!r}, expected the place of a phrase, 0 to {len(phrases) - 1}"
        )
    if not required and negative is None:
        raise ConfigError(
            f"{where}: an attribute that may be absent needs a phrase that says so: give negative"
        )
    return Category(str(key), tuple(phrases), prompt, required, negative)


def _texts(value: Any, least: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= least
        and all(isinstance(one, str) and one.strip() for one in value)
    )


def label(
    images: Tensor,
    phrases: Sequence[Tensor],
    lexicon: Lexicon,
    *,
    scale: float = 100.0,
    threshold: float = 0.9,
) -> list[dict[str, tuple[int | None, float]]]:
    """Of each picture category to the place of its phrase, None where none holds, and how sure that is.

    Args:
        images: [N, D].
        phrases: of each category of the lexicon [P, D].
    """
    rows: list[dict[str, tuple[int | None, float]]] = [{} for _ in images]
    for category, features in zip(lexicon.categories, phrases, strict=True):
        places, sure = choose(images, features, required=category.required, scale=scale, threshold=threshold)
        for row, place, share in zip(rows, places.tolist(), sure.tolist(), strict=True):
            row[category.name] = (None if place < 0 else place, share)
    return rows
