"""Open what scores: a new or a saved scorer on BLIP-2 or on a dual encoder, a model that answers, a cosine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import ModelError
from coalign.core.files import atomic_path, write_json
from coalign.models.devices import pick_device
from coalign.models.files.identity import model_identity
from coalign.models.files.loading import load_model, load_pretrained, load_tokenizer
from coalign.models.files.processors import load_processor, model_type
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions
from coalign.pairs.encoders import ImageTextEncoder
from coalign.vision.fine_grained.model import FineGrainedScorer, JointLayers, QFormerBody
from coalign.vision.fine_grained.questions import TransformersYesNo
from coalign.vision.fine_grained.reading import TokenReader, plain_caption
from coalign.vision.fine_grained.released import read_released
from coalign.vision.fine_grained.scoring import CosineMetric, FineGrainedMetric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image
    from torch import Tensor

SETTINGS, WEIGHTS = "scorer.json", "scorer.safetensors"
BLIP2 = "blip-2"
WHOLE = "Give the whole model."


def new_scorer(
    base: str, revision: str | None, device: str, sizes: dict[str, int] | None = None
) -> tuple[FineGrainedScorer, TokenReader, dict[str, Any]]:
    """A scorer with new heads on a base, how it reads, and what is written of it beside its weights.

    Args:
        base: BLIP-2 with its matching head (`Blip2ForImageTextRetrieval`), or a dual encoder, by hub id or folder.
        sizes: of the joint layers over a dual encoder.

    Raises:
        ModelError: it cannot be loaded.
    """
    on = pick_device(device)
    options = ModelOptions(model=base, revision=revision)
    about: dict[str, Any] = {"base": base, "revision": revision, "identity": model_identity(options)}
    if model_type(base, revision) == BLIP2:
        scorer, reader = _on_blip2(base, revision, on)
        return scorer, reader, {**about, "body": "q-former"}
    encoder = ImageTextEncoder.load(base, revision=revision, device=device)
    longest = encoder.model.text_model.config.max_position_embeddings
    reader = TokenReader(encoder.tokenizer, encoder.pixels, on, longest=longest)
    body = JointLayers(encoder, *encoder.tower_widths, **(sizes or {}))
    return FineGrainedScorer(body).to(on), reader, {**about, "body": "joint layers", "sizes": body.sizes}


def save_scorer(folder: Path, scorer: FineGrainedScorer, about: dict[str, Any]) -> None:
    """Write what was learnt; the base is named, not copied."""
    from safetensors.torch import save_file

    learnt = {name for name, one in scorer.named_parameters() if one.requires_grad}
    weights = {name: value.contiguous() for name, value in scorer.state_dict().items() if name in learnt}
    with atomic_path(folder) as path:
        path.mkdir()
        save_file(weights, path / WEIGHTS)
        write_json(path / SETTINGS, about)


def open_scorer(folder: Path, device: str) -> FineGrainedMetric:
    """A saved scorer on its base.

    Raises:
        ModelError: the folder holds none, or its base cannot be loaded, or is another one than it was trained on.
    """
    from safetensors.torch import load_file

    try:
        about = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder}: holds no scorer of pictures ({SETTINGS} or {WEIGHTS} is missing or damaged).",
            hint="Give the run of `coalign run evalmuse --train ...`, or the folder `model` in it.",
        ) from error
    scorer, reader, found = new_scorer(about["base"], about["revision"], device, about.get("sizes"))
    if found["identity"] != about["identity"]:
        raise ModelError(
            f"{folder}: was trained on another {about['base']} than the one that is there now.",
            hint="The scorer needs the weights that it was trained on.",
        )
    _, unknown = scorer.load_state_dict(weights, strict=False)
    if unknown:
        raise ModelError(f"{folder / WEIGHTS}: {unknown[0]} is no weight of a scorer on {about['base']}.")
    return FineGrainedMetric(scorer.eval(), reader)


def open_released(path: Path, base: str, revision: str | None, device: str) -> FineGrainedMetric:
    """The released FGA-BLIP2 on its base.

    Raises:
        ModelError: see `read_released`; weights of another shape than the base's.
    """
    weights = read_released(path)
    scorer, reader, about = new_scorer(base, revision, device)
    if about["body"] != "q-former":
        raise ModelError(f"{path}: stands on BLIP-2, not on {base}.")
    try:
        _, unknown = scorer.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{path}: does not fit {base} ({str(error).splitlines()[-1].strip()}).") from error
    if unknown:
        raise ModelError(f"{path}: {unknown[0]} is no weight of a scorer on {base}.")
    return FineGrainedMetric(scorer.eval(), reader)


def open_cosine(name: str, revision: str | None, device: str) -> CosineMetric:
    """CLIPScore with a dual encoder; errors are those of `ImageTextEncoder.load`."""
    return CosineMetric(ImageTextEncoder.load(name, revision=revision, device=device))


def open_yes_no(name: str, revision: str | None, device: str, batch_size: int) -> TransformersYesNo:
    """An image-text-to-text model of Transformers with its processor.

    Raises:
        ModelError: it cannot be loaded.
    """
    options = ModelOptions(model=name, revision=revision, device=device)
    generator = TransformersGenerator(load_model(options, training=False), load_tokenizer(options))
    return TransformersYesNo(generator, name=name, batch_size=batch_size)


def _on_blip2(base: str, revision: str | None, device: torch.device) -> tuple[FineGrainedScorer, TokenReader]:
    from transformers import AutoProcessor, Blip2ForImageTextRetrieval

    model: Any = load_pretrained(
        Blip2ForImageTextRetrieval,
        base,
        what="BLIP-2 with its matching head",
        revision=revision,
        needs=WHOLE,
        dtype=torch.float32,
    )
    processor = load_processor(AutoProcessor, base, revision)
    match = torch.nn.Linear(model.itm_head.in_features, 2)
    match.load_state_dict(model.itm_head.state_dict())
    scorer = FineGrainedScorer(QFormerBody(model), match).to(device)

    def pixels(pictures: Sequence[Image.Image]) -> Tensor:
        found = processor.image_processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return found.to(device)

    return scorer, TokenReader(
        processor.tokenizer,
        pixels,
        device,
        model.config.qformer_config.max_position_embeddings,
        plain_caption,
    )
