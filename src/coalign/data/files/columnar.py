"""Rows of Parquet files and of data sets on disk or of the hub, as plain values."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import DataError, RecordProblem
from coalign.core.files import parse_json
from coalign.data.files.hub import TAKEN, date_of, hub_problem, offline

if TYPE_CHECKING:
    import pyarrow as pa


class NoRowsError(DataError):
    """A source of a known format that holds no row."""


Decode = Callable[[Any], Any]
_ABSENT = (OverflowError, ValueError)
"""What Arrow raises for values that Python does not have."""

Values = tuple[dict[str, Any] | None, RecordProblem | None]
"""A row's columns, or what is wrong with it."""


def parquet_values(
    path: Path, name: str, groups: Sequence[int] | None = None, first: int = 0
) -> Iterator[Values]:
    """The rows of a Parquet file, a batch in memory at a time.

    Columns of Arrow's type `arrow.json` (and of Parquet's logical type JSON) are decoded, also inside lists and
    structs: so `datasets` writes columns whose rows differ in form. Decimals become numbers.

    Args:
        groups: row groups that are read, all by default; `first` is the position of their first row in the file.

    Raises:
        DataError: damaged, no Parquet, or without rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows == 0:
                raise NoRowsError(f"{name}: the file has no rows.")
            decoders = {
                one.name: decode
                for one in file.schema_arrow
                if (decode := _decoder(one.type, one.metadata)) is not None
            }
            index = first
            for batch in file.iter_batches(row_groups=groups):
                for value, problem in _values_of(batch, name, index):
                    yield _decoded(value, decoders, name, index) if value is not None else (None, problem)
                    index += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{name}: not a readable Parquet file ({error}).", hint="Fetch or write it again."
        ) from error


def _values_of(batch: pa.RecordBatch, name: str, start: int) -> Iterator[Values]:
    """The rows of a batch; a value that Python does not have (a time beyond the year 9999) makes a bad record."""
    try:
        yield from ((value, None) for value in batch.to_pylist())
    except _ABSENT:
        for at in range(batch.num_rows):
            yield _row_of(dict(zip(batch.schema.names, batch.columns, strict=True)), name, start, at)


def _row_of(columns: Mapping[str, pa.Array], name: str, start: int, at: int) -> Values:
    row = {}
    for column, cells in columns.items():
        try:
            row[column] = cells[at].as_py()
        except _ABSENT as error:
            problem = f"a {cells.type} that cannot be read ({error})"
            return None, RecordProblem(name, None, column, problem, "a value that can be", start + at)
    return row, None


def saved_values(path: Path, split: str) -> Iterator[Values]:
    """The rows of a folder that `datasets` saved. Pictures, clips and sound stay as they are stored (`bytes`, `path`)."""
    return _dataset_values(_saved(path, split), str(path))


def hub_values(name: str, split: str) -> Iterator[Values]:
    """The rows of a data set of the hub, `owner/name` or `owner/name:configuration`; media as in `saved_values`."""
    return _dataset_values(_of_hub(name, split), name)


def class_names(source: str | Path, split: str, column: str) -> list[str] | None:
    """The names of the classes whose numbers a column of a data set has (`ClassLabel`); None where it has none.

    Args:
        source: a Parquet file, a folder that `datasets` saved, or a hub id.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(source)
    if path.is_file():
        try:
            told = parse_json((pq.read_schema(path).metadata or {}).get(b"huggingface", b"{}").decode())
            feature = told["info"]["features"][column]
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
            return None
        return feature.get("names") if isinstance(feature, dict) else None
    loaded = _saved(path, split) if path.is_dir() else _of_hub(str(source), split)
    return getattr(loaded.features.get(column), "names", None)


def _saved(path: Path, split: str) -> Any:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:
        raise DataError(f"{path}: the saved data set cannot be read ({error}).") from error
    return _split_of(loaded, str(path), split)


def _of_hub(name: str, split: str) -> Any:
    import datasets

    identifier, _, configuration = name.partition(":")
    problem = hub_problem()
    try:
        with offline() if problem else contextlib.nullcontext():
            loaded = datasets.load_dataset(identifier, configuration or None)
    except Exception as error:
        found = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = f"it cannot be reached: {problem}" if problem else found
        raise DataError(
            f"{name}: no such file, and no data set of this name could be loaded from the hub ({reason}).",
            hint="Check the path, the name (owner/name or owner/name:configuration) and the connection.",
        ) from error
    one = _split_of(loaded, name, split)
    if problem and one.cache_files:
        TAKEN[name] = date_of(one.cache_files[0]["filename"])
    return one


def _split_of(loaded: Any, name: str, split: str) -> Any:
    import datasets

    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(
                f"{name}: no split {split!r}, only: {', '.join(map(str, loaded))}.", hint="Give a split."
            )
        loaded = loaded[split]
    if len(loaded) == 0:
        raise NoRowsError(f"{name}: the data set has no rows.")
    for column, feature in loaded.features.items():
        stored = _stored(feature)
        if stored != feature:
            loaded = loaded.cast_column(column, stored)
    return loaded


def _stored(feature: Any) -> Any:
    """A feature of a data set whose pictures, clips and sound are not decoded."""
    if isinstance(feature, dict):
        return {name: _stored(one) for name, one in feature.items()}
    if type(feature).__name__ in ("Image", "Video", "Audio") and feature.decode:
        return dataclasses.replace(feature, decode=False)
    if hasattr(feature, "feature"):
        return dataclasses.replace(feature, feature=_stored(feature.feature))
    return feature


def _dataset_values(loaded: Any, name: str) -> Iterator[Values]:
    decoders = {
        one.name: decode
        for one in loaded.features.arrow_schema
        # The library decodes JSON itself; what it leaves as it is are decimals.
        if (decode := _decoder(one.type, None, json_too=False)) is not None
    }
    return (
        (None, problem) if value is None else _decoded(value, decoders, name, index)
        for index, (value, problem) in enumerate(_rows_in(loaded, name))
    )


def _rows_in(loaded: Any, name: str) -> Iterator[Values]:
    """The rows of a loaded data set, one by one from the first one on that cannot be read."""
    index = 0
    try:
        for value in loaded:
            yield dict(value), None
            index += 1
    except _ABSENT:
        for at in range(index, len(loaded)):
            try:
                yield dict(loaded[at]), None
            except _ABSENT as error:
                yield (
                    None,
                    RecordProblem(name, None, "row", f"cannot be read ({error})", "values that can be", at),
                )


def _decoded(value: dict[str, Any], decoders: dict[str, Decode], name: str, index: int) -> Values:
    for column, decode in decoders.items():
        try:
            value[column] = decode(value[column])
        except ValueError as error:
            problem = f"declared as JSON and not JSON ({error})"
            return None, RecordProblem(name, None, column, problem, "JSON", index)
    return value, None


def _decoder(
    kind: pa.DataType, metadata: dict[bytes, bytes] | None, *, json_too: bool = True
) -> Decode | None:
    """What makes plain values of those of a type; None where they are plain."""
    import pyarrow as pa

    extension = (
        getattr(kind, "extension_name", None) or (metadata or {}).get(b"ARROW:extension:name", b"").decode()
    )
    if extension == "arrow.json":
        return _from_json if json_too else None
    if isinstance(kind, pa.BaseExtensionType):
        return _decoder(kind.storage_type, None, json_too=json_too)
    if pa.types.is_decimal(kind):
        return _from_decimal
    if pa.types.is_dictionary(kind):
        return _decoder(kind.value_type, None, json_too=json_too)
    if pa.types.is_struct(kind):
        fields = {
            one.name: decode
            for one in kind
            if (decode := _decoder(one.type, one.metadata, json_too=json_too)) is not None
        }
        return (lambda value: _each_field(value, fields)) if fields else None
    if pa.types.is_map(kind):
        parts = [
            _decoder(one.type, one.metadata, json_too=json_too) for one in (kind.key_field, kind.item_field)
        ]
        return (lambda value: _each_pair(value, parts)) if any(parts) else None
    if hasattr(kind, "value_field"):  # lists of every layout
        inner = _decoder(kind.value_field.type, kind.value_field.metadata, json_too=json_too)
        return (lambda value: None if value is None else [inner(one) for one in value]) if inner else None
    return None


def _from_json(value: str | None) -> Any:
    return None if value is None else parse_json(value)


def _from_decimal(value: Decimal | None) -> int | float | None:
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)


def _each_field(value: dict[str, Any] | None, fields: dict[str, Decode]) -> Any:
    if value is None:
        return None
    return {name: fields[name](one) if name in fields else one for name, one in value.items()}


def _each_pair(value: list[tuple[Any, Any]] | None, parts: list[Decode | None]) -> Any:
    if value is None:
        return None
    return [
        tuple(part(one) if part else one for part, one in zip(parts, pair, strict=True)) for pair in value
    ]
