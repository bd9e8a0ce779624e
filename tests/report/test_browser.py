"""The page in a real browser: headless Chromium, opened from disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coalign.report.html import write_report
from coalign.report.model import Mark, Output, Report, Samples
from tests.browser import assert_quiet, click, js, texts, visit, wait
from tests.browser import browser as browser
from tests.report.build import report_of, sample, samples
from tests.report.example import example_report
from tests.report.test_html import HOSTILE, hostile_report

pytestmark = pytest.mark.browser
THEME = "document.getElementById('theme').textContent"


@pytest.fixture
def show(browser, tmp_path: Path) -> Callable[..., Path]:
    """Open a report, or a page of these samples alone."""

    def call(report: Report | Samples, width: int = 1280, dark: bool = False) -> Path:
        report = report_of(report) if isinstance(report, Samples) else report
        write_report(report, tmp_path / "report.html")
        visit(browser, (tmp_path / "report.html").as_uri(), width, dark=dark)
        return tmp_path / "report.html"

    return call


def choose(browser, name: str, value: str, awaited: str) -> None:
    """What a person's typing or choosing does to a control; wait for what follows."""
    browser.execute_script(
        "const one = document.querySelector(arguments[0]);"
        "if (one.type === 'radio') one.checked = true; else one.value = arguments[1];"
        "one.dispatchEvent(new Event('input', {bubbles: true}))",
        f'[name="{name}"]' + (f'[value="{value}"]' if name == "change" else ""),
        value,
    )
    wait(browser, awaited)


def rows(count: int, of: str = ".row") -> str:
    return f"document.querySelectorAll('{of}').length === {count}"


def status(browser) -> str:
    return js(browser, "document.querySelector('.status').textContent")


def test_loads_from_disk_without_errors_or_requests(browser, show) -> None:
    path = show(example_report())
    assert js(browser, rows(20))
    assert_quiet(browser)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    unnamed = (
        "[...document.querySelectorAll('input, select, button, a')].filter((one) =>"
        " !(one.labels?.[0]?.textContent || one.textContent || one.ariaLabel).trim()).length"
    )
    assert js(browser, unnamed) == 0, "every control has a name and takes the focus"
    assert js(browser, "[...document.querySelectorAll('[tabindex]')].every((one) => one.tabIndex === 0)")
    lines = js(
        browser,
        "[...document.querySelectorAll('.facts dt')].map("
        "one => one.getBoundingClientRect().height / parseFloat(getComputedStyle(one).lineHeight))",
    )
    assert 0 < max(lines) < 1.5, "short names of facts stay on one line"


def test_filters_sorts_and_pages(browser, show) -> None:
    report = example_report()
    section = next(one for one in report.sections if isinstance(one, Samples))
    show(report)
    assert status(browser) == "1 to 20 of 48 samples"
    click(browser, "[name=next]")
    assert status(browser) == "21 to 40 of 48 samples"
    assert texts(browser, ".row header span")[0] == "#21"

    count = sum("lighthouse" in row.prompt for row in section.rows)
    choose(browser, "text", "LIGHTHOUSE", rows(count))
    assert status(browser) == f"1 to {count} of {count} samples (48 in all)"
    assert texts(browser, "mark")[0] == "lighthouse"

    worse = sum(section.change(row) == "worse" for row in section.rows)
    assert worse > 0
    choose(browser, "text", "", "true")
    choose(browser, "change", "worse", rows(worse, ".row .delta.worse"))
    choose(browser, "change", "", "true")
    choose(browser, "sort", "loss", "document.querySelector('.row .delta').classList.contains('worse')")
    choose(browser, "text", "no such words (", rows(0))
    assert status(browser) == "No sample matches (48 in all)"


def test_categories_filter(browser, show) -> None:
    show(samples(*(sample("a", prompt=f"p{index}", tags=[f"tag {index % 3}"]) for index in range(9))))
    choose(browser, "tag", "1", rows(3))
    assert set(texts(browser, ".tag")) == {"tag 1"}
    assert texts(browser, "[name=change]") == []


def test_hostile_text_is_shown_and_not_run(browser, show) -> None:
    show(hostile_report())
    choose(browser, "text", "</script>", "document.querySelector('mark') !== null")
    assert_quiet(browser)
    assert texts(browser, "img, iframe, object, embed") == []
    start = HOSTILE.split("\u2028")[0]
    assert texts(browser, ".row .prompt")[0].startswith(start + "U+2028U+202EU+0000U+001B[31m")
    assert js(browser, "document.title").startswith(start)


def test_the_policy_stops_what_would_slip_through(browser, show) -> None:
    path = show(example_report(rows=1))
    planted = "<script>window.pwned = 1</script><b onclick='window.pwned = 1' style='color: red'>x</b></main>"
    path.write_text(path.read_text(encoding="utf-8").replace("</main>", planted), encoding="utf-8")
    browser.refresh()
    click(browser, "main > b")
    assert js(browser, "typeof window.pwned") == "undefined"


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("report", [example_report(), hostile_report()], ids=["example", "hostile"])
def test_nothing_scrolls_sideways(browser, show, width: int, report: Report) -> None:
    show(report, width)
    assert_quiet(browser, width)


def test_marked_text_is_coloured_searched_and_explained(browser, show) -> None:
    text = "\U0001f600 tea </script> and more"
    marks = [Mark(2, 5, "kept", note="probability 0.9"), Mark(6, 15, "shifted", note=HOSTILE)]
    row = sample(Output(text, marks=marks), "plain")
    show(samples(row, marks={"kept": "good", "shifted": "bad"}), width=360)
    assert texts(browser, ".words .m") == ["tea", "</script>"]
    assert texts(browser, ".legend .m") == ["kept", "shifted"]
    assert texts(browser, ".output .words")[0] == text
    click(browser, ".words .m.good")
    assert texts(browser, ".mark-note")[0] == "kept: probability 0.9"
    click(browser, ".words .m.bad")
    assert texts(browser, ".mark-note")[0].startswith("shifted: </script>")
    click(browser, ".words .m.bad")
    assert js(browser, "document.querySelector('.mark-note').hidden")
    choose(browser, "text", "and mo", "document.querySelector('mark') !== null")
    assert texts(browser, "mark")[0] == "and mo"
    assert_quiet(browser, 360)


def test_long_outputs_fold_and_direction_follows_the_text(browser, show) -> None:
    answers = ("x" * 20_000, "line\n" * 200, "مرحبا بالعالم", "")
    show(samples(*map(sample, answers)), width=360)
    assert_quiet(browser, 360)
    assert js(browser, rows(2, ".more"))
    click(browser, ".more")
    assert js(browser, "document.querySelector('.more').getAttribute('aria-expanded')") == "true"
    assert js(browser, "getComputedStyle(document.querySelectorAll('.output .words')[2]).direction") == "rtl"


def test_dark_mode_follows_the_system_and_the_button(browser, show) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(14, 17, 22)"
    for is_dark, colour in ((True, dark), (False, light)):
        show(example_report(rows=1), dark=is_dark)
        assert js(browser, background) == colour
    for theme, colour in (("light", light), ("dark", dark), ("auto", light)):
        click(browser, "#theme")
        assert (js(browser, THEME), js(browser, background)) == (f"Theme: {theme}", colour)


def test_ten_thousand_samples_stay_usable(browser, show) -> None:
    show(example_report(rows=10_000))
    loaded = js(browser, "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert loaded < 2000
    assert status(browser) == "1 to 20 of 10,000 samples"
    start = time.monotonic()
    choose(browser, "text", "bakery", "document.querySelector('.status').textContent.includes('in all')")
    assert time.monotonic() - start < 2
    click(browser, "[name=next]")
    assert status(browser).startswith("21 to 40 of ")
