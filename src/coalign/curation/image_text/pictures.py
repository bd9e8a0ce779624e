"""Kept and dropped pairs as thumbnails."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from coalign.core.files import stream_rows
from coalign.curation.image_text.cutting import SCORE
from coalign.report.pictures import Shown, gallery, thumbnail

if TYPE_CHECKING:
    from coalign.curation.image_text.corpus import PairCorpus
    from coalign.loops.pipeline import Curated
    from coalign.loops.rows import Row
    from coalign.report.model import AnySection

_LONGEST = 240


def picture_sections(done: Curated, corpus: PairCorpus, examples: int) -> list[AnySection]:
    """Galleries of the first kept pairs, and of the first dropped ones that have a score, as they come in the corpus."""
    return [
        *gallery(
            "Kept pairs",
            islice(_shown(done.rows(), corpus), examples),
            note="The first ones, with their score.",
        ),
        *gallery(
            "Dropped pairs",
            islice(_shown(_dropped(done), corpus), examples),
            note="The first ones that have a score, and why they fell.",
        ),
    ]


def _dropped(done: Curated) -> Iterator[Row]:
    for _, one in stream_rows(done.rejects):
        if SCORE in one["row"]:
            yield {**one["row"], "why": one["reason"]}


def _shown(rows: Iterator[Row], corpus: PairCorpus) -> Iterator[Shown]:
    from coalign.data.media.errors import MediaError

    for row in rows:
        try:
            picture = thumbnail(corpus.picture(row).open())
        except MediaError:  # moved since it was scored
            continue
        values: dict[str, Any] = {"score": round(row[SCORE], 3)}
        values |= {name: str(row[name]) for name in ("origin", "why") if row.get(name)}
        caption = row["caption"]
        yield Shown([picture], caption if len(caption) <= _LONGEST else caption[: _LONGEST - 1] + "…", values)
