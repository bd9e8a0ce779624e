"""Scenes to paint, and the pool of reference pictures."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.media.errors import MediaError
from coalign.data.media.pictures import Picture, picture_hash
from coalign.data.media.records import MediaRecord, read_media
from coalign.data.messages import FieldError, describe
from coalign.data.records import Source
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each

if TYPE_CHECKING:
    from PIL import Image

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Scene:
    """A picture that is wanted.

    Attributes:
        elements: phrases of the prompt that need a reference; empty where nobody wrote them.
        pinned: pictures with a place of their own on every sheet.
        seed: of the generator; None where the file says nothing.
    """

    id: str
    prompt: str
    elements: tuple[str, ...] = ()
    pinned: tuple[Picture, ...] = ()
    seed: int | None = None
    source: Source = field(default=Source("<memory>"), compare=False)


@dataclass(frozen=True)
class Reference:
    """A picture of the pool.

    Attributes:
        id: its name in the folder, or what its record is called.
        digest: SHA-256 of its pixels.
        more: what its record says besides (a licence, an author).
    """

    id: str
    picture: Picture
    digest: str
    more: dict[str, Any]

    def open(self) -> Image.Image:
        """The picture; errors are those of `open_picture`."""
        return self.picture.open()


def read_scenes(
    source: str, *, elements: bool, most_elements: int, most_pinned: int, limit: int | None = None
) -> list[Scene]:
    """Scenes from rows: `prompt`, and as far as they are there `id`, `elements` (phrases), `pinned` (pictures; relative
    paths start beside the file), `seed`.

    Args:
        elements: every scene must have them.
        most_elements, most_pinned: more are refused.

    Raises:
        DataError: the source cannot be read, or a row cannot be used; every problem is listed.
    """
    problems: list[RecordProblem] = []

    def read(row: Row) -> Scene:
        return _scene(row, source, elements, most_elements, most_pinned)

    scenes = list(itertools.islice(parse_each(iter_rows(source), source, read, problems), limit))
    if problems:
        raise DataError(f"{source}: {len(problems)} problems.", problems)
    if not scenes:
        raise DataError(f"{source}: no scene.")
    assert_unique((one.id for one in scenes), source)
    return scenes


def _scene(row: Row, source: str, needed: bool, most_elements: int, most_pinned: int) -> Scene:
    value = row.value or {}
    prompt, seed = value.get("prompt"), value.get("seed")
    elements, pinned = value.get("elements"), value.get("pinned")
    phrases = elements if isinstance(elements, list | tuple) else []
    pictures = [] if pinned is None else pinned if isinstance(pinned, list) else [pinned]
    texts = all(isinstance(one, str) and one.strip() for one in phrases)
    given = elements is not None
    if not given and needed:
        raise FieldError("missing", "a list of phrases of the prompt, or --elements auto", "elements")
    checks = [
        ("prompt", describe(prompt), "text", not isinstance(prompt, str) or not prompt.strip()),
        ("elements", describe(elements), "a list of phrases", given and not (phrases and texts)),
        ("elements", f"{len(phrases)} phrases", f"at most {most_elements}", len(phrases) > most_elements),
        ("pinned", f"{len(pictures)} pictures", f"at most {most_pinned}", len(pictures) > most_pinned),
        (
            "seed",
            describe(seed),
            f"a whole number from 0 to {MAX_SEED}",
            seed is not None
            and (not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED),
        ),
    ]
    wrong = [FieldError(problem, expected, name) for name, problem, expected, bad in checks if bad]
    file = Path(row.file or source).expanduser()
    folder = file.parent if file.is_file() else None
    found = tuple(Picture(one, folder=folder) for one in pictures)
    for one in found:
        try:
            one.open()
        except MediaError as error:
            wrong.append(error.of_field("pinned"))
    if wrong:
        raise ExceptionGroup("a scene that cannot be used", wrong)
    name = str(value.get("id", row.index))
    return Scene(name, str(prompt), tuple(map(str, phrases)), found, seed, row.source(source))


def read_references(source: str) -> list[Reference]:
    """The pictures of a folder (in the order of their names) or of any source of media; each is decoded once.

    Raises:
        DataError: the source cannot be read, or a picture cannot: it is named with what is wrong.
    """
    records = [one for one in read_media(source, kind="image").records if one.picture is not None]
    problems: list[RecordProblem] = []
    found = []
    for one in records:
        try:
            found.append(_reference(one))
        except MediaError as error:
            problems.append(one.problem("image", f"{error.file}: {error.problem}", error.expected))
    if problems:
        raise DataError(f"{source}: {len(problems)} of {len(records)} pictures cannot be used.", problems)
    return found


def _reference(record: MediaRecord) -> Reference:
    assert record.picture is not None
    more = dict(record.more) | ({"caption": record.caption} if record.caption else {})
    return Reference(record.id, record.picture, picture_hash(record.picture), more)
