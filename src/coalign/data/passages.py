"""Passages: pieces of text with an id, which retrievers find and prompts show. Read from folders of text or from records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.messages import FieldError, describe, parse_text
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each

SUFFIXES = (".txt", ".md")
MOST_WORDS = 150
"""Words of a passage of a text file; a longer paragraph is cut into several."""
TEXT_KEYS = ("text", "content", "contents", "passage", "paragraph_text", "body", "snippet")
_ID_KEYS = ("id", "_id", "docid", "doc_id", "pid")
_DPR = re.compile(r"\s*Title:\s*(.*?)\.?\s+Content:\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Passage:
    """A piece of text.

    Attributes:
        id: names it within its corpus or its record.
        text: without the title.
        title: of the document that it is from; empty where there is none.
    """

    id: str
    text: str
    title: str = ""

    def __str__(self) -> str:
        return f"{self.title}\n{self.text}" if self.title else self.text

    def to_dict(self) -> dict[str, str]:
        """As records hold it."""
        return asdict(self)


def read_passages(source: str | Path) -> list[Passage]:
    """The passages of a corpus.

    Args:
        source: a folder with `.txt` and `.md` files in UTF-8, of which every paragraph is a passage; or anything that
            holds records (`coalign.data.rows`): a passage a record, its text in one of `TEXT_KEYS`, with `id` and
            `title` where they are there.

    Raises:
        DataError: no such folder or file, one that is not text, a record without a text, an id twice, or no passage.
    """
    place = Path(source).expanduser()
    files = [one for one in place.rglob("*") if one.is_file()]
    texts = sorted(one for one in files if one.suffix.lower() in SUFFIXES)
    if texts or (place.is_dir() and not files):
        found = [passage for path in texts for passage in _paragraphs(path, place)]
    else:
        found = _of_rows(str(source))
    if not found:
        raise DataError(
            f"{source}: no text.",
            hint=f"Files with {' or '.join(SUFFIXES)} are read in all folders below, or one file of records with `text`.",
        )
    return found


def parse_passages(value: Any) -> tuple[Passage, ...]:
    """The passages of a record's column: a list of texts, or of mappings with a text and, where they are there, `id` and
    `title`. Those without an id are numbered from 1; a text that begins `Title: ... Content: ...` has that title.

    Raises:
        FieldError: not a list, a passage without text, or an id twice.
    """
    if not isinstance(value, list | tuple):
        raise FieldError(describe(value), "a list of passages")
    found = [_passage(one, str(place + 1), place) for place, one in enumerate(value)]
    names = [one.id for one in found]
    if twice := next((one for place, one in enumerate(names) if one in names[:place]), None):
        raise FieldError(f"the id {twice!r} twice", "an id of its own for each passage")
    return tuple(found)


def numbered(passages: Iterable[Passage]) -> str:
    """The passages as prompts show them: `[1] title`, the text, an empty line between two."""
    return "\n\n".join(f"[{place}] {one}" for place, one in enumerate(passages, 1))


def shortened(
    passages: Sequence[Passage], fits: Callable[[Sequence[Passage]], bool]
) -> tuple[Passage, ...] | None:
    """The passages with their ends cut off evenly, so that `fits` holds: all are cut to the same number of characters, the
    largest that fits, and those that are shorter stay whole.
    None where not even their beginnings fit.

    Args:
        fits: must hold for shorter passages wherever it holds for longer ones.
    """
    if fits(passages):
        return tuple(passages)
    low, high = 0, max((len(one.text) for one in passages), default=0)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(_cut(passages, middle)) else (low, middle)
    return _cut(passages, low) if low else None


def _cut(passages: Sequence[Passage], most: int) -> tuple[Passage, ...]:
    """At most so many characters of each, whole words where there are spaces."""

    def cut(text: str) -> str:
        if len(text) <= most:
            return text
        head = text[:most]
        whole = head.rpartition(" ")[0]
        return whole if whole and not text[most].isspace() else head.rstrip()

    return tuple(replace(one, text=cut(one.text)) for one in passages)


def _passage(value: Any, number: str, place: int | None) -> Passage:
    given: Mapping[str, Any] = {"text": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise FieldError(describe(value), "text, or a mapping with a text", position=place)
    key = next((one for one in TEXT_KEYS if one in given), None)
    if key is None:
        raise FieldError(f"a passage without {' or '.join(TEXT_KEYS[:3])}", "its text", position=place)
    try:
        text = parse_text(given[key])
    except FieldError as error:
        raise FieldError(error.problem, "the passage's text", key, position=place) from error
    name = next((given[one] for one in _ID_KEYS if given.get(one) not in (None, "")), number)
    title = str(given.get("title") or "").strip()
    if not title and (stated := _DPR.fullmatch(text)):
        title, text = stated[1].strip(), stated[2]
    return Passage(str(name), text.strip(), title)


def _of_rows(source: str) -> list[Passage]:
    problems: list[RecordProblem] = []

    def read(row: Row) -> Passage:
        return _passage(row.value, str(row.index + 1), None)

    found = list(parse_each(iter_rows(source), source, read, problems))
    if problems:
        raise DataError(f"{source}: {len(problems)} passages cannot be used.", problems)
    assert_unique((one.id for one in found), source)
    return found


def _paragraphs(path: Path, folder: Path) -> list[Passage]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        words = paragraph.split()
        for start in range(0, len(words), MOST_WORDS):
            name = f"{path.relative_to(folder)}#{len(found) + 1}"
            found.append(Passage(name, " ".join(words[start : start + MOST_WORDS])))
    return found
