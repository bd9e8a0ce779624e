"""The option of commands that answer one conversation after another, and what they do with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ConfigError
from coalign.core.options import NonNegative, OptionGroup, option

if TYPE_CHECKING:
    from coalign.models.generation.prefix_cache.store import PrefixCache


@dataclass(kw_only=True)
class PromptCacheOptions(OptionGroup):
    """How much of earlier prompts is kept."""

    __group__ = "Back end"

    prompt_cache: NonNegative = option(
        1.0,
        "GiB of keys and values of earlier prompts and answers that are kept, from the longest common beginning of which a "
        "prompt goes on; 0 keeps none",
    )


def keep_prompts(
    options: PromptCacheOptions, generators: Iterable[Any]
) -> tuple[list[PrefixCache], list[str]]:
    """Let local models keep the states of prompts, with or without decoding methods around them; generators of one model
    share a cache.

    Returns:
        The caches, one a model, and what to say of models that cannot.

    Raises:
        ConfigError: a size is asked for, and no model can.
    """
    from coalign.models.generation.generator import TransformersGenerator
    from coalign.models.generation.prefix_cache.store import PrefixCache

    caches: dict[int, PrefixCache] = {}
    lines: dict[str, None] = {}
    for outer in generators if options.prompt_cache else ():
        one = outer
        while not isinstance(one, TransformersGenerator) and hasattr(one, "inner"):
            one = one.inner
        if not isinstance(one, TransformersGenerator):
            lines["what answers is no one local model"] = None
            continue
        cache = caches.get(id(one.model)) or PrefixCache(round(options.prompt_cache * 2**30))
        why = one.keep_prefixes(cache)
        if why is None:
            caches[id(one.model)] = cache
        else:
            lines[why] = None
    if options.changed(["prompt_cache"]) and lines and not caches:
        raise ConfigError(f"--prompt-cache has no effect here: {next(iter(lines))}.", hint="Leave it out.")
    return list(caches.values()), [f"No prompt cache: {why}." for why in lines]
