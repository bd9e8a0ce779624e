"""Properties of CTC alignments, and how to make an alignment a little better in one of them.

A property is one function: alignments in, alignments of the same length out. The simplest form looks at one path::

    @path_property("my-property")
    def my_property(path: list[int], reference: str | None, context: Context) -> list[int]:
        return better            # or `path` itself where nothing can be improved

`alignment_property` registers a function over whole batches. `coalign run awp --property file.py:function` (or
`module:function`) takes either from code of yours without registration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from coalign.core.errors import ConfigError
from coalign.core.names import suggest
from coalign.core.own_code import load_code
from coalign.speech.audio.error_rates import edit_pairs
from coalign.speech.ctc.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Context:
    """What a property may use.

    Attributes:
        vocabulary: tokens, blank and word delimiter.
        generator: source of its random choices.
        shift: frames that low latency removes at once (k).
        max_char_distance: substitutions that word errors may correct in one word.
    """

    vocabulary: Vocabulary
    generator: torch.Generator
    shift: int = 1
    max_char_distance: int = 2


class AlignmentProperty(Protocol):
    """Alignments [B, N, T] to alignments of the same shape that are better in the property, or unchanged.

    Only the first `lengths[b]` frames of an item are its own; what is behind them must stay. `references` holds the
    transcript of every item, where there is one. No gradient goes through it.
    """

    def __call__(
        self, paths: Tensor, lengths: Tensor, references: Sequence[str] | None, context: Context
    ) -> Tensor: ...


PathProperty = Callable[[list[int], str | None, Context], list[int]]
_REGISTRY: dict[str, AlignmentProperty] = {}


def alignment_property(name: str) -> Callable[[AlignmentProperty], AlignmentProperty]:
    """Register a property under `name`."""

    def register(function: AlignmentProperty) -> AlignmentProperty:
        _REGISTRY[name] = function
        return function

    return register


def path_property(name: str) -> Callable[[PathProperty], AlignmentProperty]:
    """Register a property that is written for one path: labels of its own frames in, as many out."""
    return lambda function: alignment_property(name)(for_each_path(function))


def for_each_path(function: PathProperty) -> AlignmentProperty:
    """A batch property from one for a single path.

    Raises (when called):
        ValueError: the function returned another number of labels.
    """

    def apply(paths: Tensor, lengths: Tensor, references: Sequence[str] | None, context: Context) -> Tensor:
        better = paths.cpu().clone()
        for item, length in enumerate(lengths.tolist()):
            reference = references[item] if references is not None else None
            for sample in range(paths.shape[1]):
                path = better[item, sample, :length].tolist()
                found = function(path, reference, context)
                if len(found) != length:
                    raise ValueError(f"the property returned {len(found)} labels for {length} frames")
                better[item, sample, :length] = torch.tensor(found, dtype=paths.dtype)
        return better.to(paths.device)

    return apply


def get_property(name: str) -> AlignmentProperty:
    """A registered property, or `file.py:function` or `module:function` of the user (written for one path, or registered by its module).

    Raises:
        ConfigError: there is none.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    if ":" not in name:
        advice = suggest(name, _REGISTRY, f"Known: {', '.join(_REGISTRY)}; or file.py:function.")
        raise ConfigError(f"property: there is no {name!r}. {advice}")
    found = load_code(name, "property")
    return found if found in _REGISTRY.values() else for_each_path(found)


# -- low latency --------------------------------------------------------------------------------------------------


@alignment_property("low-latency")
def low_latency(paths: Tensor, lengths: Tensor, references: Sequence[str] | None, context: Context) -> Tensor:
    """Everything after a frame one frame earlier, the text unchanged: f_LL of Align With Purpose, section 3.2.

    One of the frames that may go (`removable`) is drawn, all alike; it is removed, what follows moves up, a blank is
    put at the end. With `context.shift` k, so many distinct ones of the unshifted path go at once.
    """
    candidates = removable(paths, lengths, context.vocabulary.blank)
    keys = (
        torch.rand(paths.shape, generator=context.generator).to(paths.device).masked_fill(~candidates, -1.0)
    )
    count = min(context.shift, paths.shape[-1])
    chosen = keys.topk(count, dim=-1)
    removed = torch.zeros_like(candidates).scatter(-1, chosen.indices, chosen.values >= 0)
    return remove_frames(paths, removed, lengths, context.vocabulary.blank)


def removable(paths: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """[B, N, T] frames that repeat the one before (blanks too), and a first frame that is a blank: without any of
    them the alignment stands for the same text.
    """
    repeats = paths[..., 1:] == paths[..., :-1]
    first = paths[..., :1] == blank
    return torch.cat([first, repeats], dim=-1) & _own(paths, lengths)


def remove_frames(paths: Tensor, removed: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """[B, N, T] paths without the frames `removed` [B, N, T]; blanks fill the end of each item's own frames."""
    own = _own(paths, lengths)
    removed = removed & own
    # Kept frames first, removed ones at the end of the item's own, padding where it was.
    order = torch.where(own, removed.long(), 2).argsort(dim=-1, stable=True)
    shifted = paths.gather(-1, order)
    left = lengths[:, None, None] - removed.sum(dim=-1, keepdim=True)
    t = torch.arange(paths.shape[-1], device=paths.device)
    return torch.where((t >= left) & own, torch.full_like(shifted, blank), shifted)


def _own(paths: Tensor, lengths: Tensor) -> Tensor:
    t = torch.arange(paths.shape[-1], device=paths.device)
    return (t < lengths[:, None, None]).expand(paths.shape)


# -- word errors --------------------------------------------------------------------------------------------------


def minimum_wer_path(path: list[int], reference: str | None, context: Context) -> list[int]:
    """One wrong word of the path's text put right: f_WER of Align With Purpose, section 3.3.

    Words of the path are aligned with those of the reference by Levenshtein distance. A pair of different words of
    equal length with at most `max_char_distance` substitutions may be corrected; one is drawn, all alike, and all
    frames of its differing characters get the character of the reference. Missing and added words stay.
    """
    if reference is None:
        raise ValueError("the minimum word error rate needs references")
    vocabulary = context.vocabulary
    words = _words(path, vocabulary)
    wanted = reference.split()
    found = ["".join(char for char, _ in word) for word in words]
    pairs = [
        (words[mine], wanted[right])
        for right, mine in edit_pairs(wanted, found)
        if right is not None and mine is not None and _correctable(found[mine], wanted[right], context)
    ]
    if not pairs:
        return path
    word, right = pairs[int(torch.randint(len(pairs), (), generator=context.generator))]
    better = list(path)
    for (char, frames), target in zip(word, right, strict=True):
        if char != target:
            for frame in frames:
                better[frame] = vocabulary.encode(target)[0]
    return better


minimum_wer = path_property("minimum-wer")(minimum_wer_path)


def _correctable(word: str, right: str, context: Context) -> bool:
    if word == right or len(word) != len(right):
        return False
    distance = sum(a != b for a, b in zip(word, right, strict=True))
    return distance <= context.max_char_distance and all(context.vocabulary.encode(char) for char in right)


def _words(path: list[int], vocabulary: Vocabulary) -> list[list[tuple[str, list[int]]]]:
    """The words that a path stands for: their characters, each with the frames that emit it."""
    words: list[list[tuple[str, list[int]]]] = [[]]
    before = vocabulary.blank
    for frame, label in enumerate(path):
        if label != vocabulary.blank:
            token = vocabulary.tokens[label]
            if token == vocabulary.delimiter:
                words += [[]] if words[-1] else []
            elif label == before:
                words[-1][-1][1].append(frame)
            else:
                words[-1].append((token, [frame]))
        before = label
    return [word for word in words if word]
