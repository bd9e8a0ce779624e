"""Training of an image classifier on pictures of several domains and on views of them in mixed styles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from coalign.core.files import atomic_path, write_json
from coalign.training.objective import Losses
from coalign.training.task import Batch, Task
from coalign.vision.domains.classifier import BlockClassifier, ElementwiseLayers
from coalign.vision.domains.draws import draw_views
from coalign.vision.domains.styles import alignment_penalty, consistency_losses, elementwise

if TYPE_CHECKING:
    from transformers import TrainerState

    from coalign.vision.domains.options import ConsistencyOptions

LAYERS = "consistency.pt"
BEST = "best.pt"
CLASSIFYING, ALIGNING = 0, 1
"""Random streams of a step: of the classifier's update, and of the layers'."""


class Consistency:
    """The losses of pictures and their views, and the layers of a learned consistency with their own optimizer.

    Args:
        width: of the features.
        learning_rate: of the classifier.
    """

    def __init__(
        self, options: ConsistencyOptions, width: int, *, learning_rate: float, seed: int, device: Any = "cpu"
    ) -> None:
        self.options = options
        self.seed = seed
        count = options.consistency_layers if options.kind == "learned" else 0
        self.layers = ElementwiseLayers(count, (width,)).to(device)
        self.learns = count > 0 and options.alignment_weight > 0
        self.optimizer = torch.optim.Adam(
            self.layers.parameters(), lr=options.layer_rate or learning_rate / 10
        )

    def losses(
        self, model: nn.Module, pixels: Tensor, labels: Tensor, *stream: int
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Classification losses [B], consistency losses [B], and metrics [B].

        The classification loss is the cross-entropy of the picture plus that of its view (paper, section 3.3); without
        views it is that of the picture, and the consistency is 0.

        Args:
            model: a `BlockClassifier`, as a trainer wraps it.
            pixels: [B, 3, H, W].
            labels: [B] classes.
            stream: numbers of the random stream of the views.
        """
        draw = None
        if self.options.views:
            concentration = self.options.concentration
            draw = draw_views(len(pixels), self.seed, *stream, concentration=concentration)
        features, logits = model(pixels, draw)
        cross_entropy = nn.functional.cross_entropy
        size = len(labels)
        classifying = cross_entropy(logits[:size], labels, reduction="none")
        metrics = {"accuracy": (logits[:size].argmax(-1) == labels).float()}
        consistency = torch.zeros_like(classifying)
        if draw is not None:
            classifying = classifying + cross_entropy(logits[size:], labels, reduction="none")
            metrics["accuracy of views"] = (logits[size:].argmax(-1) == labels).float()
        if self.options.kind != "none":
            weights, biases = self.layers.weights, self.layers.biases
            consistency = consistency_losses(features[:size], features[size:], weights, biases)
            metrics["consistency"] = consistency.detach()
            if len(weights):
                metrics["active"] = self.active(features[:size], features[size:])
        return classifying, consistency, metrics

    def active(self, features: Tensor, mixed: Tensor) -> Tensor:
        """[B] share of the entries that the last ReLU of the layers lets through: at 0 the consistency is dead."""
        with torch.no_grad():
            last = elementwise(mixed - features, self.layers.weights[:-1], self.layers.biases[:-1])
            return (last > 0).float().mean(-1)

    def align(self, model: BlockClassifier, pixels: Tensor, labels: Tensor, *stream: int) -> Tensor:
        """One step of the layers: the gradient of their consistency by the extractor's parameters is turned towards that of
        the classification loss (`alignment_penalty`), on new views. The classifier stays as it is.

        Returns:
            The penalty before the step.
        """
        parameters = list(model.extractor().values())
        classifying, consistency, _ = self.losses(model, pixels, labels, *stream)
        main = torch.autograd.grad(classifying.mean(), parameters, retain_graph=True, allow_unused=True)
        own = torch.autograd.grad(consistency.mean(), parameters, create_graph=True, allow_unused=True)
        both = [pair for pair in zip(own, main, strict=True) if pair[0] is not None and pair[1] is not None]
        penalty = alignment_penalty(
            [one for one, _ in both], [one for _, one in both], weight=self.options.alignment_weight
        )
        wanted = list(self.layers.parameters())
        slopes = torch.autograd.grad(penalty, wanted, allow_unused=True, materialize_grads=True)
        for one, slope in zip(wanted, slopes, strict=True):
            one.grad = slope
        self.optimizer.step()
        self.optimizer.zero_grad()
        return penalty.detach()

    def state(self) -> dict[str, Any]:
        return {"layers": self.layers.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self.layers.load_state_dict(state["layers"])
        self.optimizer.load_state_dict(state["optimizer"])


class DomainTask(Task):
    """Classes of pictures of several domains; between two steps the layers of the consistency learn from the step's batch.

    Args:
        collate: pictures to a batch with `ids`, `pixels` and `labels`.
        domains: [n] the domain of each training picture.
    """

    name = "classes of several domains"
    examples = "the pictures"
    advice = "look at these pictures"

    def __init__(
        self, consistency: Consistency, collate: Callable[[Sequence[Any]], Batch], domains: Sequence[int]
    ) -> None:
        self.consistency = consistency
        self.collate = collate  # type: ignore[method-assign]
        self.domains = domains
        self._batch: tuple[Tensor, Tensor] | None = None
        self._penalty = float("nan")

    def sampler(self, size: int, seed: int) -> BalancedShuffle:
        return BalancedShuffle(self.domains, seed)

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        """[B] classification and consistency losses; without gradient also the accuracy on the pictures alone."""
        pixels, labels = batch["pixels"], batch["labels"]
        if not model.training:
            _, logits = model(pixels)
            losses = nn.functional.cross_entropy(logits, labels, reduction="none")
            return Losses(losses, {"accuracy": (logits.argmax(-1) == labels).float()})
        self._batch = (pixels, labels)
        classifying, consistency, metrics = self.consistency.losses(
            model, pixels, labels, state.global_step, CLASSIFYING
        )
        if self.consistency.learns:
            metrics["alignment penalty"] = torch.full((len(labels),), self._penalty)
        return Losses(classifying + consistency, metrics)

    def after_step(self, model: nn.Module, state: TrainerState) -> None:
        if self.consistency.learns and self._batch is not None:
            assert isinstance(model, BlockClassifier)
            self._penalty = float(self.consistency.align(model, *self._batch, state.global_step, ALIGNING))
        self._batch = None

    def save(self, folder: Path) -> None:
        torch.save({**self.consistency.state(), "penalty": self._penalty}, folder / LAYERS)

    def load(self, folder: Path) -> None:
        state = torch.load(folder / LAYERS, weights_only=True)
        self._penalty = state["penalty"]
        self.consistency.load(state)


class BalancedShuffle(Sampler[int]):
    """As many pictures of every domain in any stretch of steps: the domains take turns, each goes through a permutation of its
    own, and one that ends before the others begins again.

    Item `pass * size + index` is picture `index` in that pass over its domain, so that what is drawn for it differs from
    pass to pass.
    """

    def __init__(self, domains: Sequence[int], seed: int) -> None:
        self.members = [
            [index for index, domain in enumerate(domains) if domain == one] for one in sorted(set(domains))
        ]
        self.size = len(domains)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def rounds(self) -> int:
        return max(map(len, self.members))

    def __len__(self) -> int:
        return self.rounds * len(self.members)

    def __iter__(self) -> Iterator[int]:
        orders: list[list[int]] = [[] for _ in self.members]
        for turn in range(self.rounds):
            for domain, members in enumerate(self.members):
                if not orders[domain]:
                    seeds = (self.seed, self.epoch, domain, turn)
                    generator = torch.Generator().manual_seed(hash(seeds) % 2**63)
                    orders[domain] = torch.randperm(len(members), generator=generator).tolist()
                index = members[orders[domain].pop()]
                yield (self.epoch * self.rounds + turn) * self.size + index


def keep_best(folder: Path, model: BlockClassifier, consistency: Consistency) -> Any:
    """A callback that keeps the weights of the evaluation with the highest held-out accuracy, the earliest of equal ones, in
    `folder`: training-domain validation. `take_best` loads them.
    """
    from transformers import TrainerCallback

    class KeepBest(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
            found = {"step": state.global_step, "accuracy": metrics["eval_accuracy"]}
            kept = read_best(folder)
            if kept is not None and (kept["accuracy"], -kept["step"]) >= (found["accuracy"], -found["step"]):
                return
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(folder / BEST) as path:
                torch.save({"model": model.state_dict(), "layers": consistency.layers.state_dict()}, path)
            write_json(folder / "best.json", found)

    return KeepBest()


def read_best(folder: Path) -> dict[str, Any] | None:
    """`step` and `accuracy` of what `keep_best` kept; None where there was no evaluation."""
    path = folder / "best.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def take_best(folder: Path, model: BlockClassifier, consistency: Consistency) -> dict[str, Any] | None:
    """Load what `keep_best` kept into model and layers, and say what it is."""
    kept = read_best(folder)
    if kept is not None:
        state = torch.load(folder / BEST, weights_only=True, map_location=model.device)
        model.load_state_dict(state["model"])
        consistency.layers.load_state_dict(state["layers"])
    return kept
