"""A mixture of reward models: a router picks the category of a prompt, and the experts of its capabilities are combined."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from coalign.core.errors import ModelError
from coalign.core.progress import progress
from coalign.data.encoding import encode_prompt
from coalign.models.adapters import active_adapter
from coalign.models.files.classifiers import load_classifier
from coalign.models.files.loading import load_tokenizer
from coalign.models.files.places import locate
from coalign.models.reward_inputs import RewardInputs, RewardText, read_settings
from coalign.models.types import Prompts

if TYPE_CHECKING:
    from peft import PeftModel

    from coalign.data.records import Messages

MANIFEST = "mixture.json"
"""File in the mixture's folder, which itself is the router: categories, points and scales in the order of the experts."""
BASE, POINTS, AGGREGATOR = "base", "points", "aggregator.safetensors"
BATCH_TOKENS = 4096


class Aggregator(nn.Module):
    """`W2 PReLU(W1 [z_1; ...; z_P] + b1) + b2` over the experts' states in their fixed order; one slope, at first 0.25.

    Args:
        experts: P.
        width: D of a state.
    """

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(experts * width, width)
        self.slope = nn.PReLU()
        self.output = nn.Linear(width, 1)

    def forward(self, states: Tensor) -> Tensor:
        """[B] rewards of states [B, P D]."""
        return self.output(self.slope(self.hidden(states)))[:, 0]


def expert_states(
    model: PeftModel, names: Sequence[str], inputs: RewardInputs, groups: Sequence[Sequence[RewardText]]
) -> Tensor:
    """[B, P D] states of the texts of all groups under every adapter in turn, one after the other in a row."""
    found = []
    with torch.no_grad():
        for name in names:
            with active_adapter(model, name):
                found.append(inputs.states(model, groups, batch_tokens=BATCH_TOKENS).states.cpu())
    return torch.cat(found, dim=1)


def query_text(inputs: RewardInputs, prompt: Messages | str) -> RewardText:
    """A prompt alone, as the router reads it: never the response, whose style could otherwise choose its judge."""
    messages: Any = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    ids = encode_prompt(inputs.tokenizer, messages)[-inputs.max_length :]
    return RewardText(tuple(ids), (0,) * len(ids))


@dataclass(frozen=True)
class Category:
    """The experts of one category.

    Attributes:
        points: names of the capabilities, in the order of the experts.
        mean, deviation: of its rewards on held-out responses, by which rewards of different categories are put on one scale.
    """

    name: str
    points: tuple[str, ...]
    folder: Path
    device: torch.device
    mean: float = 0.0
    deviation: float = 1.0

    @cached_property
    def parts(self) -> tuple[Any, RewardInputs, Aggregator]:
        """The base with its adapters, how it reads texts, and what combines the experts; loaded when first asked for."""
        from safetensors.torch import load_file

        model, inputs = load_experts(self.folder, len(self.points), self.device)
        weights = load_file(self.folder / AGGREGATOR)
        aggregator = Aggregator(len(self.points), weights["output.weight"].shape[1])
        aggregator.load_state_dict(weights)
        return model, inputs, aggregator.eval()

    def rewards(self, groups: Sequence[Sequence[RewardText]]) -> list[float]:
        """Rewards of the texts of all groups, not scaled."""
        model, inputs, aggregator = self.parts
        with torch.inference_mode():
            states = expert_states(model, adapter_names(len(self.points)), inputs, groups)
            return aggregator(states).tolist()


def adapter_names(points: int) -> list[str]:
    """What the adapters of so many points are called."""
    return [f"point{place}" for place in range(points)]


def load_experts(folder: Path, points: int, device: torch.device) -> tuple[Any, RewardInputs]:
    """The base of a category with an adapter and a head for each point, in evaluation mode."""
    from peft import PeftModel

    from coalign.models.adapters import quiet_peft

    base = load_classifier(locate(str(folder / BASE)), what="base of the experts", dtype=torch.float32)
    names = adapter_names(points)
    with quiet_peft():
        model = PeftModel.from_pretrained(base, str(folder / POINTS / "0"), adapter_name=names[0])
        for place, name in enumerate(names[1:], 1):
            model.load_adapter(str(folder / POINTS / str(place)), adapter_name=name)
    return model.to(device).eval(), stored_inputs(folder / BASE)


def stored_inputs(folder: Path) -> RewardInputs:
    """How the reward model in a folder reads texts."""
    settings = read_settings(locate(str(folder)))
    return RewardInputs(load_tokenizer(str(folder)), settings["format"], settings["max_length"])


@dataclass(frozen=True)
class RewardMixture:
    """A router and the experts of its categories. Make one with `load_reward_mixture`.

    Attributes:
        scaled: put the rewards of each category on one scale, so that they can be compared between categories.
    """

    router: nn.Module
    inputs: RewardInputs
    categories: Sequence[Category]
    scaled: bool = True
    model: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", self.router)

    def route(self, prompts: Prompts) -> list[tuple[int, float]]:
        """For each prompt its category and the router's probability of it."""
        texts = [query_text(self.inputs, one) for one in prompts]
        if not texts:
            return []
        with torch.inference_mode():
            groups = [[one] for one in texts]
            logits = self.inputs.states(self.router, groups, batch_tokens=BATCH_TOKENS).outputs
        best = logits.softmax(-1).max(-1)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def score(
        self, prompts: Prompts, responses: Sequence[str], *, batch_size: int = 0, show: str | None = None
    ) -> list[float]:
        """Rewards of responses to prompts, one each, each by the experts of its prompt's category.

        Raises:
            ModelError: a reward that is not a number.
        """
        found = [math.nan] * len(responses)
        routes = self.route(prompts)
        with progress(len(responses), show or "Scoring", unit="text") as bar:
            for number, category in enumerate(self.categories):
                places = [place for place, (chosen, _) in enumerate(routes) if chosen == number]
                by_prompt: dict[str, list[int]] = {}
                for place in places:
                    by_prompt.setdefault(json.dumps(prompts[place], sort_keys=True), []).append(place)
                if not places:
                    continue
                inputs = category.parts[1]
                groups = [
                    [inputs.text(prompts[place], responses[place]) for place in group]
                    for group in by_prompt.values()
                ]
                order = [place for group in by_prompt.values() for place in group]
                for place, reward in zip(order, category.rewards(groups), strict=True):
                    found[place] = (reward - category.mean) / category.deviation if self.scaled else reward
                bar.advance(len(places))
        if not all(map(math.isfinite, found)):
            raise ModelError(
                "The mixture of reward models gave rewards that are not numbers (NaN or infinite)."
            )
        return found


def load_reward_mixture(folder: Path, device: torch.device) -> RewardMixture:
    """The mixture in a folder: the router there, the experts of each category when they are first needed."""
    place = locate(str(folder))
    router = load_classifier(place, what="router", dtype=torch.float32).to(device).eval()
    kept = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    categories = [
        Category(
            one["name"],
            tuple(one["points"]),
            folder / "experts" / str(number),
            device,
            one["mean"],
            one["deviation"],
        )
        for number, one in enumerate(kept["categories"])
    ]
    return RewardMixture(router, stored_inputs(folder), categories)
