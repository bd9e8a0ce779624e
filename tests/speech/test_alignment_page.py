"""The page: what it holds, that it escapes, and that it plays in a browser."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest

from coalign.speech.segmentation.page import write_page
from tests.browser import browser as browser
from tests.browser import js, wait
from tests.speech.tiny import wav

soundfile = pytest.importorskip("soundfile")
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>"


def page(folder: Path, sound: str = "embed") -> Path:
    words = [
        {"word": "hello", "start": 0.5, "end": 0.9, "score": 0.9},
        {"word": HOSTILE, "start": 1.0, "end": 1.4, "score": 0.1},
    ]
    utterances = [
        {"text": "hello", "start": 0.4, "end": 1.5, "score": -0.4, "kept": True, "words": words},
        {"text": HOSTILE, "start": 2.0, "end": 2.9, "score": -1000.0, "kept": False, "words": []},
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
