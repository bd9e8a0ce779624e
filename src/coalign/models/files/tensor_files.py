"""Tensors out of `.ckpt`, `.pt` and `.bin` files without running what their pickle says.

Such a file is a zip archive: a pickle that describes objects, and one member a tensor storage. Unpickling as Python
does it runs any function that the file names. `read_tensors` interprets the pickle with a table of its own: tensors
become descriptions, plain containers are kept, classes that trainers leave in a checkpoint (paths, callbacks, optimizer
settings) become inert placeholders, and any other name refuses the file. Storages are read only for the tensors that
are asked for, so the optimizer state of a checkpoint costs nothing.
"""

from __future__ import annotations

import collections
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import ModelError, in_one_line

if TYPE_CHECKING:
    from torch import Tensor

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_INERT_MODULES = (
    "pathlib",
    "datetime",
    "argparse",
    "numpy",
    "torch.optim",
    "torch.torch_version",
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "omegaconf",
)
"""Packages whose objects lie in checkpoints beside the weights. Nothing of them is imported or called."""
_INERT_NAMES = {
    ("torch", "device"),
    ("torch", "dtype"),
    ("torch", "Size"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "complex"),
    ("builtins", "slice"),
    ("collections", "defaultdict"),
    ("collections", "Counter"),
}


@dataclass(frozen=True)
class _Stored:
    """A tensor that was not read yet."""

    dtype: torch.dtype
    key: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str


class _Inert:
    """Stands for an object that is not a tensor; takes whatever a pickle does to it and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...

    def add(self, item: Any) -> None: ...


class _Reader(pickle.Unpickler):
    """Interprets a pickle by a fixed table of names."""

    def find_class(self, module: str, name: str) -> Any:
        match (module, name):
            case ("collections", "OrderedDict"):
                return collections.OrderedDict
            case ("torch._utils", "_rebuild_tensor_v2"):
                return _describe
            case ("torch._utils", "_rebuild_parameter"):
                return _parameter
            case ("torch" | "torch.storage", one) if one in _STORAGES:
                return getattr(torch, _STORAGES[one])
            case _:
                pass
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return _Inert()
        inert = (module, name) in _INERT_NAMES or any(
            module == package or module.startswith(package + ".") for package in _INERT_MODULES
        )
        if inert:
            return _Inert
        raise _RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", torch.dtype() as dtype, str() as key, _, _):
                return _Storage(dtype, key)
            case _:
                raise _RefusedError(f"a reference to {pid!r}")


class _RefusedError(Exception):
    """The pickle names something that is neither a tensor nor known to be harmless."""


def read_tensors(
    path: Path, *, key: str | None = "state_dict", keep: Callable[[str], bool] = lambda name: True
) -> dict[str, Tensor]:
    """The tensors of a PyTorch file by name, on the CPU, in the formats in which they were stored.

    Args:
        path: a file that `torch.save` wrote (PyTorch 1.6 or newer).
        key: entry of the file's mapping that holds them; None when the file is that mapping itself.
        keep: which names are read.

    Raises:
        ModelError: no such file, not such a file, damaged, without the entry, or one whose pickle names a function or
            class that has no place in a checkpoint (nothing of it was run).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(archive, path)
            with archive.open(f"{root}/data.pkl") as file:
                content = _Reader(file).load()
            held = content if key is None else content.get(key) if isinstance(content, Mapping) else None
            if not isinstance(held, Mapping):
                found = (
                    ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
                )
                raise ModelError(f"{path}: holds no mapping {key!r}, only: {found[:200]}.")
            return {
                str(name): _read(archive, root, value)
                for name, value in held.items()
                if isinstance(value, _Stored) and keep(str(name))
            }
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file.") from error
    except zipfile.BadZipFile as error:
        raise ModelError(
            f"{path}: not a checkpoint of PyTorch 1.6 or newer, or cut off ({error}).",
            hint="Fetch it again; write an old one again with a current PyTorch.",
        ) from error
    except _RefusedError as error:
        raise ModelError(
            f"{path}: its pickle names {error}, which has no place among weights. The file was not loaded, and nothing of "
            "it was run.",
            hint="Take a copy in safetensors from somebody you trust.",
        ) from error
    except (
        pickle.UnpicklingError,
        KeyError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        OSError,
    ) as error:
        raise ModelError(f"{path}: damaged ({in_one_line(error)}).", hint="Fetch it again.") from error


def _root(archive: zipfile.ZipFile, path: Path) -> str:
    for name in archive.namelist():
        if name.endswith("/data.pkl") and name.count("/") == 1:
            return name.partition("/")[0]
    raise ModelError(f"{path}: a zip archive, but not of tensors: it holds no data.pkl.")


def _describe(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any
) -> _Stored:
    if not isinstance(storage, _Storage):
        raise _RefusedError("a tensor without storage")
    return _Stored(storage.dtype, storage.key, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _read(archive: zipfile.ZipFile, root: str, stored: _Stored) -> Tensor:
    if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
        raise ValueError("big-endian storages")
    data = bytearray(archive.read(f"{root}/data/{stored.key}"))
    flat = torch.frombuffer(data, dtype=stored.dtype) if data else torch.empty(0, dtype=stored.dtype)
    last = stored.offset + sum((n - 1) * step for n, step in zip(stored.size, stored.stride, strict=True))
    if 0 in stored.size:
        return torch.empty(stored.size, dtype=stored.dtype)
    if min((stored.offset, *stored.size, *stored.stride)) < 0 or last >= len(flat):
        raise ValueError(f"a tensor of shape {stored.size} reaches beyond its storage of {len(flat)}")
    return flat.as_strided(stored.size, stored.stride, stored.offset).clone()
