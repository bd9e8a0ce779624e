"""What we write is read back by other programs' libraries, and what they write by us."""

from __future__ import annotations

import csv
import datetime
import html
from pathlib import Path
from typing import Any

import pytest

from coalign.speech.audio.recordings import read_rows_of_text
from coalign.speech.segmentation.outputs import FORMATS, write_alignment
from tests.speech.tiny import timed


def words(start: float, end: float, *texts: str) -> list[dict[str, Any]]:
    step = (end - start) / len(texts)
    return [
        timed(round(start + n * step, 3), round(start + (n + 1) * step, 3), -0.1, word=text)
        for n, text in enumerate(texts)
    ]


def spoken(start: float, end: float, text: str) -> dict[str, Any]:
    return timed(start, end, -0.25, id="a", text=text, words=words(start, end, *text.split()))


# One to five words (three were misread), figures alone, marks of markup, other scripts, hours.
UTTERANCES = [
    spoken(0.0, 0.8, "one"),
    spoken(1.0, 2.0, "just two"),
    spoken(2.0, 3.2, "and here three"),
    spoken(3.5, 5.0, "four words are here"),
    spoken(5.0, 7.25, "five of them AT&T <b>"),
    spoken(9.0, 9.5, "42"),
    spoken(10.0, 11.0, 'say "nine"'),
    spoken(3661.5, 3662.0, "déjà vu"),
    spoken(12345.61, 12345.64, "late"),
]
TEXTS = [one["text"] for one in UTTERANCES]
TIMES = [(one["start"], one["end"]) for one in UTTERANCES]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    stem = tmp_path_factory.mktemp("out") / "talk"
    return dict(zip(FORMATS, write_alignment(UTTERANCES, 20000.5, stem, FORMATS), strict=True))


def plain(text: str) -> str:
    return html.unescape(text).replace("\\N", " ").replace("\n", " ")


def test_srt_by_srt(written: dict[str, Path]) -> None:
    srt = pytest.importorskip("srt")
    found = list(srt.parse(written["srt"].read_text(encoding="utf-8"), ignore_errors=False))
    assert [(one.index, one.content) for one in found] == list(enumerate(TEXTS, start=1))
    assert [(one.start.total_seconds(), one.end.total_seconds()) for one in found] == TIMES


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_subtitles_by_pysubs2(written: dict[str, Path], kind: str) -> None:
    pysubs2 = pytest.importorskip("pysubs2")
    found = pysubs2.load(str(written[kind]))
    assert [(one.start / 1000, one.end / 1000) for one in found] == TIMES
    expected = [text.replace(" <b>", "") if kind == "srt" else text for text in TEXTS]
    texts = [plain(one.text).replace("{\\b1}", "").strip() for one in found]
    assert texts == expected


def test_times_of_words_leave_the_cues_whole_in_pysubs2(written: dict[str, Path]) -> None:
    pysubs2 = pytest.importorskip("pysubs2")
    found = pysubs2.load(str(written["vtt-words"]))
    assert [(one.start / 1000, one.end / 1000) for one in found] == TIMES


@pytest.mark.parametrize("kind", ["vtt", "vtt-words"])
def test_vtt_by_webvtt(written: dict[str, Path], kind: str) -> None:
    webvtt = pytest.importorskip("webvtt")
    found = webvtt.read(str(written[kind]))
    assert [plain(one.text) for one in found] == TEXTS
    assert (found[4].start, found[4].end) == ("00:00:05.000", "00:00:07.250")
    assert (found[-1].start, found[-1].end) == ("03:25:45.610", "03:25:45.640")


@pytest.mark.parametrize("library", ["praatio", "textgrid"])
def test_textgrid(written: dict[str, Path], library: str) -> None:
    expected = {
        "utterances": [(*times, text) for times, text in zip(TIMES, TEXTS, strict=True)],
        "words": [(one["start"], one["end"], one["word"]) for row in UTTERANCES for one in row["words"]],
    }
    if library == "praatio":
        pytest.importorskip("praatio")
        from praatio import textgrid as praatio  # type: ignore[import-not-found]

        grid = praatio.openTextgrid(str(written["textgrid"]), includeEmptyIntervals=False)
        found = {name: [tuple(one) for one in grid.getTier(name).entries] for name in expected}
    else:
        textgrid = pytest.importorskip("textgrid")
        grid = textgrid.TextGrid.fromFile(str(written["textgrid"]))
        tiers = {tier.name: tier for tier in grid.tiers}
        found = {
            name: [(float(one.minTime), float(one.maxTime), one.mark) for one in tiers[name] if one.mark]
            for name in expected
        }
    for name, rows in expected.items():
        assert [row[2].replace('""', '"') for row in found[name]] == [row[2] for row in rows]
        for mine, theirs in zip(rows, found[name], strict=True):
            assert theirs[:2] == pytest.approx(mine[:2], abs=1e-6)


def test_audacity_by_csv_and_pandas(written: dict[str, Path]) -> None:
    pandas = pytest.importorskip("pandas")
    with written["audacity"].open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [(float(start), float(end), text) for start, end, text in rows] == [
        (*times, text) for times, text in zip(TIMES, TEXTS, strict=True)
    ]
    table = pandas.read_csv(
        written["audacity"], sep="\t", header=None, quoting=csv.QUOTE_NONE, dtype={2: str}
    )
    assert list(table[2]) == TEXTS


def test_jsonl_by_pandas_and_datasets(written: dict[str, Path]) -> None:
    pandas = pytest.importorskip("pandas")
    assert list(pandas.read_json(written["jsonl"], lines=True, dtype={"text": str})["text"]) == TEXTS
    from datasets import load_dataset

    found = load_dataset("json", data_files=str(written["jsonl"]), split="train")
    assert list(found["text"]) == TEXTS


def test_subtitles_that_pysubs2_and_srt_write(tmp_path: Path) -> None:
    pysubs2, srt = pytest.importorskip("pysubs2"), pytest.importorskip("srt")
    texts = ["Hello there.", "two lines\nof it", "42", "5 < 6"]
    subs = pysubs2.SSAFile()
    cues = []
    for n, text in enumerate(texts):
        subs.append(pysubs2.SSAEvent(start=1000 * n, end=1000 * n + 900, text=text.replace("\n", "\\N")))
        start = datetime.timedelta(seconds=n)
        cues.append(srt.Subtitle(n, start, start + datetime.timedelta(seconds=0.9), text))
    expected = tuple(text.replace("\n", " ") for text in texts)
    for name in ("a.srt", "a.vtt"):
        subs.save(str(tmp_path / name))
        assert read_rows_of_text(tmp_path / name) == expected
    (tmp_path / "b.srt").write_text(srt.compose(cues), encoding="utf-8")
    assert read_rows_of_text(tmp_path / "b.srt") == expected


def test_subtitles_that_webvtt_writes(tmp_path: Path) -> None:
    webvtt = pytest.importorskip("webvtt")
    page = webvtt.WebVTT()
    for n, text in enumerate(("Hello there.", "two lines\nof it")):
        page.captions.append(webvtt.Caption(f"00:00:0{n}.000", f"00:00:0{n}.900", text))
    page.save(str(tmp_path / "a.vtt"))
    assert read_rows_of_text(tmp_path / "a.vtt") == ("Hello there.", "two lines of it")
