"""Records with pictures as a report shows them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from coalign.data.media.conversations import named_pictures
from coalign.data.media.errors import MediaError
from coalign.data.records import Record, response_names, responses_of
from coalign.report.pictures import Gallery, Shown, Thumbnail, gallery, thumbnail


def record_gallery(records: Sequence[Record], title: str, *, most: int | None = None) -> list[Gallery]:
    """The pictures of records beside what is said with them; nothing where no record has any.

    Args:
        most: records that are shown.
    """
    seen = [one for one in records if one.pictures]
    items = (
        Shown(
            thumbnails(one),
            f"{one.source}: {_written(one)}",
            named(zip(response_names(one), responses_of(one), strict=True), str),
        )
        for one in seen[:most]
    )
    return gallery(title, items, total=len(seen))


def thumbnails(record: Record) -> list[Thumbnail]:
    """Of its pictures, without those that cannot be decoded."""
    found = []
    for one in record.pictures:
        with contextlib.suppress(MediaError):  # told elsewhere
            found.append(thumbnail(one.open()))
    return found


def named(pairs: Iterable[tuple[str, Any]], text: Callable[[Any], str]) -> dict[str, Any]:
    """Responses by their name, with a number where several have the same."""
    listed = list(pairs)
    several = len({name for name, _ in listed}) < len(listed)
    return {
        f"{name} {number}" if several else name: text(one)
        for number, (name, one) in enumerate(listed, start=1)
    }


def _written(record: Record) -> str:
    said = (f"{one['role']}: {one['content']}" for one in record.prompt)
    return named_pictures("\n".join(said))
