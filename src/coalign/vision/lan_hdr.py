"""LAN-HDR: one frame of high dynamic range for every frame of a camera that alternates two or three exposures.

LAN-HDR: Luminance-based Alignment Network for High Dynamic Range Video Reconstruction (arXiv 2308.11116). Neighbours are
aligned with a frame by hard attention between luminance features, the frame brought to each neighbour's exposure first, so
that equal content looks equal; where nothing matches, content is made up, and a gate decides. There is no optical flow.

    coalign run lan-hdr --data septuplets.jsonl
    coalign run lan-hdr --data panoramas/ --reconstruct shots.jsonl --exposures 3
    coalign run lan-hdr --network runs/hdr --reconstruct shots.jsonl --output hdr

Windows to learn from are made of ordinary video (the camera's curve, drawn at random, is undone) or of radiance (OpenEXR,
Radiance). A shot is a row with `frames` in order or a `video`; what is reconstructed has `exposures` or `stops` for each
frame, and `targets` where the radiance is known. Radiance is 1 where the darkest exposure saturates. Frames become OpenEXR
or Radiance files with tone-mapped previews.

Differences from the official code: both windows of an example are cut, turned and scaled alike, where the code draws for
each, so that its temporal term compares different scenes; brightness is scaled by the first window's middle frame;
metrics are means over the frames that were scored, and SSIM's range is that of each target. The seventh channel of what is
filled in is luma, as in the code, where the paper speaks of a mask (`--hallucination-mask saturation`). Beyond the ends
of a shot the nearest frame of the same exposure stands in. The perceptual term takes the features of any encoder that is
given (`--perceptual FILE.py:NAME`) and is off without one; VGG-19's weights were not at hand. A new
network's first weights are He's, where the code leaves them to PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from coalign.core.errors import ConfigError
from coalign.core.runs import Run, is_main_process
from coalign.vision.exposures.options import RadianceOptions


@dataclass(kw_only=True)
class Config(RadianceOptions):
    """Options of `coalign run lan-hdr`."""

    __group__ = "Data"


def run(config: Config, run: Run) -> None:
    """Train on windows made of shots, measure on held-out ones, reconstruct shots of alternating exposure, report.

    Raises:
        ConfigError: there is nothing to do.
        DataError, MediaError: shots that cannot be used.
        ModelError: `network` is none.
        DivergedError: the loss became NaN or infinite.
    """
    from coalign.models.devices import pick_device
    from coalign.vision.exposures.measuring import measure_held_out, reconstruct_shots
    from coalign.vision.exposures.network import HDRNetwork
    from coalign.vision.exposures.report import write_report
    from coalign.vision.exposures.shots import read_shots
    from coalign.vision.exposures.stages import fit, is_suspicious, split
    from coalign.vision.exposures.synthesis import Synthesis

    if config.data is None and config.reconstruct is None:
        raise ConfigError(
            "There is nothing to do: neither --data (shots to learn from) nor --reconstruct (shots to reconstruct) is given."
        )
    shots = read_shots(config.data, exposures=False, limit=config.limit) if config.data else []
    taken = read_shots(config.reconstruct, exposures=True, limit=config.limit) if config.reconstruct else []
    start = HDRNetwork.load(Path(config.network)) if config.network else None
    held_out, training = split(shots, config.eval_fraction, config.seed)
    synthesis = Synthesis(
        start.shape.frames if start else config.window, config.exposures, tuple(config.ratios), config.crop
    )
    fitted = fit(start, training, held_out, synthesis, config, run) if training else None
    if not is_main_process():
        return
    place = run.path if fitted is not None else Path(str(config.network))
    network = cache(lambda: HDRNetwork.load(place).to(pick_device(config.device)))
    learnt = measure_held_out(run.artefacts / "held_out.jsonl", network, held_out, synthesis, config.seed)
    frames = reconstruct_shots(
        run.artefacts / "frames.jsonl", network, taken, run.path / "frames", config.output
    )
    write_report(run, config, fitted, learnt, frames, [one.id for one in taken if is_suspicious(one)])
