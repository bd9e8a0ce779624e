"""How probable a model finds a response, as a reward: the reward that a policy is by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import ConfigError

if TYPE_CHECKING:
    from coalign.data.records import Messages
    from coalign.judging.rewards.mix import Draft
    from coalign.models.implicit_reward import SequenceLogps

Reduction = Literal["sum", "mean"]
REDUCTIONS: tuple[Reduction, ...] = ("sum", "mean")


@dataclass(frozen=True)
class LikelihoodReward:
    """log pi(y|x) in nats, over the tokens of the response and the token that ends its turn, as training counts them; with a
    reference log pi(y|x) - log pi_ref(y|x), the DPO reward at beta 1 (arXiv 2305.18290, equation 5).

    A response that does not fit behind its prompt is NaN.

    Attributes:
        policy, reference: pairs (model, tokenizer); no reference: the likelihood itself.
        reduction: over tokens; `mean` leaves out that longer responses are less probable.
    """

    policy: Any
    name: str
    reference: Any = None
    reduction: Reduction = "sum"

    def fits(self, prompt: Messages, response: str) -> bool:
        """Whether prompt and response are within what the models read."""
        from coalign.data.encoding import encode_prompt, encode_response

        return all(
            len(encode_prompt(tokenizer, prompt)) + len(encode_response(tokenizer, prompt, response))
            <= self.max_length
            for _, tokenizer in (self.policy, *([self.reference] if self.reference else []))
        )

    @property
    def max_length(self) -> int:
        """Most tokens of a prompt and its response."""
        from coalign.models.reward_model import longest_text

        return min(longest_text(*one) for one in (self.policy, self.reference) if one is not None)

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        groups: dict[int, list[int]] = {}
        for place, one in enumerate(drafts):
            groups.setdefault(one.index, []).append(place)
        values = self._values(self.policy, drafts, groups)
        if self.reference is not None:
            fixed = self._values(self.reference, drafts, groups)
            values = [value - other for value, other in zip(values, fixed, strict=True)]
        return values

    def _values(
        self, loaded: Any, drafts: Sequence[Draft], groups: Mapping[int, Sequence[int]]
    ) -> list[float]:
        from coalign.models.implicit_reward import sequence_logps

        model, tokenizer = loaded
        found = sequence_logps(
            model,
            tokenizer,
            [drafts[places[0]].messages for places in groups.values()],
            [[drafts[place].text for place in places] for places in groups.values()],
            max_length=self.max_length,
        )
        values = [math.nan] * len(drafts)
        for places, row in zip(groups.values(), reduced(found, self.reduction), strict=True):
            for place, value in zip(places, row, strict=True):
                values[place] = value
        return values


def reduced(logps: SequenceLogps, reduction: Reduction) -> list[list[float]]:
    """`[prompts][responses]` sums or means over tokens; the mean of no token is 0."""
    return logps.means() if reduction == "mean" else logps.sums


def load_likelihood(name: str, arguments: Mapping[str, str]) -> LikelihoodReward:
    """The reward of a model, and of its reference where one is named.

    Args:
        arguments: `path`, and where they are there `reference`, `reduction`, `device` and `dtype`.

    Raises:
        ConfigError: another reduction than those in `REDUCTIONS`.
        ModelError: a model that cannot be loaded.
    """
    from coalign.models.files.loading import load_model, load_tokenizer
    from coalign.models.options import ModelOptions

    reduction: Reduction | None = next(
        (one for one in REDUCTIONS if one == arguments.get("reduction", "sum")), None
    )
    if reduction is None:
        raise ConfigError(
            f"reward: {name}: reduction is {arguments['reduction']!r}, expected {' or '.join(REDUCTIONS)}"
        )

    def load(model: str) -> Any:
        options: Any = {key: arguments[key] for key in ("device", "dtype") if key in arguments}
        place = ModelOptions(model=model, **options)
        return load_model(place, training=False), load_tokenizer(place)

    reference = load(arguments["reference"]) if "reference" in arguments else None
    return LikelihoodReward(load(arguments["path"]), name, reference, reduction)
