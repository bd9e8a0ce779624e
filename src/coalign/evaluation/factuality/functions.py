"""Alignment functions: how well is text b supported by text a, from a checkpoint, a folder or any NLI classifier."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import ConfigError, ModelError
from coalign.evaluation.factuality.options import Head
from coalign.evaluation.factuality.pair_scoring import PairScorer
from coalign.models.devices import pick_device
from coalign.models.files.failures import explained
from coalign.models.files.loading import load_pretrained, load_tokenizer
from coalign.models.files.places import locate
from coalign.models.files.tensor_files import read_tensors
from coalign.models.options import ModelOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coalign.evaluation.factuality.model import PairClassifier

PUBLISHED = {
    "alignscore-base": ("yzha/AlignScore", "AlignScore-base.ckpt"),
    "alignscore-large": ("yzha/AlignScore", "AlignScore-large.ckpt"),
}
"""Names of published checkpoints: hub repository and file."""
_TOKENIZERS = {768: "FacebookAI/roberta-base", 1024: "FacebookAI/roberta-large"}
_HEADS = {768: 12, 1024: 16}
_LONGEST = 512
_PROBE = [
    ("Three red boxes stand in the hall, and each of them holds four coins.", "A box is red."),
    ("Yes.", "No."),
]
_ROUNDING = 1e-5
_ENTAILS = re.compile(r"^(entail(s|ment|ed)?|supports?|supported|aligned|consistent)$", re.IGNORECASE)
_OTHER = re.compile(
    r"^((non|not)[ _-]?entailment|neutral|contradict(ion|s)?|refutes?|not enough info|unsupported|inconsistent|not[ _-]aligned)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FunctionOptions:
    """How an alignment function is loaded.

    Attributes:
        model: a published name, `default-factuality`, a `.ckpt` file, a folder or run folder of ours, or a sequence classifier for natural
            language inference by folder or hub id.
        head: which head of a pair classifier scores.
        entailment: the classifier's label that means entailment, by name or number, where its labels do not say.
        tokenizer: of a `.ckpt` file; by default the one that belongs to its width.
    """

    model: str
    head: Head = "nli"
    revision: str | None = None
    entailment: str | None = None
    tokenizer: str | None = None
    device: str = "auto"
    batch_tokens: int | None = None


def load_function(options: FunctionOptions) -> PairScorer:
    """The function that `options` name.

    Raises:
        ModelError: it cannot be found, fetched or read, or a checkpoint holds something else than it should.
        ConfigError: an option that this kind of model does not have, or labels that do not say which is entailment.
    """
    from coalign.evaluation.factuality.model import DESCRIPTION, load_pair_classifier

    name = options.model
    if name in PUBLISHED or name.endswith((".ckpt", ".pt")):
        _refuse(options, "entailment", "the three-way head says what is aligned")
        path = _published(name, options.revision) if name in PUBLISHED else Path(name).expanduser()
        model, max_length = load_checkpoint(path)
        width = model.encoder.config.hidden_size
        tokenizer_name = options.tokenizer or _TOKENIZERS.get(width)
        if tokenizer_name is None:
            raise ConfigError(
                f"{name}: its width is {width}, so give the tokenizer.", hint="--tokenizer NAME"
            )
        tokenizer = load_tokenizer(tokenizer_name)
    else:
        _refuse(options, "tokenizer", "the model brings its own")
        place = locate(name, options.revision)
        tokenizer = load_tokenizer(ModelOptions(model=name, revision=options.revision))
        if not (Path(place.path) / DESCRIPTION).is_file():
            return _classifier(options, tokenizer, place.name)
        _refuse(options, "entailment", "the three-way head says what is aligned")
        model, max_length = load_pair_classifier(Path(place.path))
    model.to(pick_device(options.device)).eval()
    return headed_scorer(model, tokenizer, max_length, head=options.head, batch_tokens=options.batch_tokens)


def _refuse(options: FunctionOptions, name: str, why: str) -> None:
    if getattr(options, name) is not None:
        raise ConfigError(f"{name} has no effect with {options.model}: {why}; leave it out")


def headed_scorer(
    model: PairClassifier,
    tokenizer: Any,
    max_length: int,
    *,
    head: Head = "nli",
    batch_tokens: int | None = None,
) -> PairScorer:
    """Scores under one head of a model that is in memory, on the device where it is."""
    from coalign.evaluation.factuality.model import head_scores

    def score(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        return head_scores(model(**inputs), head)

    return _scorer(model, score, tokenizer, max_length, batch_tokens)


def _scorer(
    model: nn.Module,
    score: Callable[[nn.Module, Mapping[str, Tensor]], Tensor],
    tokenizer: Any,
    max_length: int,
    batch_tokens: int | None,
) -> PairScorer:
    """Scores of a model, computed on its first token's view where a short probe gives the same ones."""
    from coalign.models.generation.first_token import first_token_view
    from coalign.models.scoring.products import inference

    device = next(model.parameters()).device
    scorer = PairScorer(tokenizer, partial(score, model), device, max_length, batch_tokens)
    view = first_token_view(model)
    if view is None:
        return scorer
    inputs = scorer.inputs(_PROBE)
    with inference():
        same = torch.allclose(score(view, inputs), score(model, inputs), rtol=_ROUNDING, atol=_ROUNDING)
    return replace(scorer, score=partial(score, view)) if same else scorer


def load_checkpoint(path: Path, *, heads: int | None = None) -> tuple[PairClassifier, int]:
    """A checkpoint in the published layout, and the most tokens of a pair.

    The encoder is RoBERTa; its sizes come from the tensors. The masked head and the `position_ids` buffer are left
    out where the file has them; every other weight must be there with its shape.

    Args:
        heads: attention heads, for widths other than 768 and 1024 (by default one for every 64).

    Raises:
        ModelError: not such a file, a weight is missing or unknown or has the wrong shape, or the pickle is refused.
    """
    from transformers import RobertaConfig

    from coalign.evaluation.factuality.model import PairClassifier, new_encoder

    found = read_tensors(
        path, keep=lambda name: not name.startswith("mlm_head.") and not name.endswith(".position_ids")
    )
    weights = {_renamed(name): value.float() for name, value in found.items()}
    try:
        vocabulary, width = weights["encoder.embeddings.word_embeddings.weight"].shape
        positions = len(weights["encoder.embeddings.position_embeddings.weight"])
        types = len(weights["encoder.embeddings.token_type_embeddings.weight"])
        inner = len(weights["encoder.encoder.layer.0.intermediate.dense.weight"])
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path}: not an alignment checkpoint: {error} is missing or misshapen.") from error
    layers = 1 + max(int(name.split(".")[3]) for name in weights if name.startswith("encoder.encoder.layer."))
    config = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads or _HEADS.get(width) or max(1, width // 64),
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = PairClassifier(new_encoder(config))
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    for name in [*wanted, *weights]:
        shape = tuple(weights[name].shape) if name in weights else "missing"
        needed = tuple(wanted[name]) if name in wanted else "no such weight"
        if shape != needed:
            raise ModelError(f"{path}: {_published_name(name)}: {shape}, expected {needed}.")
    model.load_state_dict(weights)
    return model.eval(), min(_LONGEST, positions - 2)


def _renamed(name: str) -> str:
    return "encoder." + name.removeprefix("base_model.") if name.startswith("base_model.") else name


def _published_name(name: str) -> str:
    return "base_model." + name.removeprefix("encoder.") if name.startswith("encoder.") else name


def _published(name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    repository, file = PUBLISHED[name]
    place = locate(repository, revision)
    try:
        return Path(
            hf_hub_download(repository, file, revision=place.revision, local_files_only=place.cached_only)
        )
    except (OSError, ValueError) as error:
        found = explained(error, place, f"checkpoint {file}")
        if place.cached_only:
            found.hint = (
                f"{found.hint} default-factuality comes with the package: much weaker, for a first look."
            )
        raise found from error


def _classifier(options: FunctionOptions, tokenizer: Any, name: str) -> PairScorer:
    """A sequence classifier: the probability of its label for entailment."""
    from transformers import AutoModelForSequenceClassification

    if options.head != "nli":
        raise ConfigError(
            f"mode: the head {options.head!r} is not there: {options.model} is a classifier for natural language inference.",
            hint="Use a mode that begins with nli.",
        )
    model = load_pretrained(
        AutoModelForSequenceClassification,
        options.model,
        what="classifier",
        revision=options.revision,
        needs="Give a model that was trained for natural language inference.",
        dtype=torch.float32,
    )
    labels = {int(index): str(label) for index, label in model.config.id2label.items()}
    aligned = entailment_label(labels, options.entailment, name)
    model = model.to(pick_device(options.device)).eval()

    def score(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        return model(**inputs).logits.softmax(-1)[:, aligned]

    positions = getattr(model.config, "max_position_embeddings", None) or _LONGEST
    offset = 2 if model.config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    longest = min(int(tokenizer.model_max_length), positions - offset)
    return _scorer(model, score, tokenizer, longest, options.batch_tokens)


def entailment_label(labels: Mapping[int, str], given: str | None, name: str) -> int:
    """The index of the label that means entailment.

    Args:
        labels: index to name.
        given: a name or a number, where the user says it.

    Raises:
        ConfigError: `given` is no label, or it is not given and the names do not say.
    """
    listed = ", ".join(f"{index} {label}" for index, label in sorted(labels.items()))
    if given is not None:
        for index, label in labels.items():
            if given in (label, str(index)):
                return index
        raise ConfigError(f"entailment: {given!r} is not a label of {name}; it has: {listed}")
    named = [index for index, label in labels.items() if _ENTAILS.match(label)]
    rest = [label for index, label in labels.items() if index not in named]
    if len(named) == 1 and all(_OTHER.match(label) for label in rest):
        return named[0]
    raise ConfigError(
        f"The labels of {name} do not say which one means entailment: {listed}.",
        hint="Say it with --entailment NAME or NUMBER.",
    )
