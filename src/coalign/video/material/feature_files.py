"""Ready features of a video: [T, D] out of .npy, .npz, .safetensors and .parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coalign.core.errors import CoalignError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = ("features", "embeddings", "feature", "embedding")
"""What an array, or a column, is called in a file that holds several."""
_ID_COLUMNS = ("video_id", "id")


class FeatureError(CoalignError):
    """A file of features that cannot be used, as `file: problem, expected`."""

    def __init__(self, path: Path, problem: str, expected: str) -> None:
        super().__init__(f"{path}: {problem}, expected {expected}.")


def read_features(path: Path, name: str) -> NDArray[np.float32]:
    """[T, D] features, a row a frame or a sentence.

    Args:
        name: of the video: in a file of several arrays its own is taken (.npz, .safetensors: an array of that name; .parquet: the
            rows with that `video_id`), else the only one, else one called `features`.

    Raises:
        FeatureError: absent, damaged, no such array, not [T, D] with a row, or values that are not finite.
    """
    try:
        found = np.asarray(_READERS[path.suffix.lower()](path, name), dtype=np.float32)
    except KeyError as error:
        raise FeatureError(
            path, f"no array {error.args[0] if error.args else '?'!s}", f"one called {name!r} or 'features'"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise FeatureError(
            path, f"cannot be read ({str(error).splitlines()[0]})", "whole features"
        ) from error
    if found.ndim == 1 and len(found):
        found = found[None]
    if found.ndim != 2 or not found.size:
        raise FeatureError(path, f"the shape {found.shape}", "[frames, width] with a frame at least")
    if not np.isfinite(found).all():
        bad = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
        raise FeatureError(path, f"row {bad} has a value that is no number", "finite numbers")
    return found


def _npy(path: Path, name: str) -> Any:
    return np.load(path, allow_pickle=False)


def _npz(path: Path, name: str) -> Any:
    with np.load(path, allow_pickle=False) as file:
        return file[_chosen(list(file.files), name)]


def _safetensors(path: Path, name: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return file.get_tensor(_chosen(list(file.keys()), name)).float().numpy()
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _parquet(path: Path, name: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    column = _chosen([one for one in table.column_names if one not in _ID_COLUMNS], name)
    ids = next((one for one in _ID_COLUMNS if one in table.column_names), None)
    rows = table[column].to_pylist()
    if ids is not None:
        rows = [row for row, own in zip(rows, table[ids].to_pylist(), strict=True) if str(own) == name]
    return rows


def _chosen(names: list[str], name: str) -> str:
    """Raises: KeyError: none of them is meant."""
    if name in names:
        return name
    if len(names) == 1:
        return names[0]
    return next(one for one in (*NAMES, None) if one is None or one in names) or _missing(names)


def _missing(names: list[str]) -> str:
    raise KeyError(f"among {', '.join(names[:5])}" if names else "in it")


_READERS = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}
