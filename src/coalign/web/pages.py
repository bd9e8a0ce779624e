"""Server-rendered pages of the workbench: templates with everything that models or files say escaped and visible."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jinja2

from coalign import __version__
from coalign.report.format import number
from coalign.report.html import ASSETS as REPORT_ASSETS
from coalign.report.html import flatten
from coalign.report.templates import template_environment
from coalign.web.local import ASSETS

STATIC: dict[str, tuple[Path, str]] = {
    "report.css": (REPORT_ASSETS / "report.css", "text/css"),
    "workbench.css": (ASSETS / "workbench.css", "text/css"),
    "workbench.js": (ASSETS / "workbench.js", "text/javascript"),
    "play.js": (ASSETS / "play.js", "text/javascript"),
}
"""What `/static/NAME` gives: file and media type."""

START = ("/start", "New run")
Places = tuple[tuple[str, str], ...]
PLACES: Places = (
    ("/", "Runs"),
    START,
    ("/advise", "Which method"),
    ("/methods", "Methods"),
    ("/play", "Side by side"),
)
"""Navigation of every page: address and name."""
ANNOTATION = ("/annotate/", "Blind comparison")
"""Its entry where pairs are to be judged."""


def render(template: str, *, place: str, title: str, places: Places = PLACES, **values: Any) -> str:
    """A page.

    Args:
        template: name of a template in the assets.
        place: address of the navigation entry to mark.
        title: of the document.
        places: the navigation.
    """
    page = _environment().get_template(template)
    text = page.render(place=place, places=places, title=title, version=__version__, **values)
    return text.encode("utf-8", "backslashreplace").decode()  # halves of surrogate pairs cannot be sent


def render_part(template: str, **values: Any) -> str:
    """A part of a page, which its script puts in place of what was there."""
    return _environment().get_template(template).render(**values).encode("utf-8", "backslashreplace").decode()


@functools.cache
def _environment() -> jinja2.Environment:
    environment = template_environment(ASSETS)
    environment.globals.update(number=number, flatten=flatten)
    return environment
