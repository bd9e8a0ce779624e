"""Captions of scenes, and the tokenizer of their words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from coalign.checks.worlds.drawn.scene import COLOURS, SHAPES, SIZES, DrawnObject, Scene

FRAMES = ("{}", "a picture of {}", "a drawing of {}", "there is {}", "this shows {}")
PLACEHOLDER = "X"
"""A word without a meaning, for the slots of prompts."""
CONTEXT = 24
"""Tokens of a text, the first and the end token included."""
OTHER_WORDS = """
a an the at and of in is there this shows picture drawing shown
what where which colour shape size place object
top bottom left right yes no not moving still up down growing grows
one two three four
"""
"""Words of frames, places, questions, motions and counts."""


def vocabulary() -> list[str]:
    """The words of the world, those that not every check uses included."""
    plural = [f"{one}es" if one == "cross" else f"{one}s" for one in SHAPES]
    return [PLACEHOLDER, *OTHER_WORDS.split(), *SIZES, *COLOURS, *SHAPES, *plural]


def phrase(
    one: DrawnObject,
    rng: np.random.Generator | None = None,
    *,
    size: float = 0.5,
    place: float = 0.6,
) -> str:
    """The words "a [size] colour shape [at the place]"; the article is "a" before every word.

    Args:
        rng: of what is told; None tells everything that has a chance above 0.
        size, place: chance that it is told.
    """
    told = [chance > (0 if rng is None else rng.random()) for chance in (size, place)]
    words = f"a {one.size if told[0] else ''} {one.colour} {one.shape}"
    words += f" at the {one.place}" if told[1] else ""
    return " ".join(words.split())


def caption(
    objects: Scene,
    rng: np.random.Generator | None = None,
    *,
    frames: Sequence[str] = FRAMES,
    size: float = 0.5,
    place: float = 0.6,
) -> str:
    """A sentence about a scene: the phrases of its objects, joined by "and", in one of `frames`.

    Args:
        rng: of the frame and of what is told (`phrase`); None takes the first frame and tells everything.
    """
    told = " and ".join(phrase(one, rng, size=size, place=place) for one in objects)
    return frames[int(rng.integers(len(frames))) if rng is not None else 0].format(told)


def word_tokenizer(words: Sequence[str], context: int = CONTEXT) -> Any:
    """A Hugging Face tokenizer of whole words: `<bos> words <eos>`, filled up with `<pad>` to `context`.

    The end token is not the highest id, and its id is not 2: Transformers' CLIP takes a configuration with 2 for one that
    says nothing and looks for the highest id instead.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<unk>", "<bos>", "<eos>")
    ids = {word: place for place, word in enumerate(dict.fromkeys([*special, *words]))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single="<bos> $A <eos>", special_tokens=[(one, ids[one]) for one in ("<bos>", "<eos>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=context,
        padding_side="right",
    )
