"""Odd pictures, clips and tables, all of our own making: cut, damaged, tiny, of odd modes, with places that overlap."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from coalign.data.media.errors import MediaError
from coalign.data.media.hdr import read_frame, read_hdr
from tests.data.media.making import damaged, encoded, picture, stored_turned, write_clip
from tests.drill.fuzz.bench import Bench, FoundError
from tests.drill.fuzz.hostile import TEXTS, changed, value

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")
KINDS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "ICO")
SIZES = ((1, 1), (1, 400), (300, 1), (7, 5), (33, 20), (64, 64))
CONTAINERS = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx-vp9", "mov": "libx264", "ts": "libx264"}


def odd_picture(draw: Random) -> bytes:
    """A file of a picture in any mode, format and size, often cut or damaged."""
    one = picture(*draw.choice(SIZES), seed=draw.randrange(100))
    mode, kind = draw.choice(MODES), draw.choice(KINDS)
    try:
        if draw.random() < 0.2:
            data = stored_turned(one, draw.randint(1, 8), "JPEG")
        elif draw.random() < 0.2:
            frames = [picture(9, 9, seed) for seed in range(draw.randint(1, 3))]
            data = encoded(
                frames[0],
                draw.choice(("GIF", "PNG", "TIFF", "WEBP")),
                save_all=True,
                append_images=frames[1:],
            )
        else:
            narrow = mode if mode not in ("LAB", "HSV", "I;16") else "L"
            data = encoded(one.convert(narrow), kind)
    except (OSError, ValueError, KeyError):  # a format that does not hold the mode
        data = encoded(one)
    return broken(draw, data)


def broken(draw: Random, data: bytes) -> bytes:
    """The bytes as they are, cut, damaged, doubled, or something else altogether."""
    how = draw.random()
    if how < 0.35:
        return data
    if how < 0.6:
        return data[: draw.randrange(len(data) + 1)]
    if how < 0.85:
        return damaged(data, draw.random())
    return draw.choice(
        (b"", b"\x00", data + data, b"<svg/>", b"<!doctype html>", b"GIF89a", draw.randbytes(50))
    )


def pictures(bench: Bench, draw: Random) -> None:
    """Pictures by file, bytes and URL, alone and in prompts: each record is used or named."""
    rows: list[dict[str, Any]] = []
    for place in range(draw.randint(1, 4)):
        path = bench.folder / f"{place}.{draw.choice(('png', 'jpg', 'gif', 'bin'))}"
        path.write_bytes(odd_picture(draw))
        named = draw.choice(
            (path.name, path.name, str(path), "none.png", "https://example.org/a.png", "", *TEXTS)
        )
        rows.append({"image": named, "caption": draw.choice(("a cat", *TEXTS))})
    if draw.random() < 0.5:
        rows = [{"images": [row["image"]], "prompt": "what is it", "completion": "a cat"} for row in rows]
    file = bench.folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    _counted(bench, str(file), len(rows))


def clips(bench: Bench, draw: Random) -> None:
    """Clips of variable rate, turned, cut and damaged, in a folder: each is decoded or named."""
    suffix = draw.choice([*CONTAINERS])
    times, now = [], draw.choice((0.0, 0.0, 1.5))
    for _ in range(draw.randint(1, 12)):
        times.append(now)
        now += draw.choice((0.04, 0.04, 0.1, 1.3))
    turn = draw.choice((None, None, 90.0, 180.0)) if suffix in ("mp4", "mov") else None
    path = write_clip(
        bench.folder / f"a.{suffix}",
        times,
        codec=CONTAINERS[suffix],
        rotation=turn,
        every=draw.choice((1, 4, 1000)),
    )
    path.write_bytes(broken(draw, path.read_bytes()) or b"x")
    (bench.folder / "a.txt").write_text("a grey square")
    file = bench.folder / "rows.jsonl"
    file.write_text(json.dumps({"video": path.name, "caption": "a grey square"}) + "\n")
    _counted(bench, str(file), 1)


def _counted(bench: Bench, source: str, given: int) -> None:
    """Every record of `data check` is decoded or a problem."""
    result = bench.coalign("data", "check", source, "--json")
    try:
        report = json.loads(result.out)
    except ValueError:
        if result.code == 0:
            raise FoundError(f"no JSON but {result.out[:200]!r}") from None
        return
    if "n_records" in report and report["n_records"] + report["n_bad"] != given:
        raise FoundError(f"{given} records, {report['n_records']} used and {report['n_bad']} reported")


def light(bench: Bench, draw: Random) -> None:
    """OpenEXR and Radiance with NaN, infinite and negative values, cut and damaged: finite values, or a problem by name."""
    made = draw.choice((exr, radiance))
    data = broken(draw, made(bench.folder, draw))
    for read in (read_hdr, read_frame):
        try:
            values = read(data, name="made")
        except MediaError as error:
            if not error.problem or error.file != "made":
                raise FoundError(f"a problem without its file: {error}") from error
        else:
            if values.ndim != 3 or values.shape[2] != 3 or not np.isfinite(values).all() or values.min() < 0:
                raise FoundError(
                    f"{read.__name__}: values of {values.shape} from {values.min()} to {values.max()}"
                )


def _values(draw: Random) -> np.ndarray[Any, Any]:
    height, width = draw.choice(((1, 1), (3, 5), (17, 9)))
    values = np.random.default_rng(draw.randrange(99)).uniform(0, 9, (height, width, 3)).astype(np.float32)
    values[0, 0, 0] = draw.choice((0.0, 1.0, -1.0, np.nan, np.inf, 1e30, -0.0))
    return values


def exr(folder: Path, draw: Random) -> bytes:
    """An OpenEXR file with channels under usual and unusual names."""
    import OpenEXR

    library: Any = OpenEXR
    values = _values(draw)
    names = draw.choice(("RGB", "RGB", "RGBA", "Y", "XYZ", ("a.R", "a.G", "a.B")))
    channels = {name: np.ascontiguousarray(values[..., min(place, 2)]) for place, name in enumerate(names)}
    header = {"compression": library.ZIP_COMPRESSION, "type": library.scanlineimage}
    path = folder / "made.exr"
    library.File(header, channels).write(str(path))
    return path.read_bytes()


def radiance(folder: Path, draw: Random) -> bytes:
    """A Radiance file without run lengths."""
    values = np.clip(np.nan_to_num(_values(draw), posinf=1.0), 0, 100)
    mantissa, exponent = np.frexp(values.max(-1))
    scale = np.where(values.max(-1) > 0, mantissa * 256 / np.maximum(values.max(-1), 1e-30), 0)
    pixels = np.concatenate([values * scale[..., None], (exponent + 128)[..., None]], -1)
    head = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {values.shape[0]} +X {values.shape[1]}\n"
    return head.encode() + np.clip(pixels, 0, 255).astype(np.uint8).tobytes()


def odd_table(draw: Random) -> str:
    """A row of a table as JSON: with spans that overlap, gaps, no rows, boxes that are none, or something else altogether."""
    if draw.random() < 0.1:
        return value(draw)
    if draw.random() < 0.3:
        spans = draw.choice(
            ('colspan="2"', 'rowspan="0"', 'rowspan="99999"', 'colspan="-1"', "colspan=x", "")
        )
        end = draw.choice(("", "</table>", "<table><tr><td>"))
        return changed(draw, {"html": f"<table><tr><td {spans}>a<td>b<tr><td>c{end}", "id": "t"})
    cells = []
    for _ in range(draw.choice((0, 1, 4, 9))):
        row, column = draw.randrange(4), draw.randrange(4)
        cell: dict[str, Any] = {
            "row_nums": [*range(row, row + draw.choice((1, 1, 2, 3)))],
            "column_nums": [*range(column, column + draw.choice((1, 1, 2)))],
            "cell_text": draw.choice(("", "total", "1,024", "x" * 300, *TEXTS)),
        }
        if draw.random() < 0.6:
            cell["bbox"] = [draw.choice((0, 1, -5, 1e9, 10.5)) for _ in range(draw.choice((4, 4, 4, 3)))]
        cells.append(cell)
    if cells and draw.random() < 0.3:
        some = ", ".join([changed(draw, cells[0]), *map(json.dumps, cells[1:])])
        return f'{{"id": "t", "cells": [{some}]}}'
    row = {"id": draw.choice(("t", "t", *TEXTS)), "cells": cells}
    return changed(draw, row) if draw.random() < 0.3 else json.dumps(row)


def tables(bench: Bench, draw: Random) -> None:
    """Tables to score and to put right: every one is compared, counted or named."""
    files: list[Path] = []
    for name in ("true.jsonl", "predicted.jsonl"):
        files.append(bench.folder / name)
        text = "".join(f"{odd_table(draw)}\n" for _ in range(draw.randint(1, 3)))
        files[-1].write_bytes(text.encode("utf-8", "surrogatepass"))
    skip = draw.choice((("--on-bad-record", "skip"), ()))
    if draw.random() < 0.6:
        bench.coalign("score", "grits", str(files[1]), "--truth", str(files[0]), *skip)
    else:
        out = str(bench.folder / "run")
        bench.coalign("run", "tsr-alignment", "--data", str(files[0]), "--out", out, *skip)


MEDIA: dict[str, tuple[Callable[[Bench, Random], None], int]] = {
    "pictures": (pictures, 10),
    "clips": (clips, 4),
    "high dynamic range": (light, 6),
    "tables": (tables, 8),
}
"""As `tests.drill.fuzz.targets.TARGETS`."""
