"""The page in a real browser: headless Chromium, opened from disk."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from coalign.report.html import write_report
from coalign.report.model import Mark, Output, Report, Sample, Samples
from tests.browser import browser as browser
from tests.browser import js, wait
from tests.report.example import example_report
from tests.report.test_html import HOSTILE, hostile_report

pytestmark = pytest.mark.browser


def _open(browser, report: Report, path: Path, *, width: int = 1280, dark: bool = False) -> None:
    write_report(report, path)
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(path.as_uri())


def _set(browser, name: str, value: str) -> None:
    """What a person's typing or choosing does to a control."""
    browser.execute_script(
        "const one = document.querySelector(arguments[0]);"
        "if (one.type === 'radio') one.checked = true; else one.value = arguments[1];"
        "one.dispatchEvent(new Event('input', {bubbles: true}))",
        f'[name="{name}"]' + (f'[value="{value}"]' if name == "change" else ""),
        value,
    )


def _status(browser) -> str:
    return js(browser, "document.querySelector('.status').textContent")


def test_loads_from_disk_without_errors_or_requests(browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    _open(browser, example_report(), path)
    assert js(browser, "document.querySelectorAll('.row').length") == 20
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


def test_filters_sorts_and_pages(browser, tmp_path: Path) -> None:
    report = example_report()
    section = next(one for one in report.sections if isinstance(one, Samples))
    _open(browser, report, tmp_path / "report.html")
    assert _status(browser) == "1 to 20 of 48 samples"

    browser.execute_script("document.querySelector('[name=next]').click()")
    assert _status(browser) == "21 to 40 of 48 samples"
    assert js(browser, "document.querySelector('.row header span').textContent") == "#21"

    _set(browser, "text", "LIGHTHOUSE")
    count = sum("lighthouse" in row.prompt for row in section.rows)
    wait(browser, f"document.querySelectorAll('.row').length === {count}")
    assert _status(browser) == f"1 to {count} of {count} samples (48 in all)"
    assert js(browser, "document.querySelector('mark').textContent") == "lighthouse"

    _set(browser, "text", "")
    _set(browser, "change", "worse")
    worse = sum(section.change(row) == "worse" for row in section.rows)
    assert worse > 0
    wait(browser, f"document.querySelectorAll('.row .delta.worse').length === {worse}")

    _set(browser, "change", "")
    _set(browser, "sort", "loss")
    wait(browser, "document.querySelector('.row .delta').classList.contains('worse')")

    _set(browser, "text", "no such words (")
    wait(browser, "document.querySelectorAll('.row').length === 0")
    assert _status(browser) == "No sample matches (48 in all)"


def test_categories_filter(browser, tmp_path: Path) -> None:
    outputs = [Output(text="a")]
    rows = [Sample(prompt=f"p{index}", outputs=outputs, tags=[f"tag {index % 3}"]) for index in range(9)]
    section = Samples(title="Samples", columns=["Answer"], rows=rows)
    report = example_report()
    one = Report(title="t", method="m", verdict=report.verdict, sections=[section])
    _open(browser, one, tmp_path / "report.html")
    _set(browser, "tag", "1")
    wait(browser, "document.querySelectorAll('.row').length === 3")
    assert set(js(browser, "[...document.querySelectorAll('.tag')].map((tag) => tag.textContent)")) == {
        "tag 1"
    }
    assert js(browser, "document.querySelector('[name=change]')") is None


def test_hostile_text_is_shown_and_not_run(browser, tmp_path: Path) -> None:
    _open(browser, hostile_report(), tmp_path / "report.html")
    _set(browser, "text", "</script>")
    wait(browser, "document.querySelector('mark') !== null")
    assert js(browser, "typeof window.pwned") == "undefined"
    assert js(browser, "document.querySelectorAll('img, iframe, object, embed').length") == 0
    assert browser.get_log("browser") == []
    shown = js(browser, "document.querySelector('.row .prompt').textContent")
    assert shown.startswith(HOSTILE.split("\u2028")[0] + "U+2028U+202EU+0000U+001B[31m")
    assert js(browser, "document.title").startswith(HOSTILE.split("\u2028")[0])


def test_the_policy_stops_what_would_slip_through(browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(example_report(rows=1), path)
    planted = "<script>window.pwned = 1</script><b onclick='window.pwned = 1' style='color: red'>x</b></main>"
    changed = tmp_path / "changed.html"
    changed.write_text(path.read_text(encoding="utf-8").replace("</main>", planted), encoding="utf-8")
    browser.get(changed.as_uri())
    browser.execute_script("document.querySelector('main > b').click()")
    assert js(browser, "typeof window.pwned") == "undefined"


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("report", [example_report(), hostile_report()], ids=["example", "hostile"])
def test_nothing_scrolls_sideways(browser, tmp_path: Path, width: int, report: Report) -> None:
    _open(browser, report, tmp_path / "report.html", width=width)
    assert js(browser, "document.documentElement.scrollWidth") <= width


def test_short_names_of_facts_stay_on_one_line(browser, tmp_path: Path) -> None:
    _open(browser, example_report(), tmp_path / "report.html", width=1280)
    lines = js(
        browser,
        "[...document.querySelectorAll('.facts dt')].map("
        "one => one.getBoundingClientRect().height / parseFloat(getComputedStyle(one).lineHeight))",
    )
    assert lines
    assert max(lines) < 1.5


def test_marked_text_is_coloured_searched_and_explained(browser, tmp_path: Path) -> None:
    text = "\U0001f600 tea </script> and more"
    marks = [
        Mark(start=2, end=5, name="kept", note="probability 0.9"),
        Mark(start=6, end=15, name="shifted", note=HOSTILE),
    ]
    rows = [Sample(prompt="p", outputs=[Output(text=text, marks=marks), Output(text="plain")])]
    section = Samples(title="Tokens", columns=["A", "B"], rows=rows, marks={"kept": "good", "shifted": "bad"})
    report = Report(title="t", method="m", verdict=example_report().verdict, sections=[section])
    _open(browser, report, tmp_path / "report.html", width=360)
    assert js(browser, "[...document.querySelectorAll('.words .m')].map((one) => one.textContent)") == [
        "tea",
        "</script>",
    ]
    assert js(browser, "[...document.querySelectorAll('.legend .m')].map((one) => one.textContent)") == [
        "kept",
        "shifted",
    ]
    assert js(browser, "document.querySelector('.output .words').textContent") == text
    browser.execute_script("document.querySelector('.words .m.good').click()")
    assert js(browser, "document.querySelector('.mark-note').textContent") == "kept: probability 0.9"
    browser.execute_script("document.querySelector('.words .m.bad').click()")
    assert js(browser, "document.querySelector('.mark-note').textContent").startswith("shifted: </script>")
    browser.execute_script("document.querySelector('.words .m.bad').click()")
    assert js(browser, "document.querySelector('.mark-note').hidden")
    _set(browser, "text", "and mo")
    wait(browser, "document.querySelector('mark') !== null")
    assert js(browser, "document.querySelector('mark').textContent") == "and mo"
    assert js(browser, "typeof window.pwned") == "undefined"
    assert js(browser, "document.documentElement.scrollWidth") <= 360
    assert browser.get_log("browser") == []


def test_long_outputs_fold_and_direction_follows_the_text(browser, tmp_path: Path) -> None:
    texts = ("x" * 20_000, "line\n" * 200, "مرحبا بالعالم", "")
    rows = [Sample(prompt="p", outputs=[Output(text=text)]) for text in texts]
    section = Samples(title="Samples", columns=["Answer"], rows=rows)
    report = Report(title="t", method="m", verdict=example_report().verdict, sections=[section])
    _open(browser, report, tmp_path / "report.html", width=360)
    assert js(browser, "document.documentElement.scrollWidth") <= 360
    assert js(browser, "document.querySelectorAll('.more').length") == 2
    browser.execute_script("document.querySelector('.more').click()")
    assert js(browser, "document.querySelector('.more').getAttribute('aria-expanded')") == "true"
    assert js(browser, "getComputedStyle(document.querySelectorAll('.output .words')[2]).direction") == "rtl"


def test_dark_mode_follows_the_system_and_the_button(browser, tmp_path: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    _open(browser, example_report(rows=1), tmp_path / "report.html", dark=True)
    dark = js(browser, background)
    _open(browser, example_report(rows=1), tmp_path / "report.html")
    light = js(browser, background)
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(14, 17, 22)")
    seen = []
    for _ in range(3):
        browser.execute_script("document.getElementById('theme').click()")
        seen.append((js(browser, "document.getElementById('theme').textContent"), js(browser, background)))
    assert seen == [("Theme: light", light), ("Theme: dark", dark), ("Theme: auto", light)]


def test_ten_thousand_samples_stay_usable(browser, tmp_path: Path) -> None:
    _open(browser, example_report(rows=10_000), tmp_path / "report.html")
    loaded = js(browser, "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert loaded < 2000
    assert _status(browser) == "1 to 20 of 10,000 samples"
    start = time.monotonic()
    _set(browser, "text", "bakery")
    wait(browser, "document.querySelector('.status').textContent.includes('in all')")
    assert time.monotonic() - start < 2
    browser.execute_script("document.querySelector('[name=next]').click()")
    assert _status(browser).startswith("21 to 40 of ")


def test_every_control_has_a_name_and_takes_the_focus(browser, tmp_path: Path) -> None:
    _open(browser, example_report(), tmp_path / "report.html")
    unnamed = js(
        browser,
        "[...document.querySelectorAll('input, select, button, a')].filter((one) =>"
        " !(one.labels?.[0]?.textContent || one.textContent || one.ariaLabel).trim()).length",
    )
    assert unnamed == 0
    assert js(browser, "[...document.querySelectorAll('[tabindex]')].every((one) => one.tabIndex === 0)")
