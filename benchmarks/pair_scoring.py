"""Image-text pairs a second: the cut of `compress-align` (reward, hash, duplicates) and plain CLIPScore, alternating.

    python benchmarks/pair_scoring.py [--pairs 256] [--batch 32] [--device cuda] [--clock cpu] [--model openai/clip-vit-base-patch32]

Both sides read the same JPEG files with the same encoder in the same batches, A B A B in one process. Plain: Pillow,
`CLIPProcessor`, `CLIPModel`, a cosine. Ours: the step `score` of the pipeline with the learnt reward, which also hashes the
pixels, counts words and turns EXIF; decoding threads are off (`--workers 1`) unless asked for. Without `--model` the encoder
is a CLIP of ViT-B/32's sizes with random weights. Printed are medians of the rounds, their ratio round by round, and the
largest difference of the cosines.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from coalign.curation.image_text.cutting import ScorePairs
from coalign.curation.image_text.reward import EmbeddingReward
from coalign.curation.image_text.scorers import CosineScorer, EmbeddingScorer, Towers
from coalign.data.media.pictures import Picture
from coalign.pairs.encoders import ImageTextEncoder

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WORDS = [
    "a",
    "the",
    "of",
    "on",
    "in",
    "photo",
    "picture",
    "dog",
    "cat",
    "man",
    "woman",
    "red",
    "green",
    "blue",
    "small",
    "large",
    "street",
    "beach",
    "table",
    "tree",
    "house",
    "sky",
]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or str(random_clip(folder / "clip"))
        rows = write_pairs(folder / "pictures", arguments.pairs, arguments.side)
        plain = make_plain(model, arguments.device)
        towers = Towers(ImageTextEncoder.load(model, device=arguments.device))
        reward = EmbeddingReward(towers.encoder.width).to(towers.encoder.device).eval()
        step = ScorePairs(
            "score", lambda: EmbeddingScorer(towers, reward), lambda row: Picture(row["image"]),
            batch=arguments.batch, workers=arguments.workers,
        )  # fmt: skip
        batches = [rows[start : start + arguments.batch] for start in range(0, len(rows), arguments.batch)]
        sides = {"plain CLIPScore": plain, "reward and hash": step}
        report(alternate(batches, sides, arguments.device, CLOCKS[arguments.clock]))
        cosines = CosineScorer(towers)
        pictures = [Image.open(row["image"]).convert("RGB") for row in batches[0]]
        ours = cosines.score(pictures, range(len(pictures)), [row["caption"] for row in batches[0]])
        print(
            f"largest difference of the cosines: {np.abs(np.array(ours) - np.array(plain(batches[0]))).max():.1e}"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=480, help="pixels of the pictures' longer side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock", choices=[*CLOCKS], default="wall", help="cpu where other programs work beside it"
    )
    parser.add_argument("--model")
    return parser.parse_args()


def random_clip(folder: Path) -> Path:
    """A CLIP of ViT-B/32's sizes with random weights, and a tokenizer of words."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from coalign.checks.worlds.drawn.captions import word_tokenizer

    tokenizer = word_tokenizer(WORDS, 77)
    torch.manual_seed(0)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model: Any = CLIPModel(CLIPConfig(text_config=ids))
    model.save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)
    return folder


def write_pairs(folder: Path, count: int, side: int) -> list[dict[str, Any]]:
    """JPEG pictures of smooth noise, and captions of 4 to 12 words."""
    folder.mkdir()
    draw, rows = np.random.default_rng(0), []
    for number in range(count):
        small = draw.integers(0, 256, (side // 16, side // 12, 3), dtype=np.uint8)
        path = folder / f"{number}.jpg"
        Image.fromarray(small).resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(path, quality=90)
        words = draw.choice(WORDS, size=draw.integers(4, 13))
        rows.append({"id": str(number), "image": str(path), "caption": " ".join(words)})
    return rows


def make_plain(model: str, device: str) -> Any:
    """CLIPScore as it is usually written."""
    from transformers import CLIPModel, CLIPProcessor

    clip: Any = CLIPModel.from_pretrained(model)
    clip.to(device).eval()
    processor: Any = CLIPProcessor.from_pretrained(model)

    def score(rows: Sequence[dict[str, Any]]) -> list[float]:
        pictures = [Image.open(row["image"]).convert("RGB") for row in rows]
        inputs = processor(
            images=pictures,
            text=[row["caption"] for row in rows],
            padding=True,
            truncation=True,
            return_tensors="pt",
        ).to(device)
        with torch.no_grad():
            images = clip.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
            texts = clip.get_text_features(input_ids=inputs["input_ids"]).pooler_output
        return torch.nn.functional.cosine_similarity(images, texts).tolist()

    return score


def alternate(
    batches: list[Any], sides: dict[str, Any], device: str, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every batch on either side; the first batch warms up."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for number, batch in enumerate([batches[0], *batches]):
        for name, score in sides.items():
            started = clock()
            score(batch)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if number:
                spent[name].append((clock() - started) / len(batch))
    return spent


def report(spent: dict[str, list[float]]) -> None:
    for name, seconds in spent.items():
        print(f"{name:16s} {1 / statistics.median(seconds):8.1f} pairs a second")
    plain, ours = spent.values()
    ratios = sorted(a / b for a, b in zip(plain, ours, strict=True))
    print(
        f"ratio, batch by batch: median {statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f}"
    )


if __name__ == "__main__":
    main()
