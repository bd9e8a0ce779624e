"""The stages of a consistency training: pictures to one array, training, samples, distances."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coalign.core.errors import CoalignError
from coalign.core.files import atomic_path, write_json
from coalign.core.progress import progress
from coalign.core.runs import is_main_process
from coalign.loops.rounds import Round
from coalign.measures.distributions import frechet_distance, sliced_wasserstein
from coalign.models.diffusion.files import load_network
from coalign.models.diffusion.pixels import fitted, grid, to_array, to_pictures, to_tensor
from coalign.models.devices import pick_device
from coalign.vision.consistency.network import (
    KIND,
    network_function,
    open_network,
    save_consistency_model,
)
from coalign.vision.consistency.sampling import sampled
from coalign.vision.consistency.training import NoisedPictures, train_consistency

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coalign.vision.ict import Config

ONE, SEVERAL = "one step", "several steps"
COMPARED = 10_000
"""Real pictures that samples are held against, at most."""


def sigmas_of(config: Config) -> dict[str, list[float]]:
    """The noise levels of each way of sampling."""
    return {ONE: [config.sigma_max], SEVERAL: [config.sigma_max, *config.steps_at]}


def fit_model(round: Round, config: Config) -> None:
    """Train; the averaged weights become the model, those that were trained lie beside it."""
    facts = facts_of(round)
    pictures, labels = pictures_of(round), facts["labels"] if config.classes else None
    held = facts["held_out"]
    objective = config.objective()
    unet = open_network(
        config,
        size=config.image_size,
        channels=pictures.shape[1],
        classes=len(facts["classes"]) if config.classes else 0,
        seed=config.seed,
    )

    def part(first: int, last: int, seed: int, flip: bool) -> NoisedPictures:
        own = None if labels is None else labels[first:last]
        return NoisedPictures(pictures[first:last], own, seed, flip=flip)

    training = part(held, len(pictures), config.seed, config.flip)
    held_out = part(0, held, config.seed + 1, False) if held else ()
    fitted_, average = train_consistency(
        unet, objective, training, held_out, config, round.run, scale=config.embedding_scale
    )
    if not is_main_process():
        return
    round.write("history", fitted_.finite().history)
    save_consistency_model(unet, objective, round.folder / "student")
    average.copy_to(unet)
    save_consistency_model(unet, objective, round.folder / "model")


def sample_pictures(round: Round, config: Config) -> None:
    """Samples of the averaged weights, by each way of sampling from the same noise: an array and a grid each."""
    facts, objective = facts_of(round), config.objective()
    device = pick_device(config.device)
    unet: Any = load_network(str(round.folder / "model"), KIND).to(device).eval()
    shape = (facts["channels"], config.image_size, config.image_size)
    classes = len(facts["classes"]) if config.classes else 0

    def network(numbers: range) -> Any:
        labels = torch.tensor([one % classes for one in numbers], device=device) if classes else None
        return network_function(unet, config.embedding_scale, labels)

    for name, sigmas in sigmas_of(config).items():
        found = sampled(
            objective.model,
            network,
            sigmas,
            shape,
            config.samples,
            seed=config.seed,
            batch_size=config.sampling_batch,
            device=device,
        )
        pictures = to_pictures(found)
        values = np.stack([to_array(one, grey=shape[0] == 1) for one in pictures])
        with atomic_path(_samples_path(round, name, ".npy")) as path, path.open("wb") as file:
            np.save(file, values)
        with atomic_path(_samples_path(round, name, ".png")) as path:
            grid(pictures, columns=round_root(len(pictures))).save(path, format="PNG")


def round_root(count: int) -> int:
    """Columns of a grid that is about square."""
    return max(int(count**0.5), 1)


def measure_samples(round: Round, config: Config) -> None:
    """Distances between samples and real pictures; between real pictures, for what is small."""
    pictures, held = pictures_of(round), facts_of(round)["held_out"]
    apart = held >= 2
    real = pictures[:held] if apart else pictures
    others = pictures[held:] if apart else pictures
    draw = random.Random(config.seed)
    chosen = sorted(draw.sample(range(len(real)), min(len(real), COMPARED)))
    beside = sorted(draw.sample(range(len(others)), min(len(others), config.samples)))
    groups = {name: samples_of(round, name) for name in sigmas_of(config)}
    groups["real pictures"] = others[beside]
    features = {"pixels": _pixels}
    if config.encoder is not None:
        features["features"] = encoder_features(config.encoder, config.device, config.sampling_batch)
    rows = [{"samples": name, "count": len(values)} for name, values in groups.items()]
    for kind, map_ in features.items():
        reference = map_(real[chosen])
        for row, values in zip(rows, groups.values(), strict=True):
            points = map_(values)
            if kind == "pixels":
                row["sliced Wasserstein"] = sliced_wasserstein(points, reference)
            elif min(len(points), len(reference)) > 1:
                row["Fréchet"] = frechet_distance(points, reference)
    round.write("measure", rows)


def facts_of(round: Round) -> dict[str, Any]:
    """What `prepare_pictures` found: count, channels, labels, names of classes, pictures held out, conversions."""
    return json.loads(round.path("build", ".json").read_text(encoding="utf-8"))


def pictures_of(round: Round) -> NDArray[np.uint8]:
    """[N, channels, size, size] bytes on disk; the first `held_out` are not trained on."""
    facts = facts_of(round)
    shape = (facts["count"], facts["channels"], facts["size"], facts["size"])
    return np.memmap(round.path("build", ".bytes"), np.uint8, "r", shape=shape)


def samples_of(round: Round, name: str) -> NDArray[np.uint8]:
    """[samples, channels, size, size] bytes."""
    return np.load(_samples_path(round, name, ".npy"))


def _samples_path(round: Round, name: str, suffix: str) -> Any:
    return round.folder / f"{name.replace(' ', '-')}{suffix}"


def _pixels(values: NDArray[np.uint8]) -> NDArray[np.float64]:
    return to_tensor(values).double().flatten(1).numpy()
