"""The weights of a model folder one tensor at a time, so that merging holds one tensor of each model in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ModelError
from coalign.models.files.places import Location, locate
from coalign.models.files.stored import cached_path
from coalign.models.options import ModelOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class StoredWeights:
    """The weights of a whole model on disk, by name. Make one with `stored_weights`.

    A model that ties its head to its embedding stores one of the two; it answers for both, so that it can be merged with
    one that has them apart.

    Attributes:
        name: what the user called the model.
        config: its `config.json`.
        generation: the file of its generation settings, None where it has none.
        names: of its tensors, as stored.
    """

    def __init__(self, name: str, place: Location) -> None:
        from safetensors import SafetensorError, safe_open

        self.name = name
        self.config = _config(place)
        generation = cached_path(place, "generation_config.json")
        self.generation = Path(generation) if generation else None
        self._files: dict[str, Any] = {}
        self._where: dict[str, str] = {}
        for file in _weight_files(place, name):
            try:
                opened = safe_open(file, "pt")
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{file}: is no whole safetensors file ({error}).") from error
            self._files[file] = opened
            self._where |= dict.fromkeys(opened.keys(), file)
        self.names = tuple(self._where)
        self._tied = _tied(self.config, self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._where or name in self._tied

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it."""
        name = self._tied.get(name, name)
        return tuple(self._files[self._where[name]].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """The tensor in the format in which it is stored.

        Raises:
            ModelError: its file is damaged.
        """
        from safetensors import SafetensorError

        name = self._tied.get(name, name)
        try:
            return self._files[self._where[name]].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{self._where[name]}: {name}: cannot be read ({error}).") from error


def stored_weights(options: ModelOptions, folded: Path) -> StoredWeights:
    """The weights of a model by name, folder, run or hub id. An adapter of any kind is first merged into its base.

    Args:
        options: `model`, `revision`, and how an adapter's base is loaded.
        folded: where the merged model of an adapter is written.

    Raises:
        ModelError: it is not there, or not in safetensors.
    """
    place = locate(options.model, options.revision)
    if not place.is_adapter:
        return StoredWeights(options.model, place)
    from coalign.models.files.loading import load_model, load_tokenizer
    from coalign.models.files.saving import save_model

    save_model(load_model(options, training=True), load_tokenizer(options), folded)
    return StoredWeights(options.model, Location(str(folded), str(folded)))


def write_weights(
    shapes: dict[str, tuple[int, ...]],
    make: Callable[[str], Tensor],
    folder: Path,
    dtype: torch.dtype,
    *,
    largest: int,
) -> Iterator[str]:
    """Write tensors into `folder` in Hugging Face's layout, sharded, and yield the name of each that is done.

    Args:
        shapes: of all tensors, in the order in which they are made.
        make: a tensor by name.
        dtype: floating tensors are written in it.
        largest: bytes of a shard, if no tensor is larger.
    """
    from safetensors.torch import save_file

    shards = _shards(shapes, dtype.itemsize, largest)
    files = [
        _WHOLE if len(shards) == 1 else f"model-{n:05d}-of-{len(shards):05d}.safetensors"
        for n in range(1, len(shards) + 1)
    ]
    size = 0
    for file, names in zip(files, shards, strict=True):
        tensors = {}
        for name in names:
            made = make(name)
            tensors[name] = (made.to(dtype) if made.is_floating_point() else made).contiguous()
            yield name
        size += sum(one.nbytes for one in tensors.values())
        save_file(tensors, str(folder / file), metadata={"format": "pt"})
    if len(shards) > 1:
        where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (folder / _INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _shards(shapes: dict[str, tuple[int, ...]], width: int, largest: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    used = 0
    for name, shape in shapes.items():
        size = width
        for side in shape:
            size *= side
        if shards[-1] and used + size > largest:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _config(place: Location) -> dict[str, Any]:
    path = cached_path(place, "config.json")
    if path is None:
        raise ModelError(f"{place.name} has no config.json.")
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _weight_files(place: Location, name: str) -> list[str]:
    whole = cached_path(place, _WHOLE)
    if whole:
        return [whole]
    index = cached_path(place, _INDEX)
    if index is None:
        raise ModelError(
            f"{name} has no {_WHOLE} and no {_INDEX}.",
            hint="Merging reads safetensors: load the model with Transformers and save it.",
        )
    shards = sorted({*json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()})
    found = {shard: cached_path(place, shard) for shard in shards}
    missing = [shard for shard, path in found.items() if path is None]
    if missing:
        raise ModelError(f"{name} lacks {missing[0]}, which its index names.")
    return [path for path in found.values() if path]


def _tied(config: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """Names that are not stored, since another tensor stands for them."""
    text = config.get("text_config") or config
    if not config.get("tie_word_embeddings", text.get("tie_word_embeddings", True)):
        return {}
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(config)
    kind = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForCausalLM._model_mapping.get(type(kind), None)  # type: ignore[attr-defined]
    keys = getattr(model, "_tied_weights_keys", None)
    pairs = keys.items() if isinstance(keys, dict) else ()
    return {head: source for head, source in pairs if head not in names and source in names}
