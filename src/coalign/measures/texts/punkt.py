"""The Punkt sentence models of NLTK, as an extra."""

from __future__ import annotations

import functools
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.extras import require
from coalign.core.names import suggest


@functools.cache
def punkt_tokenizer(language: str = "english") -> Any:
    """The Punkt model of a language, with `tokenize` and `span_tokenize`.

    Raises:
        MissingExtraError: the extra `sentences` is not installed.
        ConfigError: there is no model of the language.
    """
    punkt = require("punkt", "sentences")
    known = punkt.available_languages()
    if language not in known:
        advice = suggest(language, known, f"Known: {', '.join(known)}.")
        raise ConfigError(f"language: there is no sentence model for {language!r}. {advice}")
    return punkt.tokenizer_for(language)
