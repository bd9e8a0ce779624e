"""`coalign data check` of pictures and clips: everything is decoded and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coalign.cli.main import main
from coalign.data.media.check import check_media
from coalign.data.media.records import scan_media
from coalign.report.html import read_report
from coalign.report.pictures import Gallery
from tests.data.media.making import encoded, picture, stored_turned, write_clip


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`coalign data check ...`: exit code, and what was printed (without --json messages too)."""

    def call(*argv: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main(["data", "check", *argv])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out if "--json" in argv else captured.out + captured.err

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "a.png": encoded(picture()),
        "b.png": stored_turned(picture(), 6),  # the same as a
        "c.jpg": encoded(picture(64, 64, 1), "JPEG"),
        "d.jpg": encoded(picture(64, 64, 2), "JPEG")[:1000],
        "e.png": encoded(Image.fromarray(np.full((40, 30), 40_000, np.uint16))),
        "f.gif": encoded(
            Image.new("RGB", (20, 20), "red"),
            "GIF",
            save_all=True,
            append_images=[Image.new("RGB", (20, 20))],
        ),
    }
    rows = []
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        rows.append({"image": name, "caption": "Two  dots" if name in "c.jpg e.png" else f"of {name[0]}"})
    rows.append({"image": "none.png", "caption": "x"})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_findings(folder: Path) -> None:
    check = check_media(scan_media(folder / "data.jsonl"), thumbnails=True)
    assert (check.n_records, check.n_bad, check.usable) == (5, 2, False)
    assert sorted(str(one).split(": ")[2] for one in check.problems) == [
        str(folder / "d.jpg"),
        str(folder / "none.png"),
    ]
    assert any("truncated" in str(one) for one in check.problems)
    assert check.modes == {"RGB": 3, "I;16": 1, "P": 1}
    assert check.formats == {"PNG": 3, "JPEG": 1, "GIF": 1}
    assert check.conversions == {
        "turned as EXIF says": 1,
        "16-bit grey scaled to 8 bits": 1,
        "the first of several frames": 1,
        "palette to RGB": 1,
    }
    assert check.sizes["7 x 5"] == 2
    assert check.equal == [["0", "1"]]
    assert check.equal_captions == {"two dots": 2}
    assert len(check.shown) == 5
    assert any("the same picture as another: 2" in one for one in check.warnings())
    json.dumps(check.to_dict())


def test_command_prints_and_writes_a_report(folder: Path, run: Callable[..., tuple[int, str]]) -> None:
    page = folder / "out" / "report.html"
    code, out = run(str(folder / "data.jsonl"), "--report", str(page))
    assert code == 1
    assert "Not usable: 5 pictures decoded. Bad records: 2." in out
    assert "data.jsonl:4: image: " in out
    shown = next(one for one in read_report(page).sections if isinstance(one, Gallery))
    assert [one.caption for one in shown.items][:2] == ["of a", "of b"]
    assert page.read_text().count("<img ") == 5
    code, out = run(str(folder / "data.jsonl"), "--on-bad-record", "skip", "--json")
    assert code == 0
    assert json.loads(out)["equal"] == [["0", "1"]]


def test_limits_and_columns_of_the_command(folder: Path, run: Callable[..., tuple[int, str]]) -> None:
    assert json.loads(run(str(folder / "data.jsonl"), "--max-pixels", "400", "--json")[1])["n_records"] == 3
    (folder / "named.jsonl").write_text('{"photo": "a.png", "words": "x"}\n')
    columns = ("--column", "image=photo", "--column", "captions=words")
    found = json.loads(run(str(folder / "named.jsonl"), *columns, "--json")[1])
    assert (found["usable"], found["captions"]) == (True, 1)


@pytest.mark.parametrize("option", ["--model=default", "--against=x.jsonl"])
def test_options_of_text_are_refused(folder: Path, run: Callable[..., tuple[int, str]], option: str) -> None:
    code, out = run(str(folder / "data.jsonl"), option)
    assert code == 2
    assert "has no effect on pictures and clips" in out


def test_options_of_pictures_are_refused_for_text(
    tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    code, out = run(str(tmp_path / "a.jsonl"), "--report", "x.html")
    assert code == 2
    assert "--report shows pictures, and no record has any" in out
    assert "--max-pixels has an effect" in run(str(tmp_path / "a.jsonl"), "--max-pixels", "9")[1]


def test_clips(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 0.9]
    write_clip(tmp_path / "a.mp4", times)
    write_clip(tmp_path / "b.mkv", [0.0, 0.1, 0.2])
    write_clip(tmp_path / "c.mp4", times)
    half = write_clip(tmp_path / "d.mkv", times).read_bytes()
    (tmp_path / "d.mkv").write_bytes(half[: len(half) // 2])
    check = check_media(scan_media(tmp_path), thumbnails=True)
    assert (check.kind, check.n_records, check.n_bad) == ("video", 3, 1)
    assert "cut off" in str(check.problems[0])
    assert check.equal == [["a.mp4", "c.mp4"]]
    assert check.variable_rate == 2
    assert check.frames is not None
    assert (check.frames.low, check.frames.high) == (3, 4)
    assert [one.label for one in check.shown[1].pictures] == ["0.00 s", "0.10 s"]
