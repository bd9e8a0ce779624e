"""A record as bytes and back: for records that are too many to be held."""

from __future__ import annotations

import marshal
from dataclasses import fields
from typing import Any

from coalign.data import records as schema

_KINDS: dict[str, type[schema.Record]] = {
    one.__name__: one
    for one in (
        schema.PromptRecord,
        schema.Demonstration,
        schema.Preference,
        schema.Ranking,
        schema.Feedback,
        schema.Judgment,
    )
}
_SHARED = tuple(one.name for one in fields(schema.Record) if one.name not in ("source", "pictures"))
_OWN = {
    name: tuple(one.name for one in fields(kind) if one.name not in schema.Record.__dataclass_fields__)
    for name, kind in _KINDS.items()
}
_SOURCE = tuple(one.name for one in fields(schema.Source))
_VERSION = 2
"""Of the format: the last one whose bytes do not depend on which values are shared."""
_PLAIN = frozenset((str, int, float, bool, bytes, type(None)))


def pack(record: schema.Record) -> bytes:
    """Every field of a record; equal bytes for equal records under one version of Python.

    Raises:
        ValueError: it holds pictures, or values that are not plain (numbers, texts, lists, mappings).
    """
    name = type(record).__name__
    if _KINDS.get(name) is not type(record) or record.pictures:
        raise ValueError("a record with pictures, or of no kind that files hold")
    shared = [getattr(record, field) for field in _SHARED]
    own = [_packed(getattr(record, field)) for field in _OWN[name]]
    source = [getattr(record.source, field) for field in _SOURCE]
    whole = [name, source, shared, own]
    assert_plain(whole)
    return marshal.dumps(whole, _VERSION)


def unpack(data: bytes) -> schema.Record:
    """The record that `pack` wrote."""
    name, source, shared, own = marshal.loads(data)
    return _KINDS[name](
        source=schema.Source(*source),
        **dict(zip(_SHARED, shared, strict=True)),
        **{field: _unpacked(value) for field, value in zip(_OWN[name], own, strict=True)},
    )


def _packed(value: Any) -> Any:
    """A field of a kind: a reply that is more than text becomes a list, which no field is."""
    if isinstance(value, schema.Reply):
        return [str(value), value.fields, value.steps]
    return tuple(map(_packed, value)) if isinstance(value, tuple) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return schema.Reply(*value)
    return tuple(map(_unpacked, value)) if isinstance(value, tuple) else value


def assert_plain(value: Any) -> None:
    """Refuse what `marshal` would not give back: it takes what has a buffer (an array, a number of NumPy's) for bytes."""
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind is dict:
        for key, one in value.items():
            assert_plain(key)
            assert_plain(one)
    elif kind is list or kind is tuple:
        for one in value:
            assert_plain(one)
    else:
        raise ValueError(f"a value of the type {kind.__name__}")
