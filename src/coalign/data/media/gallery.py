"""Records with pictures as a report shows them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from coalign.data.media.conversations import MARK
from coalign.data.media.errors import MediaError
from coalign.data.records import Record, responses_of
from coalign.report.pictures import Gallery, Shown, Thumbnail, gallery, thumbnail


def record_gallery(records: Sequence[Record], title: str, *, most: int | None = None) -> list[Gallery]:
    """The pictures of records beside what is said with them; nothing where no record has any.

    Args:
        most: records that are shown.
    """
    seen = [one for one in records if one.pictures]
    items = (
        Shown(thumbnails(one), f"{one.source}: {_written(one)}", named(enumerate(responses_of(one)), str))
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


def named(pairs: Iterable[tuple[Any, Any]], text: Callable[[Any], str]) -> dict[str, Any]:
    """Responses by their name, or by their number where they have none."""
    return {name if isinstance(name, str) else f"response {name + 1}": text(one) for name, one in pairs}


def _written(record: Record) -> str:
    said = (f"{one['role']}: {one['content']}" for one in record.prompt)
    return "\n".join(said).replace(MARK, "[picture] ")
