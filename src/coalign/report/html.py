"""The report as one HTML file that opens from disk, asks nothing of the network and escapes what models wrote."""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from coalign import __version__
from coalign.core.errors import CoalignError
from coalign.core.files import parse_json, write_json, write_rows, write_text
from coalign.core.secrets import redacted_values
from coalign.report import charts, format
from coalign.report.model import SCHEMA, Curves, Report, Samples, Timings, from_dict, to_dict
from coalign.report.parts import effect
from coalign.report.samples import (
    change_counts,
    file_of,
    is_large,
    rows_apart,
    sample_data,
    sample_rows,
    tags_of,
    with_rows,
)
from coalign.report.svg import x_labels
from coalign.report.templates import inlined, template_environment
from coalign.report.text import INVISIBLE, script_json

ASSETS = Path(__file__).parent / "assets"
_ROWS_APART = 2
"""Schema of a stored report of which some sections have their rows in files."""


def render_html(report: Report, *, files: bool = False) -> str:
    """The whole page as a string.

    Args:
        files: whether the files of large sections of samples lie beside it, as `write_report` writes them.
    """
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=from_dict(to_dict(report)),  # without numbers and characters that cannot be written
            anchors=anchors([section.title for section in report.sections]),
            version=__version__,
            **inlined(ASSETS, "report", "img-src data:"),
            invisible=script_json(INVISIBLE),
            files=files,
        )
    )


def render_curves(section: Curves) -> Markup:
    """The charts of a section alone, for other pages that have the report's style."""
    return Markup(_environment().get_template("sections.html.j2").module.curves(section))  # type: ignore[attr-defined]


def write_report(report: Report, path: Path) -> None:
    """Write the page to `path` and the report as JSON beside it (`report.html`, `report.json`), each atomically and
    without secrets. Of samples that are many the page has the texts of some, and a file beside it all rows
    (`samples/NAME.jsonl`, `coalign.report.samples`), from which `read_report` takes them.
    """
    plain = to_dict(report)
    clean = redacted_values(plain)
    large = any(map(is_large, report.sections))
    report = from_dict(clean) if large or clean != plain else report
    stored = [*clean["sections"]]
    names = anchors([one.title for one in report.sections])
    for place, (section, anchor) in enumerate(zip(report.sections, names, strict=True)):
        if isinstance(section, Samples) and is_large(section):
            write_rows(path.parent / file_of(anchor), sample_rows(section))
            stored[place] = rows_apart(section, stored[place], anchor)
    write_text(path, render_html(report, files=True))
    whole = {**clean, "sections": stored, "schema": _ROWS_APART if large else clean["schema"]}
    write_json(path.with_suffix(".json"), whole)


def read_report(path: Path) -> Report:
    """The report that `write_report` left beside `path` (`report.html` or `report.json`).

    Raises:
        CoalignError: there is none, or it cannot be read.
    """
    file = path.with_suffix(".json")
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
        if value.get("schema") == _ROWS_APART:
            sections = [with_rows(one, file.parent) for one in value["sections"]]
            value = {**value, "schema": SCHEMA, "sections": sections}
        return from_dict(value)
    except FileNotFoundError as error:
        raise CoalignError(f"{file}: no such file.") from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise CoalignError(f"{file}: not a report ({error}).") from error


@functools.cache
def _environment() -> jinja2.Environment:
    environment = template_environment(ASSETS)
    environment.filters.update(breakable=_breakable)
    environment.globals.update(
        charts=charts,
        number=format.number,
        difference_texts=format.difference_texts,
        x_labels=x_labels,
        effect=effect,
        zip=zip,
        change_counts=change_counts,
        flatten=flatten,
        sample_data=_sample_data,
        tags_of=tags_of,
        timing_shares=_timing_shares,
    )
    return environment


def _breakable(markup: Markup) -> Markup:
    """Allow a line to break after the dots and underscores of a name."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(markup)))


def flatten(items: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted names, values as the text to show."""
    flat: list[tuple[str, str]] = []
    for key, value in items.items():
        if isinstance(value, Mapping) and value:
            flat += flatten(value, f"{prefix}{key}.")
        else:
            flat.append(
                (
                    f"{prefix}{key}",
                    shlex.join(value) if key == "command" and isinstance(value, list) else _shown(value),
                )
            )
    return flat


def _shown(value: Any) -> str:
    if value is None or value == "" or value == [] or value == {}:
        return format.MISSING
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _sample_data(section: Samples, anchor: str) -> Markup:
    return script_json(sample_data(section, anchor))


def _timing_shares(section: Timings) -> list[float]:
    longest = max((stage.seconds for stage in section.stages), default=0) or 1
    return [round(100 * stage.seconds / longest, 2) for stage in section.stages]


def anchors(titles: Sequence[str]) -> list[str]:
    """A readable id for each section, different from all others and from the ids of the page itself."""
    found: list[str] = []
    taken = {"go-on", "invisible", "main", "summary", "theme", "title", "top"}
    for title in titles:
        stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        number = 2
        anchor = stem
        while anchor in taken:
            anchor = f"{stem}-{number}"
            number += 1
        found.append(anchor)
        taken.add(anchor)
    return found
