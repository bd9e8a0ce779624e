"""What records are read from, as options name it: one source, or a mix of several with weights, caps and tags.

On a command line a source is `PATH` or `PATH,KEY=VALUE,...`; in a YAML file text of the same form or a mapping::

    data: [{path: helpful.jsonl, weight: 2, max: 1000, tag: helpful, columns: {prompt: question}}, harmless.jsonl]

A text that is the path of a file is that file, whatever it looks like.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from coalign.core.names import suggest
from coalign.data.columns import BESIDE, PARTS
from coalign.data.records import KINDS, Kind

DataSources = Annotated[
    str | dict[str, Any] | list[str | dict[str, Any]],
    "a source (PATH, or PATH,weight=2,max=1000,tag=NAME,...), or a list of sources",
]
"""Type of an option that names records to learn from; `canonical_sources` is its form in a configuration."""
Sources = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
"""What such an option holds."""
ColumnNames = Annotated[
    str | list[str] | dict[str, str], "NAME=COLUMN, a list of these, or NAME: COLUMN in a YAML file"
]
"""Type of an option that maps names of records to columns of a file; `canonical_columns` is its form."""

KEYS = ("weight", "max", "tag", "split", "kind")
"""What may be said of a source in a text, beside `column.NAME=COLUMN`."""
LARGEST_WEIGHT = 1000
_VALUES = r"((?:,(?:weight|max|tag|split|kind|column\.[^=,]+)=[^,]*)*)"
_WRITTEN = re.compile(rf"(.+?){_VALUES}", re.DOTALL)
_LIKE_A_KEY = re.compile(r"(.+?),([\w.]+)=[^/]*", re.DOTALL)


@dataclass(frozen=True)
class DataSource:
    """One source of records.

    Attributes:
        path: a file, a folder, a glob, a hub id, or `-`.
        weight: how often each record is in the data that is trained on: 2 has every record twice, 0.5 every second
            one, drawn with the seed; 1 takes the source as it is.
        max: at most so many records, drawn with the seed; None: all.
        tag: the source's name in figures, rejects and reports; empty where none was given.
        split: of a data set of the hub or on disk; None: that of the options.
        kind: what the source holds, where its columns allow several; None: that of the options.
        columns: names of records to columns of the source; empty: those of the options.
    """

    path: str
    weight: float = 1.0
    max: int | None = None
    tag: str = ""
    split: str | None = None
    kind: Kind | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> str | dict[str, Any]:
        """As a configuration keeps it: the path where nothing else is said of it."""
        unset = DataSource(self.path)
        said = {name: getattr(self, name) for name in (*KEYS, "columns")}
        said = {name: value for name, value in said.items() if value != getattr(unset, name)}
        match = _WRITTEN.fullmatch(self.path)
        return {"path": self.path, **said} if said or (match and match[2]) else self.path


@dataclass(frozen=True)
class SourceFigures:
    """How many records a source of a mix gives, as logged by the event `source`.

    Attributes:
        part: what the source is for: `training` or `held out`.
        read, rejected: rows of the file.
        usable: records that can be learnt from, converted to what is needed.
        used: those under the cap.
        held_out: of these.
        in_pass: records that are trained on in a pass, as often as the weight says.
        share: of all records of a pass.
    """

    tag: str
    path: str
    part: str
    weight: float
    read: int
    rejected: int
    usable: int
    used: int
    held_out: int
    in_pass: int
    share: float

    def told(self) -> str:
        """One sentence."""
        text = f"{self.tag} ({self.path}): {self.read:,} records read, {self.rejected:,} rejected"
        text += (
            f", {self.used:,} of {self.usable:,} usable ones drawn (max)" if self.used < self.usable else ""
        )
        text += f", {self.used:,} used" if self.used == self.usable else ""
        if self.part != "training":
            return f"{text}, all held out"
        text += f", {self.held_out:,} held out, {self.in_pass:,} to train on in a pass"
        text += f" (weight {self.weight:g})" if self.weight != 1 else ""
        return f"{text}, {100 * self.share:.1f} % of the mix"


def sources_of(value: Sources) -> tuple[DataSource, ...]:
    """The sources that an option names, each with its tag where there are several.

    A tag that is not given is the file's name without its suffix, or the path where two would be the same.

    Raises:
        ValueError: text or a mapping that is no source, a source or a tag that is named twice, or none at all.
    """
    sources = _each(value)
    twice = [one for one, count in Counter((one.path, one.split) for one in sources).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0][0]} is named twice; to have its records twice give it weight=2, once")
    if len(sources) == 1:
        return tuple(sources)
    tags = [one.tag or _name(one.path) for one in sources]
    counts = Counter(tags)
    tags = [
        tag if one.tag or counts[tag] == 1 else ":".join(filter(None, (one.path, one.split)))
        for tag, one in zip(tags, sources, strict=True)
    ]
    same = [one for one, count in Counter(tags).items() if count > 1]
    if same:
        raise ValueError(f"the tag {same[0]!r} belongs to several sources; give each its own")
    return tuple(replace(one, tag=tag) for one, tag in zip(sources, tags, strict=True))


def canonical_sources(value: Sources, name: str, *, weights: bool = True) -> str | list[str | dict[str, Any]]:
    """The one form of an option's sources: a path alone where one source is named and nothing said of it.

    Args:
        name: of the option, for messages.
        weights: whether a weight has an effect.

    Raises:
        ValueError: as of `sources_of`; or a weight that has no effect.
    """
    try:
        sources_of(value)
        sources = _each(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not weights and any(one.weight != 1 for one in sources):
        raise ValueError(f"{name}: a weight has no effect: each of these records counts once; leave it out")
    forms = [one.plain() for one in sources]
    return forms[0] if len(forms) == 1 and isinstance(forms[0], str) else forms


def canonical_columns(
    value: str | Sequence[str] | Mapping[str, str] | None, name: str = "column"
) -> dict[str, str] | None:
    """Names of records to columns, from `NAME=COLUMN` texts or a mapping.

    Raises:
        ValueError: text of another form, a name that records do not have, or a name or column that is mapped twice.
    """
    if value is None:
        return None
    pairs = [*value.items()] if isinstance(value, Mapping) else []
    for one in [] if isinstance(value, Mapping) else [value] if isinstance(value, str) else value:
        left, equals, right = one.partition("=")
        if not (left.strip() and equals and right.strip()):
            raise ValueError(f"{name}: {one!r} is not usable, expected NAME=COLUMN, such as prompt=question")
        pairs.append((left.strip(), right.strip()))
    try:
        return check_columns(pairs)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_columns(pairs: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """A mapping of names that records have to columns of a file.

    Raises:
        ValueError: a name that no record has, a name or a column that is mapped twice, or two names of one part.
    """
    parts = {name: part for part, names in PARTS.items() for name in names} | {one: one for one in BESIDE}
    mapping: dict[str, str] = {}
    for name, column in pairs:
        if name not in parts:
            advice = suggest(str(name), parts, f"Known: {', '.join(parts)}")
            raise ValueError(f"{name}={column}: {name} is no column that records have. {advice}")
        if not isinstance(column, str) or not column:
            raise ValueError(f"{name}: {column!r} is not usable, expected the name of a column")
        other = next((one for one in mapping if parts[one] == parts[name]), None)
        if other is not None:
            what = "it" if other == name else f"{name}, which means the same,"
            raise ValueError(f"{other} is mapped to {mapping[other]}, and {what} to {column}")
        if column in mapping.values():
            other = next(one for one in mapping if mapping[one] == column)
            raise ValueError(f"the column {column} is mapped twice, as {other} and as {name}")
        mapping[name] = column
    return mapping


def named(value: Sources) -> str:
    """An option's sources in a message."""
    return ", ".join(one.path for one in sources_of(value))


def _each(value: Sources) -> list[DataSource]:
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise ValueError("no source is named")
    return [_from_mapping(one) if isinstance(one, Mapping) else _from_text(str(one)) for one in items]


def _from_text(text: str) -> DataSource:
    written = _WRITTEN.fullmatch(text)
    if not text.strip() or written is None:
        raise ValueError("a path is empty")
    path, said = written.groups()
    if _exists(text):
        if said and _exists(path):
            raise ValueError(
                f"{text!r} is a file, and so is {path!r}: in a YAML file name the one that is meant by `path`"
            )
        return DataSource(text)
    if not said:
        _assert_no_misspelt_key(text)
        return DataSource(path)
    values: dict[str, Any] = {}
    columns: list[tuple[str, str]] = []
    for one in said[1:].split(","):
        key, _, value = one.partition("=")
        if key.startswith("column."):
            columns.append((key.removeprefix("column.").strip(), value.strip()))
        elif key in values:
            raise ValueError(f"{text}: {key} is given twice")
        else:
            values[key] = value.strip()
    return _from_mapping({"path": path, **values, **({"columns": check_columns(columns)} if columns else {})})


def _assert_no_misspelt_key(text: str) -> None:
    found = _LIKE_A_KEY.fullmatch(text)
    if found and _exists(found[1]):
        advice = suggest(found[2], [*KEYS, "column.NAME"], f"Known: {', '.join(KEYS)}, column.NAME")
        raise ValueError(f"{text}: {found[2]} cannot be said of a source. {advice}")


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError):  # a name that is too long, or holds what no name can
        return False


def _from_mapping(given: Mapping[str, Any]) -> DataSource:
    path = given.get("path")
    if not isinstance(path, str) or not path.strip():
        raise ValueError(f"{dict(given)} is no source: `path` names a file, a folder, a glob or a hub id")
    for key in given:
        if key not in ("path", "columns", *KEYS):
            advice = suggest(str(key), [*KEYS, "columns"], f"Known: path, {', '.join(KEYS)}, columns")
            raise ValueError(f"{path}: {key} cannot be said of a source. {advice}")
    columns = given.get("columns") or {}
    if not isinstance(columns, Mapping):
        raise ValueError(f"{path}: columns: {columns!r} is not usable, expected names and columns")
    return DataSource(
        path,
        weight=_weight(path, given.get("weight")),
        max=_most(path, given.get("max")),
        tag=_text(path, "tag", given.get("tag")) or "",
        split=_text(path, "split", given.get("split")),
        kind=_kind(path, given.get("kind")),
        columns=check_columns(list(columns.items())),
    )


def _weight(path: str, value: Any) -> float:
    try:
        number = 1.0 if value is None else math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number <= LARGEST_WEIGHT:
        expected = f"a number above 0 and at most {LARGEST_WEIGHT}"
        raise ValueError(f"{path}: weight: {value!r} is not usable, expected {expected}")
    return number


def _most(path: str, value: Any) -> int | None:
    if value is None:
        return None
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"[0-9_]+", text) or int(text) < 1:
        raise ValueError(f"{path}: max: {value!r} is not usable, expected a whole number of at least 1")
    return int(text)


def _text(path: str, key: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise ValueError(f"{path}: {key}: {value!r} is not usable, expected a name")
    return str(value)


def _kind(path: str, value: Any) -> Kind | None:
    if value is not None and value not in KINDS:
        raise ValueError(f"{path}: kind: {value!r} is not usable, expected one of: {', '.join(KINDS)}")
    return value


def _name(path: str) -> str:
    """A file's name without its suffixes, a glob's folder, a hub id as it is."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", path) and not _exists(path) and not Path(path).suffix:
        return path
    parts = [part for part in Path(path).parts if not set(part) & set("*?[")]
    name = Path(parts[-1] if parts else path).name
    return re.sub(r"(\.(jsonl|ndjson|json|csv|parquet))?(\.(gz|zst))?$", "", name) or path
