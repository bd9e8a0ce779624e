"""Check of `lan-hdr`: saturated parts of a frame, with a neighbour of shorter exposure that was moved."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch.nn.functional import mse_loss

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.drawn import radiance as world
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.vision.exposures.losses import frequency_losses
from coalign.vision.exposures.network import HDRNetwork, NetworkShape, frame_inputs, new_network
from coalign.vision.exposures.photometry import tone_mapped

SHAPE = NetworkShape(frames=2, width=4, channels=12, blocks=2, merge_blocks=2, align_downscale=1)
WARM_STEPS, WARM_BATCH, WARM_RATE = 100, 8, 1e-3
STEPS, BATCH, RATE = 200, 4, 1e-3
TESTED = 64
Attention = Literal["luminance", "none"]


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share.

    Attributes:
        network: its matcher has learnt shifts, the rest nothing.
        matched: share of the test places that it matches right.
    """

    seed: int
    network: HDRNetwork = field(repr=False)
    tested: world.Frames = field(repr=False)
    matched: float


def check(run: Run, *, seeds: int = 3) -> Verdict:
    """Where a frame is saturated, attention on luminance brings more of a moved neighbour than places left as they are.

    Rule:
        Seen: the gain in PSNR-mu on saturated pixels is in the mean 0.3 dB or more, and above 0 in two of three seeds or
        more. Not seen: in the mean 0 dB or less. Mixed: between. Beside the rule: the gain over all pixels, the share of
        places that are matched right before and after the training, and two properties of the mechanism: a picture matched
        with itself stays in place, and the reference brought to the neighbour's exposure has its luma where nothing is
        saturated or moved.

    Setting:
        Scenes of 64 x 64 pixels, smooth light times a fine texture; the neighbour (exposure 1, noise 1e-3) is moved by 0, 8
        or 16 pixels on each axis, the reference (exposure 8) is saturated in its bright parts. The paper's network with
        tdim 4, ch 12, 2 residual blocks in the alignment and 2 blocks in the merge, attention at 1/8 of the full size, one
        neighbour. Both arms begin with a matcher (luminance pyramid and projection) that has learnt the true places for
        100 steps of 8 pairs by cross-entropy, which is ours, AdamW 1e-3; then the whole network learns 200 steps of 4 pairs,
        tone-mapped L1 and 0.1 of the spectra's distance, AdamW 1e-3, with attention or with every place left where it is.
        64 test pairs a seed.
    """
    ours, still = "luminance attention", "identity alignment"
    arms = {ours: lambda one: trained(one, "luminance"), still: lambda one: trained(one, "none")}
    rows = measure_arms(run, seeds=seeds, prepare=prepared, arms=arms)
    gains = rows.gaps("psnr-mu, saturated", ours, still)
    positive = sum(gain > 0 for gain in gains.values())
    return rows.verdict(
        check,
        outcome=decide(
            seen=mean_of(gains) >= 0.3 and 3 * positive >= 2 * len(gains), not_seen=mean_of(gains) <= 0
        ),
        summary={
            "gain on saturated pixels in dB": mean_of(gains),
            "smallest over seeds": min(gains.values()),
            "gain over all pixels in dB": rows.gap("psnr-mu", ours, still),
            "places matched right before the training": rows.mean("matched before", ours),
            "places matched right after it": rows.mean("matched after", ours),
            "places of a picture matched with itself": rows.mean("matched with itself", ours),
            "largest difference of re-exposed luma": rows.mean("re-exposed luma", ours),
        },
    )


def prepared(seed: int, *, steps: int = WARM_STEPS, tested: int = TESTED) -> Material:
    """A network whose matcher has learnt shifts, and test pairs."""
    network, draw = new_network(SHAPE, seed), stream(seed, "shifts")
    matcher = network.alignment
    weights = [*matcher.luminance.parameters(), *matcher.project.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=WARM_RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        world.matching_loss(network, world.drawn_frames(WARM_BATCH, draw)).backward()
        optimizer.step()
    frames = world.drawn_frames(tested, stream(seed, "tested"))
    return Material(seed, network, frames, world.matched_share(network, frames))


def trained(one: Material, attention: Attention, *, steps: int = STEPS) -> Measures:
    """The whole network trained with an alignment, and what it reconstructs."""
    network, draw = copy.deepcopy(one.network), stream(one.seed, "pairs")
    network.alignment.attention = attention
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    for _ in range(steps):
        frames = world.drawn_frames(BATCH, draw)
        found, target = tone_mapped(network(frames.ldr, frames.exposures)), tone_mapped(frames.target)
        optimizer.zero_grad()
        ((found - target).abs().mean() + 0.1 * frequency_losses(found, target).mean()).backward()
        optimizer.step()
    return _measured(network, one)


@torch.no_grad()
def _measured(network: HDRNetwork, one: Material) -> Measures:
    tested = one.tested
    parts = zip(tested.ldr.split(16), tested.exposures.split(16), strict=True)
    found = tone_mapped(torch.cat([network(ldr, exposures) for ldr, exposures in parts]))
    target, saturated = tone_mapped(tested.target), tested.saturated.expand_as(found)
    matched = network.alignment.attention == "luminance"
    return {
        "psnr-mu": _psnr(found, target),
        "psnr-mu, saturated": _psnr(found[saturated], target[saturated]),
        "saturated": float(saturated.float().mean()),
        "matched before": one.matched,
        "matched after": world.matched_share(network, tested) if matched else 0.0,
        "matched with itself": world.self_matched_share(network, tested),
        "re-exposed luma": _re_exposed_difference(tested),
    }


def _psnr(found: torch.Tensor, target: torch.Tensor) -> float:
    return float(-10 * mse_loss(found.double(), target.double()).log10())


def _re_exposed_difference(tested: world.Frames) -> float:
    """The largest difference of luma between the darker frame and the brighter one at its exposure, of still scenes without
    noise and where neither is saturated.
    """
    pair = world.still_pair(tested.target.double())
    _, luminance, reference = frame_inputs(pair, tested.exposures.double(), 1)
    plain = pair[:, 1].amax(1, keepdim=True) < 1
    return float((luminance[:, 0, :1] - reference[:, 0, :1]).abs()[plain].max())
