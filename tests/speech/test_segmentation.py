"""The window algorithm with an oracle in place of a model; the page of an alignment."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from coalign.speech.ctc.align import Segment, TextTooLongError
from coalign.speech.segmentation.anchored_windows import Slot, Window, WindowRules, align_rows, even_times
from coalign.speech.segmentation.page import write_page
from tests.browser import browser as browser
from tests.browser import js, wait
from tests.speech.tiny import timed, wav

soundfile = pytest.importorskip("soundfile")
ROWS = [
    f"this is sentence number {word} of a longer text"
    for word in ("one", "two", "three", "four", "five", "six")
]


class Oracle:
    frames = 10**6

    def __init__(self, start: float, end: float, truth: dict[str, tuple[float, float, float]]) -> None:
        self.start, self.end, self.truth = start, end, truth

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def align(self, utterances: Sequence[str]) -> list[Segment]:
        found = []
        for text in utterances:
            start, end, score = self.truth.get(text, (self.start, self.start, -9.0))
            inside = self.start <= start and end <= self.end
            found.append(Segment(start - self.start, end - self.start, score if inside else -9.0))
        return found


def opener(truth: dict[str, tuple[float, float, float]], duration: float) -> Callable[[float, float], Window]:
    return lambda start, seconds: Oracle(start, min(start + seconds, duration), truth)


def evenly(
    rows: Sequence[str], duration: float, score: float = -0.3
) -> dict[str, tuple[float, float, float]]:
    slots = even_times([len(row) for row in rows], [(0, duration)], duration)
    return {row: (slot.start + 0.2, slot.end - 0.2, score) for row, slot in zip(rows, slots, strict=True)}


def test_everything_in_its_place() -> None:
    truth = evenly(ROWS, 30)
    found = align_rows(ROWS, [(0, 30)], 30, opener(truth, 30))
    assert [(one.start, one.end) for one in found.aligned] == [pytest.approx(truth[row][:2]) for row in ROWS]
    assert [one.utterance.row for one in found.aligned] == list(range(6))
    assert not found.unaligned


def test_no_utterance_is_lost_or_doubled() -> None:
    """Rows that are nowhere in the audio are carried along, aligned badly or reported; each appears once."""
    truth = {row: place for row, place in evenly(ROWS, 30).items() if row != ROWS[2]}
    found = align_rows(ROWS, [(0, 30)], 30, opener(truth, 30))
    seen = [one.utterance.row for one in found.aligned] + [one.row for one, _ in found.unaligned]
    assert sorted(seen) == list(range(6))
    assert min(one.score for one in found.aligned) == -9.0


def test_one_row_takes_the_whole_recording() -> None:
    found = align_rows(ROWS[:1], [(0, 5)], 5, opener({ROWS[0]: (1, 4, -0.1)}, 5))
    assert (found.aligned[0].start, found.aligned[0].end) == (1, 4)


def test_long_rows_are_split_and_keep_their_row() -> None:
    row = " ".join(f"word{number}" for number in range(50))
    found = align_rows([row], [(0, 60)], 60, opener({}, 60), WindowRules(max_words=24))
    assert [len(one.utterance.text.split()) for one in found.aligned] == [24, 24, 2]
    assert {one.utterance.row for one in found.aligned} == {0}


def test_windows_that_grow_too_large_are_given_up() -> None:
    rows = [f"{row} {row} {row}" for row in ROWS] * 4
    found = align_rows(rows, [(0, 400)], 400, opener({}, 400), WindowRules(stop_window=100))
    assert not found.aligned
    assert len({one.row for one, _ in found.unaligned}) == len(rows)
    assert "no anchor within 100 s" in found.unaligned[0][1]


def test_text_longer_than_audio_is_given_up_after_ten_windows() -> None:
    class Full(Oracle):
        def align(self, utterances: Sequence[str]) -> list[Segment]:
            raise TextTooLongError("too long")

    rows = ROWS * 3
    found = align_rows(rows, [(0, 90)], 90, lambda start, seconds: Full(start, start + seconds, {}))
    assert not found.aligned
    assert len(found.unaligned) == len(rows)
    assert "10 windows in a row" in found.unaligned[0][1]


def test_pauses_move_the_anchor() -> None:
    rows = ROWS[:4]
    speech = [(0.0, 10.0), (40.0, 50.0)]
    truth = {row: (start, start + 4, -0.2) for row, start in zip(rows, (0.5, 5.5, 40.5, 45.5), strict=True)}
    found = align_rows(rows, speech, 50, opener(truth, 50))
    assert [one.start for one in found.aligned] == [pytest.approx(truth[row][0]) for row in rows]


def test_even_times_clip_at_pauses_and_stretch_the_last_row() -> None:
    slots = even_times([30, 30, 30, 30], [(0, 10), (30, 40)], 60)
    assert slots == [Slot(0, 5), Slot(5, 10, (10, 30)), Slot(30, 35), Slot(35, 60)]


def test_retiming_starts_at_the_anchor() -> None:
    """The text of the first half is spoken in the last third: windows grow to the limit, then times are made anew."""
    rows = [f"{row} {row}" for row in ROWS * 5]
    truth = {}
    asked = []

    def open_window(start: float, seconds: float) -> Window:
        asked.append((start, seconds))
        return Oracle(start, min(start + seconds, 300), truth)

    align_rows(rows, [(0, 300)], 300, open_window, WindowRules(retime_window=40))
    assert max(seconds for _, seconds in asked) <= 300
    assert all(start == 0 for start, _ in asked), "no anchor was ever found"


def test_on_row_is_called_for_progress() -> None:
    calls = []
    align_rows(ROWS, [(0, 30)], 30, opener(evenly(ROWS, 30), 30), on_row=lambda: calls.append(1))
    assert len(calls) == len(ROWS)


HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>"


def page(folder: Path, sound: str = "embed") -> Path:
    words = [timed(0.5, 0.9, 0.9, word="hello"), timed(1.0, 1.4, 0.1, word=HOSTILE)]
    utterances = [
        timed(0.4, 1.5, -0.4, text="hello", kept=True, words=words),
        timed(2.0, 2.9, -1000.0, text=HOSTILE, kept=False, words=[]),
    ]
    path = folder / "page.html"
    write_page(
        path,
        title=f"talk {HOSTILE}",
        audio=wav(folder / "a talk.wav", 4),
        utterances=utterances,
        unaligned=[{"row": 4, "text": HOSTILE, "reason": "no audio left for it"}],
        sound=sound,  # pyright: ignore[reportArgumentType]
    )
    return path


def test_the_sound_is_inside(tmp_path: Path) -> None:
    text = page(tmp_path).read_text()
    found = re.search(r'src="data:audio/ogg;base64,([^"]+)"', text)
    assert found
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(found[1])))
    assert len(samples) / rate == pytest.approx(4, abs=0.05)
    assert "onerror=document" not in re.sub(r"&lt;.*?&gt;", "", text)
    assert text.count("<script") == 2
    assert "1 kept, 1 lines not aligned" in text
    assert "&lt; -5" in text


def test_the_sound_may_be_linked(tmp_path: Path) -> None:
    text = page(tmp_path, "link").read_text()
    assert 'src="a%20talk.wav"' in text
    assert "base64" not in text


@pytest.mark.browser
def test_it_plays(browser, tmp_path: Path) -> None:
    browser.get_log("browser")
    browser.get(page(tmp_path).as_uri())
    wait(browser, "document.getElementById('audio').readyState >= 1")
    assert js(browser, "document.title").startswith("talk")
    assert js(browser, "document.getElementById('audio').duration") == pytest.approx(4, abs=0.1)
    painted = (
        "[...document.getElementById('wave').getContext('2d')"
        ".getImageData(0, 0, document.getElementById('wave').width, document.getElementById('wave').height).data]"
        ".some((value) => value > 0)"
    )
    assert js(browser, painted)
    browser.find_element("css selector", ".word").click()
    wait(browser, "document.getElementById('audio').currentTime > 0.5")
    wait(browser, "document.querySelectorAll('.word')[0].classList.contains('now')")
    assert js(browser, "document.querySelectorAll('li.now').length") == 1
    browser.execute_script(
        "const one = document.getElementById('least'); one.value = -1; one.dispatchEvent(new Event('input'))"
    )
    assert js(browser, "document.querySelectorAll('#utterances > li:not([hidden])').length") == 1
    assert js(browser, "document.getElementById('shown').textContent") == "1 of 2 utterances"
    severe = [one for one in browser.get_log("browser") if one["level"] == "SEVERE"]
    assert not severe
