"""Features of pictures and texts, kept on disk by content, model and preprocessing, so that nothing is encoded twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.cache import cache_root
from coalign.core.progress import progress
from coalign.data.media.pictures import open_picture, picture_hash

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coalign.pairs.encoders import Encoded, ImageTextEncoder

Features = Mapping[str, "Tensor"]


class FeatureCache:
    """Tensors by key in one SQLite file, safe for several processes.

    Args:
        identity: of whatever makes the features; another one has another file.
        folder: None: `features` under the cache of coalign.
    """

    def __init__(self, identity: str, folder: Path | None = None) -> None:
        folder = folder if folder is not None else cache_root() / "features"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.sqlite"
        with self._open() as store:
            store.execute("CREATE TABLE IF NOT EXISTS features (key TEXT PRIMARY KEY, value BLOB NOT NULL)")

    def get(self, keys: Sequence[str]) -> dict[str, Features]:
        """What is known of `keys`."""
        from safetensors.torch import load

        found: dict[str, Features] = {}
        with self._open() as store:
            for start in range(0, len(keys), 500):
                part = list(keys[start : start + 500])
                marks = ",".join("?" * len(part))
                rows = store.execute(f"SELECT key, value FROM features WHERE key IN ({marks})", part)
                found |= {key: load(value) for key, value in rows}
        return found

    def put(self, features: Mapping[str, Features]) -> None:
        """Keep features; all of them or none."""
        from safetensors.torch import save

        rows = [
            (key, save({name: one.contiguous() for name, one in value.items()}))
            for key, value in features.items()
        ]
        with self._open() as store:
            store.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)

    def _open(self) -> Any:
        return _Transaction(self.path)

    def filled(
        self,
        keys: Sequence[str],
        make: Callable[[list[int]], Sequence[Features]],
        *,
        batch_size: int,
        label: str,
        unit: str = "picture",
    ) -> list[Features]:
        """The features of `keys`, those that are not known made in batches and kept after each.

        Args:
            make: features of the places in `keys` that it is given.
        """
        known = self.get(list(dict.fromkeys(keys)))
        missing = [
            place for key, place in {key: at for at, key in enumerate(keys)}.items() if key not in known
        ]
        with progress(len(missing), label, unit) as bar:
            for start in range(0, len(missing), batch_size):
                places = missing[start : start + batch_size]
                made = {keys[place]: one for place, one in zip(places, make(places), strict=True)}
                self.put(made)
                known |= made
                bar.advance(len(places))
        return [known[key] for key in keys]


class _Transaction:
    """A connection for one block, closed after it; committed where nothing was raised."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        self._store = sqlite3.connect(self._path, timeout=60)
        return self._store

    def __exit__(self, kind: Any, *_rest: Any) -> None:
        if kind is None:
            self._store.commit()
        self._store.close()


def encoder_identity(encoder: ImageTextEncoder) -> str:
    """A hash over weights, image processing and tokenizer: what the features depend on."""
    processing = {
        key: value for key, value in encoder.processor.to_dict().items() if key != "_processor_class"
    }
    tokens = encoder.tokenizer.get_vocab()
    said = json.dumps([processing, sorted(tokens.items())], sort_keys=True, default=str)
    digest = hashlib.sha256(said.encode())
    digest.update(str(encoder.model.config.to_dict()).encode())
    digest.update(weights_hash(encoder.model).encode())
    return digest.hexdigest()


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, formats and values of a module's parameters and kept buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def image_features(
    encoder: ImageTextEncoder,
    pictures: Sequence[Any],
    *,
    batch_size: int = 64,
    cache: FeatureCache | None = None,
    tokens: bool = False,
) -> list[Features]:
    """`pooled` [D] of each picture, and with `tokens` its `tokens` [N, D_v], on the CPU in float32.

    Args:
        pictures: whatever `open_picture` takes.
        cache: of `encoder_identity(encoder)`; None computes everything.

    Raises:
        MediaError: a picture that cannot be read.
    """
    kind = "tokens" if tokens else "pooled"
    keys = [f"image/{kind}/{picture_hash(one)}" for one in pictures] if cache is not None else []

    def make(places: list[int]) -> list[Features]:
        with torch.inference_mode():
            pixels = encoder.pixels(open_picture(pictures[place]) for place in places)
            return list(_rows(encoder.image(pixels), tokens))

    return _all(make, keys, len(pictures), batch_size, cache, "features of pictures", "picture")


def text_features(
    encoder: ImageTextEncoder,
    texts: Sequence[str],
    *,
    batch_size: int = 256,
    cache: FeatureCache | None = None,
    tokens: bool = False,
) -> list[Features]:
    """`pooled` [D] of each text, and with `tokens` its `tokens` [N, D_t] without padding, on the CPU in float32."""
    kind = "tokens" if tokens else "pooled"
    keys = [f"text/{kind}/{hashlib.sha256(one.encode()).hexdigest()}" for one in texts] if cache else []

    def make(places: list[int]) -> list[Features]:
        with torch.inference_mode():
            ids = encoder.ids([texts[place] for place in places])
            return list(_rows(encoder.text(ids), tokens))

    return _all(make, keys, len(texts), batch_size, cache, "features of texts", "text")


def stacked(features: Sequence[Features], name: str = "pooled") -> Tensor:
    """[N, ...] one of the tensors of each."""
    return torch.stack([one[name] for one in features])


def _rows(encoded: Encoded, tokens: bool) -> Iterator[Features]:
    for row, pooled in enumerate(encoded.pooled.float().cpu()):
        one = {"pooled": pooled.clone()}
        if tokens:
            states = encoded.tokens[row]
            kept = states if encoded.mask is None else states[encoded.mask[row]]
            one["tokens"] = kept.float().cpu().clone()
        yield one


def _all(
    make: Callable[[list[int]], list[Features]],
    keys: Sequence[str],
    count: int,
    batch_size: int,
    cache: FeatureCache | None,
    label: str,
    unit: str,
) -> list[Features]:
    if cache is not None:
        return cache.filled(keys, make, batch_size=batch_size, label=label, unit=unit)
    found: list[Features] = []
    with progress(count, label, unit) as bar:
        for start in range(0, count, batch_size):
            found += make(list(range(start, min(start + batch_size, count))))
            bar.advance(min(batch_size, count - start))
    return found
