"""The stages of reconstructing radiance: what is held out, the training, whether exposures are in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from coalign.core.errors import DataError
from coalign.core.files import atomic_path, parse_json, write_json
from coalign.core.runs import Run, is_main_process
from coalign.models.devices import pick_device
from coalign.training.job import FitResult
from coalign.training.modules import fit_module
from coalign.vision.exposures.network import HDRNetwork, NetworkShape, new_network
from coalign.vision.exposures.options import RadianceOptions
from coalign.vision.exposures.shots import Shot
from coalign.vision.exposures.synthesis import Synthesis
from coalign.vision.exposures.training import RadianceTask, WindowsOf


def split(shots: Sequence[Shot], fraction: float, seed: int) -> tuple[list[Shot], list[Shot]]:
    """Held-out and training shots, drawn by the seed.

    Raises:
        DataError: none is left to train on.
    """
    order = np.random.default_rng(seed).permutation(len(shots)).tolist()
    count = round(fraction * len(shots))
    if shots and count == len(shots):
        raise DataError(
            f"{len(shots)} shots, all of which eval_fraction holds out: none is left to learn from."
        )
    held_out = sorted(order[:count])
    kept = sorted(order[count:])
    return [shots[one] for one in held_out], [shots[one] for one in kept]


def fit(
    start: HDRNetwork | None,
    training: Sequence[Shot],
    held_out: Sequence[Shot],
    synthesis: Synthesis,
    config: RadianceOptions,
    run: Run,
) -> FitResult:
    """Train the network, and save it in the run folder; what was finished before is read, not done again."""
    done = run.artefacts / "training.json"
    if done.exists() and run.model.exists():
        return FitResult(**parse_json(done.read_text(encoding="utf-8")))
    shape = NetworkShape(
        frames=config.window,
        width=config.width,
        channels=config.channels,
        blocks=config.blocks,
        merge_blocks=config.merge_blocks,
        align_downscale=config.align_downscale,
        hallucination_mask=config.hallucination_mask,
        attention=config.attention,
    )
    network = start if start is not None else new_network(shape, config.seed)
    network.train().to(pick_device(config.device))
    examples, evaluated = (WindowsOf(one, synthesis, config.seed) for one in (training, held_out))
    fitted = fit_module(network, RadianceTask(config), examples, config, run, held_out=evaluated)
    if is_main_process():
        with atomic_path(run.model) as folder:
            network.save(folder)
        write_json(done, asdict(fitted))
    return fitted


def is_suspicious(shot: Shot) -> bool:
    """Whether most neighbours of different exposure in a shot have the brighter picture at the shorter one: exposures in a
    wrong order swap the linear light without a word.
    """
    assert shot.exposures is not None
    places = list(range(min(shot.count, 8)))
    means = [float(frame.mean()) for frame in shot.read(places)]
    pairs = [one for one in places[1:] if shot.exposures[one] != shot.exposures[one - 1]]
    swapped = [
        (means[one] - means[one - 1]) * (shot.exposures[one] - shot.exposures[one - 1]) < 0 for one in pairs
    ]
    return sum(swapped) > len(pairs) / 2
