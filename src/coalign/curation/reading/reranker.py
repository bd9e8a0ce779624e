"""A reranker: an encoder of query and passage that is trained on what passages do to a reader, and scores them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from coalign.core.errors import ConfigError
from coalign.core.files import write_json
from coalign.core.options import Count, NonNegative, OptionGroup, Positive, option
from coalign.core.runs import Run, is_main_process
from coalign.curation.reading.knowledge import Preference
from coalign.measures.min_norm import exact_min_norm, grid_min_norm
from coalign.models.options import ModelOptions
from coalign.training.distributed.shared_work import by_all
from coalign.training.job import FitResult
from coalign.training.objective import Losses
from coalign.training.options import TrainingOptions
from coalign.training.task import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerState

Loss = Literal["pointwise", "pairwise", "contrastive"]
LABEL = "helpful"
"""Name of the output that is the score."""


@dataclass(kw_only=True)
class RerankerOptions(OptionGroup):
    """The reranker and its training."""

    __group__ = "Reranker"

    reranker: str = option(
        "default-encoder",
        "encoder that becomes the reranker: a folder or a hub id",
        source="paper: bge-reranker-large",
    )
    losses: list[Loss] = option(["pointwise", "pairwise", "contrastive"], "what it learns by", source="paper")
    weights: Literal["min_norm", "official", "equal"] = option(
        "min_norm", "of the losses in each step: the exact shortest combination of gradients, the authors' search for it, or alike",
        source="official code",
    )  # fmt: skip
    gradients: Literal["encoder", "representation"] = option(
        "encoder", "what the gradients are by: the encoder's weights (official code), or its output, which is cheap for large ones (paper)",
        source="official code",
    )  # fmt: skip
    temperature: Positive = option(0.07, "of the contrastive loss", source="official code")
    group_size: Count = option(2, "passages that help, and that do not, of a query", source="official code")
    reranker_learning_rate: Positive = option(1e-5, "constant learning rate", source="official code")
    reranker_epochs: Positive = option(10.0, "passes over the queries", source="official code")
    reranker_batch_size: Count = option(4, "queries in a step", source="official code")
    reranker_weight_decay: NonNegative = option(
        0.01, "AdamW weight decay", source="official code: PyTorch's default"
    )
    reranker_max_length: Count = option(
        512,
        "most tokens of query and passage; of longer ones the passage's end is cut",
        source="official code",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.losses or len(set(self.losses)) < len(self.losses):
            raise ValueError("losses: expected one or more, each once")
        if len(self.losses) == 1:
            self.refuse(["weights", "gradients"], "with one loss")
        if self.weights == "equal":
            self.refuse(["gradients"], "with weights: equal")
        if "contrastive" not in self.losses:
            self.refuse(["temperature"], "without the contrastive loss")


@dataclass(frozen=True)
class Reranker:
    """A sequence classifier with two outputs, and its tokenizer. Make one with `new_reranker` or `load_reranker`."""

    model: nn.Module
    tokenizer: Any
    max_length: int

    def inputs(self, queries: Sequence[str], passages: Sequence[str]) -> dict[str, Tensor]:
        """[N, T] ids, mask and segments of query and passage; too long ones lose the end of the longer one."""
        return dict(
            self.tokenizer(
                list(queries),
                list(passages),
                truncation="longest_first",
                max_length=self.max_length,
                padding=True,
                return_tensors="pt",
            )
        )

    def score(self, query: str, passages: Sequence[str], *, batch_size: int = 32) -> list[float]:
        """For each passage the probability that it helps: softmax of the two outputs."""
        device, found = next(self.model.parameters()).device, []
        self.model.eval()
        with torch.inference_mode():
            for start in range(0, len(passages), batch_size):
                part = passages[start : start + batch_size]
                inputs = {
                    name: one.to(device) for name, one in self.inputs([query] * len(part), part).items()
                }
                found += self.model(**inputs).logits.float().softmax(-1)[:, 1].tolist()
        return found

    def order(self, query: str, passages: Sequence[str]) -> list[int]:
        """Places of the passages, the most helpful first; of equal ones the first."""
        scores = self.score(query, passages)
        return sorted(range(len(passages)), key=lambda place: -scores[place])


class RerankerTask(Task):
    """The losses of a reranker, weighed anew in every step.

    Args:
        losses: which ones; their names are metrics, and so are their weights.
        weights, gradients, temperature: see `RerankerOptions`.
    """

    name = "reranker"
    examples = "queries"

    def __init__(self, reranker: Reranker, settings: RerankerOptions) -> None:
        self.reranker, self.settings = reranker, settings
        self.leaves_unused = [*settings.losses] == ["contrastive"]  # the head

    def collate(self, examples: Sequence[Preference]) -> Batch:
        queries = [one.query for one in examples for _ in one.texts]
        places = [place for place, one in enumerate(examples) for _ in one.texts]
        return {
            "ids": [one.id for one in examples],
            "inputs": self.reranker.inputs(queries, [text for one in examples for text in one.texts]),
            "helped": torch.tensor([int(each) for one in examples for each in one.helped]),
            "labels": torch.tensor([label for one in examples for label in one.labels]),
            "queries": torch.tensor(places),
        }

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        output = model(**batch["inputs"], output_hidden_states=True)
        embeddings = output.hidden_states[-1][:, 0]
        each = reranker_losses(embeddings, output.logits, batch, self.settings)
        told = torch.stack([one.mean() for one in each])
        weights = torch.full((len(each),), 1 / len(each)).to(told)
        if model.training and self.settings.weights != "equal" and len(each) > 1:
            weights = loss_weights(
                told, self._shared(model, embeddings), exact=self.settings.weights == "min_norm"
            ).to(told)
        total = (weights[:, None] * torch.stack(each)).sum(0)
        metrics = {name: one.detach() for name, one in zip(self.settings.losses, each, strict=True)}
        if model.training:
            metrics |= {
                f"weight/{name}": one[None] for name, one in zip(self.settings.losses, weights, strict=True)
            }
        return Losses(total, metrics)

    def _shared(self, model: nn.Module, embeddings: Tensor) -> list[Tensor]:
        """What the losses share: the weights of the encoder without its head, or what it gives."""
        from coalign.models.modules import unwrap

        if self.settings.gradients == "representation":
            return [embeddings]
        return [one for one in cast("Any", unwrap(model)).base_model.parameters() if one.requires_grad]


def reranker_losses(
    embeddings: Tensor, logits: Tensor, batch: Batch, settings: RerankerOptions
) -> list[Tensor]:
    """[losses] of [Q]: those of `settings.losses` for each query of a batch.

    Args:
        embeddings: [N, H] state of the first token of each passage.
        logits: [N, 2]; the second output is the score.
    """
    from coalign.training.losses.reranking import contrastive_loss, pairwise_loss, pointwise_loss

    queries, n = batch["queries"], len(batch["ids"])
    made = {
        "pointwise": lambda: pointwise_loss(logits.float(), batch["labels"], queries, n),
        "pairwise": lambda: pairwise_loss(logits.float()[:, 1], queries, n),
        "contrastive": lambda: contrastive_loss(
            embeddings.float(), batch["helped"], queries, n, temperature=settings.temperature
        ),
    }
    return [made[name]() for name in settings.losses]


def loss_weights(losses: Tensor, shared: Sequence[Tensor], *, exact: bool) -> Tensor:
    """[K] weights for which the weighted sum of the losses' gradients by what they share is shortest; alike where a gradient is
    not finite or all are 0.

    Args:
        losses: [K] with their graph, which stays.
        exact: the exact combination, or the authors' search.
    """
    rows = [torch.autograd.grad(one, shared, retain_graph=True, allow_unused=True) for one in losses]
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for i, one in enumerate(rows):
        for j, other in enumerate(rows[: i + 1]):
            parts = [
                (a.float() * b.float()).sum()
                for a, b in zip(one, other, strict=True)
                if a is not None and b is not None
            ]
            gram[i, j] = gram[j, i] = float(torch.stack(parts).sum()) if parts else 0.0
    if not torch.isfinite(gram).all() or not gram.any():
        return torch.full((len(rows),), 1 / len(rows))
    search = exact_min_norm if exact else grid_min_norm
    return torch.from_numpy(search(gram.numpy()))


@by_all
def train_reranker(
    config: Any,
    examples: Sequence[Preference],
    run: Run,
    folder: Path,
    *,
    held_out: Sequence[Preference] = (),
) -> FitResult:
    """Train a reranker and save it with its tokenizer; what was finished before is read, not done again.

    Args:
        config: has `RerankerOptions`, and `seed`, `save_steps`, `logging_steps`, `device`.
    """
    from coalign.models.files.saving import save_model
    from coalign.training.modules import fit_module

    done = run.artefacts / "reranker.json"
    if done.exists() and folder.exists():
        return FitResult(**json.loads(done.read_text(encoding="utf-8")))
    settings = RerankerOptions.of(config)
    reranker = new_reranker(settings, device=config.device, seed=config.seed)
    options = TrainingOptions(
        learning_rate=settings.reranker_learning_rate, epochs=settings.reranker_epochs, batch_size=settings.reranker_batch_size,
        weight_decay=settings.reranker_weight_decay, schedule="constant", warmup_ratio=0.0, seed=config.seed,
        save_steps=config.save_steps, logging_steps=config.logging_steps,
    )  # fmt: skip
    task = RerankerTask(reranker, settings)
    result = fit_module(
        reranker.model,
        task,
        list(examples),
        options,
        run,
        name="reranker",
        held_out=list(held_out),
        processor=reranker.tokenizer,
    ).finite()
    backend = getattr(reranker.tokenizer, "backend_tokenizer", None)
    if backend is not None:  # it keeps how it was last called, and would be saved with that
        backend.no_truncation()
        backend.no_padding()
    if is_main_process():
        save_model(cast("Any", reranker.model), reranker.tokenizer, folder)
        write_json(done, asdict(result))
    return result


def new_reranker(settings: RerankerOptions, *, device: str = "auto", seed: int = 0) -> Reranker:
    """An encoder with a new head of two outputs, or with its own where it has one.

    Raises:
        ModelError: it cannot be loaded.
        ConfigError: it is no encoder.
    """
    from transformers import set_seed

    from coalign.models.files.classifiers import new_classifier
    from coalign.models.files.loading import load_tokenizer

    options = ModelOptions(model=settings.reranker, device=device, tuning="full", dtype="float32")
    set_seed(seed)
    model: Any = new_classifier(options, outputs=2)
    model.config.id2label, model.config.label2id = {0: "not helpful", 1: LABEL}, {"not helpful": 0, LABEL: 1}
    return _reranker(settings.reranker, model, load_tokenizer(options), settings.reranker_max_length)


def load_reranker(folder: Path, *, max_length: int = 512, device: str = "auto") -> Reranker:
    """A reranker that `train_reranker` saved."""
    from coalign.models.devices import pick_device
    from coalign.models.files.classifiers import load_classifier
    from coalign.models.files.loading import load_tokenizer
    from coalign.models.files.places import locate

    model = load_classifier(locate(str(folder)), what="reranker", dtype=torch.float32)
    tokenizer = load_tokenizer(ModelOptions(model=str(folder)))
    return _reranker(str(folder), model.to(pick_device(device)).eval(), tokenizer, max_length)


def _reranker(name: str, model: Any, tokenizer: Any, max_length: int) -> Reranker:
    from coalign.models.reward_model import longest_text
    from coalign.models.scoring.sequence_states import reads_last_token

    if reads_last_token(model):
        raise ConfigError(f"reranker: {name} reads from left to right, expected an encoder.")
    return Reranker(model, tokenizer, min(max_length, longest_text(model, tokenizer)))
