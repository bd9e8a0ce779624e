"""The stages of a consistency training: pictures to one array, training, samples, distances."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coalign.core.errors import CoalignError
from coalign.core.files import atomic_path, write_json
from coalign.core.runs import is_main_process
from coalign.data.media.records import read_media
from coalign.loops.rounds import Round
from coalign.measures.media.distributions import frechet_distance, sliced_wasserstein
from coalign.models.devices import pick_device
from coalign.models.diffusion.files import load_network
from coalign.models.diffusion.pixels import decoded, grid, to_array, to_pictures, to_tensor
from coalign.models.image_encoder import ImageFeatures
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

    from coalign.vision.consistency.options import ConsistencyOptions

ONE, SEVERAL = "one step", "several steps"
COMPARED = 10_000
"""Real pictures that samples are held against, at most."""


def sigmas_of(config: ConsistencyOptions) -> dict[str, list[float]]:
    """The noise levels of each way of sampling."""
    return {ONE: [config.sigma_max], SEVERAL: [config.sigma_max, *config.steps_at]}


def prepare_pictures(stage: Round, config: ConsistencyOptions) -> None:
    """Decode every picture once, in the size of the training, into one file in a drawn order: the held-out ones first.

    Raises:
        DataError: pictures that cannot be used, or too few.
    """
    needs = ("label",) if config.classes else ()
    found = read_media(
        config.data, kind="image", needs=needs, split=config.split, on_bad_record=config.on_bad_record
    )
    if len(found) < 3:
        raise CoalignError(f"{config.data}: {len(found)} pictures can be used, 3 are needed at least.")
    counts: Counter[str] = Counter()
    if found.problems:
        counts["records left out"] = len(found.problems)
    size, order = config.image_size, list(found.records)
    random.Random(config.seed).shuffle(order)
    labels: list[str | None] = []
    with atomic_path(stage.path("build", ".bytes")) as path, path.open("wb") as file:
        for record, values in decoded(
            replace(found, records=order),
            size,
            size,
            fit=config.fit,
            grey=config.grey,
            on_bad_record=config.on_bad_record,
            conversions=counts,
        ):
            file.write(values.tobytes())
            labels.append(record.label)
    names = sorted({one for one in labels if one is not None}) if config.classes else []
    held_out = min(round(config.eval_fraction * len(labels)), len(labels) - 2)
    real = np.memmap(
        stage.path("build", ".bytes"), np.uint8, "r", shape=(len(labels), 1 if config.grey else 3, size, size)
    )
    facts = {
        "count": len(labels),
        "channels": 1 if config.grey else 3,
        "size": size,
        "held_out": held_out,
        "classes": names,
        "labels": [names.index(one) for one in labels if one is not None] if config.classes else [],
        "conversions": dict(counts),
        "deviation": float(to_tensor(real[:COMPARED]).std()),
    }
    write_json(stage.path("build", ".json"), facts)
    if not 0.5 <= facts["deviation"] / config.sigma_data <= 2:
        stage.run.log(
            "warning",
            stage="build",
            key="deviation",
            text=f"The pictures have a standard deviation of {facts['deviation']:.2f} in [-1, 1].",
            advice=f"sigma_data is {config.sigma_data:g}: --sigma-data {facts['deviation']:.2f} fits them.",
        )


def fit_model(round: Round, config: ConsistencyOptions) -> None:
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


def evaluate_model(round: Round, config: ConsistencyOptions) -> None:
    """Sample, and measure how far samples are from real pictures."""
    _sample(round, config)
    _measure(round, config)


def _sample(round: Round, config: ConsistencyOptions) -> None:
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


def _measure(round: Round, config: ConsistencyOptions) -> None:
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
    reference = real[chosen]
    flat = _pixels(reference)
    rows: list[dict[str, Any]] = [
        {
            "samples": name,
            "count": len(values),
            "sliced Wasserstein": sliced_wasserstein(_pixels(values), flat),
        }
        for name, values in groups.items()
    ]
    if config.encoder is not None:
        encoder = ImageFeatures(config.encoder, device=config.device, batch_size=config.sampling_batch)
        wanted = encoder(to_pictures(to_tensor(reference)))
        for row, values in zip(rows, groups.values(), strict=True):
            row["Fréchet"] = frechet_distance(encoder(to_pictures(to_tensor(values))), wanted)
    round.write("evaluate", rows)


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
