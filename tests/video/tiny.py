"""Tiny videos for tests: drawn clips, features that say which sentence is shown, transcripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ("pan", "egg", "salt", "oven", "bread", "knife")
WIDTH = 8


def sentences(order: Sequence[int], span: int = 3) -> list[dict[str, Any]]:
    """A sentence for each of `span` seconds, in turn."""
    return [
        {"text": f"Take the {WORDS[word]}.", "start": place * span, "end": place * span + span - 1}
        for place, word in enumerate(order)
    ]


def features(path: Path, order: Sequence[int], span: int = 3, seed: int = 0) -> Path:
    """[T, WIDTH] frames near the direction of what is shown."""
    draw = np.random.default_rng(seed)
    rows = [np.eye(WIDTH)[word] + 0.1 * draw.standard_normal(WIDTH) for word in order for _ in range(span)]
    np.save(path, np.array(rows, dtype=np.float32))
    return path


def videos(path: Path, count: int = 6, *, text_features: bool = False) -> Path:
    """Records with features of their own beside them."""
    draw = np.random.default_rng(1)
    rows = []
    for number in range(count):
        order = draw.permutation(len(WORDS))[:4].tolist()
        made = features(path.with_name(f"{path.stem}-v{number}.npy"), order, seed=number)
        row: dict[str, Any] = {"video_id": f"v{number}", "features": made.name, "sentences": sentences(order)}
        if text_features:
            texts = path.with_name(f"{path.stem}-t{number}.npy")
            np.save(texts, np.eye(WIDTH, dtype=np.float32)[order])
            row["text_features"] = texts.name
        if number == 0:
            row["sentences"][0] |= {"alignable": False}
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def clip(path: Path, colours: Sequence[tuple[int, int, int]], *, fps: int = 4, span: int = 1) -> Path:
    """A clip of plain colours, each `span` seconds."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for colour in colours:
            for _ in range(fps * span):
                pixels = np.full((32, 32, 3), colour, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def drawn_clips(path: Path, count: int = 6) -> Path:
    """Records of drawn clips, each a folder of pictures beside them; the first clip has two captions."""
    from PIL import Image

    from coalign.checks.worlds.drawn.moving import moving_clips

    rows = []
    for number, one in enumerate(moving_clips(count, 1, distinct=True)):
        place = path.with_name(f"{path.stem}-c{number}")
        place.mkdir(exist_ok=True)
        for frame, picture in enumerate(one.frames[: 2 + number % 3]):
            pixels = (picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{frame}.png")
        rows.append({"video": place.name, "video_id": f"c{number}", "caption": one.caption})
    rows.append({**rows[0], "caption": "another one of the first"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def save_image_text_model(folder: Path) -> Path:
    """A CLIP with random weights."""
    from coalign.checks.worlds.drawn.small_clip import new_small_clip, save_small_clip

    save_small_clip(folder, *new_small_clip(0))
    return folder
