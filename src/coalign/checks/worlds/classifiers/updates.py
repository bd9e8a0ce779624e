"""A world of model updates: classifiers on two bases, each with an adapter for the same task; users know the old one.

An item is one decision among four classes, so it stands for one token of a language model: the losses are the same.
Labels of the task come from a random net, some of the training labels are replaced at random. The new base is larger
and saw more of another labelling, so the new version is better on average and wrong on other items than the old one.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from coalign.checks.arms import Measures
from coalign.checks.tiny_models import seeded, stream

INPUTS, CLASSES, WIDTH = 20, 4, 64
TRAIN, TEST, NOISE = 1500, 4000, 0.15
BATCH, EPOCHS = 64, 20

UpdateLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(student, old, new logits [N, 4], labels [N]) to losses [N]."""


@dataclass(frozen=True)
class Update:
    """What the arms of a seed share.

    Attributes:
        old, new: both versions, a base with its adapter.
        inputs, labels: [1500, 20] and [1500] of the task, labels with noise.
        test_inputs, test_labels: [4000, 20] and [4000], without noise.
    """

    seed: int
    old: nn.Module
    new: nn.Module
    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


def prepare_update(seed: int) -> Update:
    """Both versions of a seed, trained from scratch."""
    other, task = (_labeller(seed, purpose) for purpose in ("base labels", "task labels"))
    inputs = _inputs(seed, "task", TRAIN)
    labels = task(inputs)
    noise = stream(seed, "label noise")
    replaced = torch.rand(TRAIN, generator=noise) < NOISE
    labels = torch.where(replaced, torch.randint(CLASSES, (TRAIN,), generator=noise), labels)
    versions = []
    for name, layers, samples in (("old", 2, 3000), ("new", 3, 6000)):
        base = seeded(lambda layers=layers: _classifier(layers), seed * 2 + (name == "new"))
        base_inputs = _inputs(seed, f"{name} base", samples)
        _fit(base, base_inputs, other(base_inputs), _likelihood, 8, 1e-3, stream(seed, f"{name} base order"))
        adapted = seeded(lambda base=base: _with_adapter(base), seed * 2 + (name == "new"))
        _fit(adapted, inputs, labels, _likelihood, EPOCHS, 2e-3, stream(seed, f"{name} task order"))
        versions.append(adapted.eval())
    test = _inputs(seed, "test", TEST)
    return Update(seed, versions[0], versions[1], inputs, labels, test, task(test))


def update_arms(
    losses: Mapping[str, UpdateLoss], *, plain: str, control: str
) -> dict[str, Callable[[Update], Measures]]:
    """The new version as it is, the same with as many more steps of cross-entropy, and trained by each loss."""
    arms: dict[str, Callable[[Update], Measures]] = {plain: lambda update: compared(update, update.new)}
    for name, loss in {control: lambda s, o, n, y: _likelihood(s, y), **losses}.items():
        arms[name] = lambda update, loss=loss: compared(update, retrained(update, loss))
    return arms


def retrained(update: Update, loss: UpdateLoss) -> nn.Module:
    """A copy of the new version whose adapter was trained further; `update` stays as it is."""
    student = copy.deepcopy(update.new)
    with torch.no_grad():
        old, new = update.old(update.inputs), update.new(update.inputs)

    def step(logits: Tensor, labels: Tensor, places: Tensor) -> Tensor:
        return loss(logits, old[places], new[places], labels)

    order = stream(update.seed, "further order")
    _fit(student, update.inputs, update.labels, step, EPOCHS, 2e-3, order)
    return student


def compared(update: Update, model: nn.Module) -> Measures:
    """Accuracy, and flips against the old version's answers, on the test items."""
    with torch.no_grad():
        old, now = (one(update.test_inputs).argmax(-1) for one in (update.old, model))
    was, right = old == update.test_labels, now == update.test_labels
    return {
        "accuracy": float(right.float().mean()),
        "NFR": float((was & ~right).float().mean()),
        "NFR_mc": float((~right & (old != now)).float().mean()),
        "PFR": float((~was & right).float().mean()),
    }


def _likelihood(logits: Tensor, labels: Tensor, places: Tensor | None = None) -> Tensor:
    return cross_entropy(logits, labels, reduction="none")


def _inputs(seed: int, purpose: str, count: int) -> Tensor:
    return torch.randn(count, INPUTS, generator=stream(seed, f"inputs/{purpose}"))


def _labeller(seed: int, purpose: str) -> Callable[[Tensor], Tensor]:
    """Labels by a random net: tanh of 40 units, then four classes."""
    generator = stream(seed, purpose)
    first = torch.randn(INPUTS, 40, generator=generator) / INPUTS**0.5
    second = torch.randn(40, CLASSES, generator=generator)
    return lambda inputs: ((inputs @ first).tanh() @ second).argmax(-1)


def _classifier(layers: int) -> nn.Module:
    sizes = [INPUTS, *[WIDTH] * layers]
    blocks: list[nn.Module] = []
    for width, following in itertools.pairwise(sizes):
        blocks += [nn.Linear(width, following), nn.GELU()]
    return nn.Sequential(*blocks, nn.Linear(WIDTH, CLASSES))


def _with_adapter(base: nn.Module) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    names = [name for name, one in base.named_modules() if isinstance(one, nn.Linear)]
    return get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=names))  # type: ignore[arg-type]


def _fit(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    epochs: int,
    learning_rate: float,
    order: torch.Generator,
) -> None:
    weights = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate)
    for _ in range(epochs):
        for places in torch.randperm(len(inputs), generator=order).split(BATCH):
            optimizer.zero_grad()
            loss(model(inputs[places]), labels[places], places).mean().backward()
            optimizer.step()
