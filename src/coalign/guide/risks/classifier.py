"""What says how toxic a text is: any text classifier of the hub, or a function."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.own_code import load_code, names_code
from coalign.guide.risks.suite import Score

_TOXIC = re.compile(r"(toxic|toxicity|hate|offensive|nsfw)", re.IGNORECASE)


def open_classifier(name: str, label: str | None) -> Score:
    """Texts to numbers from 0 to 1.

    Args:
        name: a hub id or folder of a model for text classification, or `file.py:function`, which takes a list of texts.
        label: the classifier's label that means toxic; by default the only one that is named so.

    Raises:
        ConfigError: no such function or label, or (when it is used) a number that is none from 0 to 1.
    """
    if names_code(name):
        if label is not None:
            raise ConfigError("toxicity_label has no effect with a function.")
        function = load_code(name, "a function")

        def score(texts: Sequence[str]) -> Sequence[float]:
            return _checked(name, list(function(list(texts))), len(texts))

        return score
    return _Classifier(name, label)


class _Classifier:
    """Loaded when it is first asked."""

    def __init__(self, name: str, label: str | None) -> None:
        self._name, self._label = name, label
        self._pipeline: Any = None

    def __call__(self, texts: Sequence[str]) -> Sequence[float]:
        from transformers import pipeline

        if self._pipeline is None:
            self._pipeline = pipeline("text-classification", model=self._name, top_k=None)
            self._label = self._chosen([*self._pipeline.model.config.id2label.values()])
        found = self._pipeline([one or " " for one in texts], truncation=True)
        return _checked(
            self._name,
            [next(one["score"] for one in row if one["label"] == self._label) for row in found],
            len(texts),
        )

    def _chosen(self, labels: Sequence[str]) -> str:
        named = [self._label] if self._label is not None else [one for one in labels if _TOXIC.fullmatch(one)]
        if len(named) != 1 or named[0] not in labels:
            raise ConfigError(
                f"{self._name}: its labels are {', '.join(labels)}.",
                hint="Say which means toxic: --toxicity-label.",
            )
        return named[0]


def _checked(name: str, values: Sequence[float], count: int) -> Sequence[float]:
    if len(values) != count or not all(
        isinstance(one, int | float) and math.isfinite(one) and 0 <= one <= 1 for one in values
    ):
        raise ConfigError(
            f"{name}: gave {list(values)[:3]} for {count} texts, expected a number from 0 to 1 each."
        )
    return values
