"""Passages: read from folders and records, shown in prompts, cut to fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from coalign.core.errors import DataError
from coalign.data.messages import FieldError
from coalign.data.passages import Passage, numbered, parse_passages, read_passages, shortened


def test_a_folder_gives_paragraphs_and_a_file_records(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.md").write_text("First.\n\nSecond one.")
    assert read_passages(folder) == [Passage("a.md#1", "First."), Passage("a.md#2", "Second one.")]
    rows = [
        {"_id": "x", "title": "Iron", "contents": "A metal."},
        {"text": "Title: Zinc. Content: Another."},
        {"text": "铁是一种金属。"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_passages(tmp_path / "rows.jsonl") == [
        Passage("x", "A metal.", "Iron"), Passage("2", "Another.", "Zinc"), Passage("3", "铁是一种金属。"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"title": "x"}], r"rows.jsonl:1: .*a passage without text or content"),
        (
            [{"text": "a"}, {"text": "  "}],
            r"rows.jsonl:2: text: only white space, expected the passage's text",
        ),
        ([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "the id '1' appears twice"),
    ],
)
def test_a_bad_corpus_is_named(tmp_path: Path, rows: list[dict[str, object]], said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError) as raised:
        read_passages(path)
    text = str(raised.value)
    assert re.search(said, text), text


def test_a_records_passages_are_texts_or_mappings() -> None:
    assert parse_passages(["a", {"text": "b", "title": "T"}]) == (Passage("1", "a"), Passage("2", "b", "T"))
    assert parse_passages([]) == ()
    for bad, said in [
        ("a", "a list of passages"), ([3], "text, or a mapping"), ([{"text": ""}], "empty"),
        ([{"id": "2", "text": "a"}, "b"], "the id '2' twice"),
    ]:  # fmt: skip
        with pytest.raises(FieldError, match=said):
            parse_passages(bad)


def test_passages_are_shown_by_number() -> None:
    assert numbered([Passage("x", "a", "T"), Passage("y", "b")]) == "[1] T\na\n\n[2] b"


def test_passages_are_cut_evenly_from_their_ends() -> None:
    given = [Passage("1", "one two three four"), Passage("2", "five")]

    def fits(passages: object) -> bool:
        return sum(len(one.text) for one in passages) <= 12  # type: ignore[attr-defined]

    assert shortened(given, lambda _: True) == tuple(given)
    assert shortened(given, fits) == (Passage("1", "one two"), Passage("2", "five"))
    assert shortened(given, lambda _: False) is None
    # without spaces between words
    assert shortened([Passage("1", "铁是一种金属")], lambda one: len(one[0].text) <= 3) == (
        Passage("1", "铁是一"),
    )
