"""Which language a text is in, as an extra."""

from __future__ import annotations

import functools
from typing import Any

from coalign.core.extras import require


def detect_language(text: str) -> str | None:
    """The code of the text's language (ISO 639-1, `zh-cn` and `zh-tw` for Chinese), None where no letter tells.

    langdetect's answer from a fixed seed: it draws n-grams at random, and on few words it is a guess. A text without a
    lower-case letter is read in lower case, because words in capitals alone count as abbreviations there.

    Raises:
        MissingExtraError: the extra `languages` is not installed.
    """
    langdetect = require("langdetect", "languages")
    factory = _factory()
    detector = factory.create()
    detector.append(text.lower() if text.isupper() else text)
    try:
        return detector.detect()
    except langdetect.LangDetectException:
        return None


def known_languages() -> list[str]:
    """The codes that `detect_language` can give.

    Raises:
        MissingExtraError: the extra `languages` is not installed.
    """
    return sorted(_factory().langlist)


@functools.cache
def _factory() -> Any:
    package = require("langdetect", "languages")
    found = require("langdetect.detector_factory", "languages")
    factory = package.DetectorFactory()
    factory.load_profile(found.PROFILES_DIRECTORY)
    factory.seed = 0
    return factory
