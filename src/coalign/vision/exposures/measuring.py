"""How close radiance comes to what was wanted: PSNR and SSIM, tone-mapped (mu) and linear (L), beside the reference frame
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coalign.core.files import append_rows, atomic_path, read_rows
from coalign.core.progress import progress
from coalign.data.media.hdr import write_hdr
from coalign.measures.media.pictures import psnr, ssim
from coalign.vision.exposures.photometry import to_radiance, tone_mapped
from coalign.vision.exposures.synthesis import Synthesis, as_array, period_of, synthesised, window_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from coalign.vision.exposures.network import HDRNetwork
    from coalign.vision.exposures.shots import Shot

METRICS = {"psnr_mu": "PSNR-μ", "psnr_l": "PSNR-L", "ssim_mu": "SSIM-μ", "ssim_l": "SSIM-L"}
ALONE = "reference_"
"""Before the name of a metric: of the reference frame alone, linearised."""
WINDOW = 7
"""Pixels of SSIM's window; smaller frames have no SSIM."""
EVALUATION = 2**31 - 1
"""Epoch whose windows held-out shots are measured on: none that is trained on."""

Row = dict[str, Any]


def distances(target: NDArray[np.float32], found: NDArray[np.float32]) -> dict[str, float]:
    """The four metrics of radiance [H, W, 3]. PSNR has the range 1: radiance is at most 1 where the darkest exposure
    saturates, tone-mapped or not. SSIM's is the largest less the smallest value of the target, as in the official code.
    """
    pairs = {"l": (target, found), "mu": (_toned(target), _toned(found))}
    measured = {f"psnr_{name}": psnr(*pair, data_range=1.0) for name, pair in pairs.items()}
    if min(target.shape[:2]) >= WINDOW:
        for name, (wanted, made) in pairs.items():
            reach = float(wanted.max() - wanted.min())
            measured[f"ssim_{name}"] = ssim(wanted, made, data_range=reach) if reach > 0 else float("nan")
    return measured


def compared(target: NDArray[np.float32], found: NDArray[np.float32], reference: NDArray[np.float32]) -> Row:
    """The metrics of what was reconstructed, and of the reference frame alone."""
    alone = {f"{ALONE}{name}": value for name, value in distances(target, reference).items()}
    return {
        name: value if np.isfinite(value) else None
        for name, value in {**distances(target, found), **alone}.items()
    }


@torch.no_grad()
def reconstructed(
    network: HDRNetwork, ldr: Sequence[NDArray[np.float32]], exposures: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Radiance [H, W, 3] of a window's middle frame, that of the frame alone, and the mean gate of the other frames."""
    device = next(network.parameters()).device
    frames = torch.stack([torch.from_numpy(np.ascontiguousarray(one.transpose(2, 0, 1))) for one in ldr])
    each = torch.tensor(list(exposures), dtype=torch.float32)
    found, gates = network.with_gates(frames[None].to(device), each[None].to(device))
    middle = len(ldr) // 2
    others = [one for one in range(len(ldr)) if one != middle]
    alone = as_array(to_radiance(frames[middle], each[middle]))
    return as_array(found[0]), alone, float(gates[0, others].mean())


def measure_held_out(
    path: Path, network: Callable[[], HDRNetwork], shots: Sequence[Shot], synthesis: Synthesis, seed: int
) -> list[Row]:
    """A row a held-out shot on windows that are made of it, the same in every run; rows that are there are kept."""
    done = {row["id"]: row for row in read_rows(path, repair=True)}
    with progress(len(shots), "Measuring", "shot") as bar:
        for index, shot in enumerate(shots):
            if shot.id not in done:
                rng = np.random.default_rng([seed, EVALUATION, index])
                windows = synthesised(shot, synthesis, rng)
                ldr = [as_array(one) for one in windows.ldr[0]]
                found, alone, gate = reconstructed(network(), ldr, windows.exposures[0].tolist())
                row = {"id": shot.id, "gate": gate, **compared(as_array(windows.target[0]), found, alone)}
                append_rows(path, [row])
                done[shot.id] = row
            bar.advance()
    return [done[one.id] for one in shots]


def reconstruct_shots(
    path: Path, network: Callable[[], HDRNetwork], shots: Sequence[Shot], folder: Path, suffix: str
) -> list[Row]:
    """Radiance of every frame of every shot as files in `folder`, a row each; rows that are there are kept.

    Raises:
        MediaError: a frame or a target cannot be read, or they differ in size.
    """
    done = {(row["id"], row["frame"]): row for row in read_rows(path, repair=True)}
    with progress(sum(one.count for one in shots), "Reconstructing", "frame") as bar:
        for number, shot in enumerate(shots):
            for place in range(shot.count):
                if (shot.id, place) not in done:
                    row = _frame(network(), number, shot, place, folder, suffix)
                    append_rows(path, [row])
                    done[shot.id, place] = row
                bar.advance()
    return [done[one.id, place] for one in shots for place in range(one.count)]


def _frame(network: HDRNetwork, number: int, shot: Shot, place: int, folder: Path, suffix: str) -> Row:
    from coalign.data.media.errors import MediaError

    assert shot.exposures is not None
    places = window_of(place, network.shape.frames, shot.count, period_of(shot.exposures))
    ldr, exposures = shot.read(places), [shot.exposures[one] for one in places]
    found, alone, gate = reconstructed(network, ldr, exposures)
    target = shot.target(place)
    if target is not None and target.shape != found.shape:
        raise MediaError(
            str(shot.source), f"a target of {target.shape[1]} x {target.shape[0]} pixels for frame {place}",
            f"{found.shape[1]} x {found.shape[0]} as the frames",
        )  # fmt: skip
    file = folder / f"{number:04d}" / f"{place:05d}.{suffix}"
    write_hdr(file, found)
    preview = file.with_suffix(".png")
    write_preview(preview, [ldr[len(ldr) // 2], _toned(found)])
    return {
        "id": shot.id,
        "frame": place,
        "exposure": exposures[len(exposures) // 2],
        "window": places,
        "file": str(file.relative_to(folder.parent)),
        "preview": str(preview.relative_to(folder.parent)),
        "gate": gate,
        **(compared(target.clip(0, 1), found, alone) if target is not None else {}),
    }


def write_preview(path: Path, pictures: Sequence[NDArray[np.float32]]) -> None:
    """Pictures of values from 0 to 1 side by side, as PNG."""
    from PIL import Image

    values = np.concatenate(list(pictures), 1)
    with atomic_path(path) as part:
        Image.fromarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8)).save(part, "PNG")


def _toned(radiance: NDArray[np.float32]) -> NDArray[np.float32]:
    toned: Tensor = tone_mapped(torch.from_numpy(np.ascontiguousarray(radiance)).double())
    return toned.float().numpy()
