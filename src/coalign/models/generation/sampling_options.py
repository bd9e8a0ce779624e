"""Options of everything that generates text with a language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, option

if TYPE_CHECKING:
    from coalign.models.types import Sampling


@dataclass(kw_only=True)
class SamplingOptions:
    """How to decode. The number of samples and the seed belong to the system."""

    __group__ = "Sampling"

    max_new_tokens: Count = option(128, "most tokens of one response")
    temperature: NonNegative = option(1.0, "divides the logits; 0 takes the most probable token")
    top_p: Fraction = option(1.0, "sample from the most probable tokens that together reach this probability")
    top_k: CountOrZero = option(0, "sample from this many most probable tokens; 0 means all")
    stop: list[str] = option([], "texts that end a response; they are not part of it")

    def sampling(self, *, n: int = 1, seed: int = 0, **changes: Any) -> Sampling:
        """These options as the back ends take them; `changes` override fields (`temperature=0.0` for an evaluation)."""
        from coalign.models.types import Sampling

        values: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "stop": tuple(self.stop),
        }
        return Sampling(**{**values, "n": n, "seed": seed, **changes})
