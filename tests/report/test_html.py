"""The page as text: well formed, self-contained, and nothing that a model wrote is read as markup."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.report.html import render_html, write_report
from coalign.report.model import Comparison, Report, Samples, Text, from_dict, to_dict
from coalign.report.text import script_json, visible, visible_html
from tests.report.build import report_of
from tests.report.example import example_report

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>\"'&amp;{{7*7}}\u2028\u202e\x00\x1b[31m"
_FIXED = {"kind", "unit", "better", "scale", "outcome", "schema", "arxiv"}
_VOID = {"meta", "link", "input", "br", "wbr"}


class Page(HTMLParser):
    """Elements, attributes and the text of scripts; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def ids(self) -> list[str | None]:
        """Every element's own."""
        found = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(found) == len(set(found))
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)


def hostile_report() -> Report:
    """The example with a hostile string in front of every text and every name."""

    def poison(value, key=""):
        if isinstance(value, dict):
            if key == "units":
                return {HOSTILE + name: one for name, one in value.items()}
            free = key in {"items", "facts", "checks"}
            return {(HOSTILE + name if free else name): poison(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [poison(one, key) for one in value]
        return HOSTILE + value if isinstance(value, str) and key not in _FIXED else value

    return from_dict(poison(to_dict(example_report())))


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_html(example_report()))


def test_ids_are_unique_and_links_and_labels_meet_them(page: Page) -> None:
    ids = page.ids()
    for _, attributes in page.elements:
        target = attributes.get("href") or ""
        assert not target.startswith("#") or target[1:] in ids
        assert (attributes.get("aria-labelledby") or ids[0]) in ids


def test_sections_with_the_same_title_have_their_own_anchors() -> None:
    twice = [example_report().sections[0]] * 2
    titled = [Text(title=one, paragraphs=[]) for one in ("Summary", "Samples", "Samples data", "¿?", "¿?")]
    sections = [*twice, *titled]
    html = render_html(report_of(*sections))
    assert {"constraint-satisfaction", "constraint-satisfaction-2"} <= {*Page(html).ids()}


def test_nothing_is_loaded(page: Page) -> None:
    loading = {"src", "srcset", "data", "action", "poster", "background", "xlink:href", "style"}
    for tag, attributes in page.elements:
        assert not loading & set(attributes), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
        if tag == "link":
            assert attributes["href"] == "data:,"
    policy = next(attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes)
    assert "default-src 'none'" in str(policy)
    assert "unsafe" not in str(policy)


def test_hostile_text_adds_no_element() -> None:
    html = render_html(hostile_report())
    hostile, clean = Page(html), Page(render_html(example_report()))
    assert "<img" not in html
    risky = {"script", "img", "style", "a", "section", "input"}
    first, second = (Counter(tag for tag, _ in one.elements if tag in risky) for one in (hostile, clean))
    assert first == second
    assert not {"\x00", "\u202e", "\x1b"} & {*html}
    assert "U+202E" in html


def test_embedded_samples_read_back() -> None:
    report = hostile_report()
    section = next(one for one in report.sections if isinstance(one, Samples))
    scripts = Page(render_html(report)).scripts
    data = next(text for attributes, text in scripts if str(attributes.get("id")).endswith("--data"))
    found = [(row["prompt"], row["outputs"][1]["text"]) for row in json.loads(data)["rows"]]
    assert found == [(row.prompt, row.outputs[1].text) for row in section.rows]


@given(st.text())
def test_script_json_can_neither_end_the_element_nor_hide(text: str) -> None:
    written = str(script_json({"value": text}))
    assert not set(written) & set("<>&\u2028\u2029\u202e\x00")
    assert json.loads(written) == {"value": text}


@given(st.text())
def test_visible_text_has_no_control_characters(text: str) -> None:
    for shown in (visible(text), str(visible_html(text))):
        assert not any(ord(one) < 32 and one not in "\n\t" for one in shown)
        assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert visible("Grüße, 你好, می‌خواهم") == "Grüße, 你好, می‌خواهم"


@pytest.mark.parametrize("outcome", ["improved", "worse", "mixed", "neutral", "not improved"])
def test_a_report_with_nothing_in_it(outcome) -> None:
    sections = Comparison(title="c", rows=[]), Samples(title="s", columns=["A"], rows=[])
    html = render_html(report_of(*sections, outcome=outcome))
    assert outcome.capitalize() in html
    Page(html)


def test_reports_need_no_torch() -> None:
    code = (
        "import sys, coalign.report.html, coalign.report.terminal, coalign.report.model_card;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_write_report_writes_page_and_data(tmp_path: Path) -> None:
    report = example_report(rows=2)
    write_report(report, tmp_path / "run" / "report.html")
    data, page = (
        one.read_text(encoding="utf-8") for one in sorted((tmp_path / "run").iterdir(), reverse=True)
    )
    assert page == render_html(report)
    assert from_dict(json.loads(data)) == report


def test_lone_surrogates_do_not_stop_a_report(tmp_path: Path) -> None:
    write_report(report_of(text="broken \ud83d emoji"), tmp_path / "report.html")
    assert "broken \ufffd emoji" in (tmp_path / "report.html").read_text(encoding="utf-8")
