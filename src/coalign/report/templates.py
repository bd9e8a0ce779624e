"""What pages are made with: templates that escape everything, and the policy that lets only their own style and script run."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from coalign.report.text import visible_html


def template_environment(folder: Path) -> jinja2.Environment:
    """The templates of a folder. Every value is escaped, one that is missing is an error; the filter `seen` also shows
    what would be invisible (`coalign.report.text.visible_html`).
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["seen"] = visible_html
    return environment


def inlined(folder: Path, name: str, *allowed: str) -> dict[str, str]:
    """`NAME.css` and `NAME.js` of a folder as `style` and `script`, and the content security `policy` of a page on its own:
    these two run, what `allowed` says (`img-src data:`) may be shown, nothing else.
    """
    style, script = ((folder / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    sources = (f"style-src {_hash(style)}", f"script-src {_hash(script)}")
    rules = ("default-src 'none'", *sources, *allowed, "base-uri 'none'", "form-action 'none'")
    return {"style": Markup(style), "script": Markup(script), "policy": "; ".join(rules)}


def relative_link(target: Path, page: Path) -> str:
    """A file as it is linked from a page."""
    relative = os.path.relpath(target.resolve(), page.parent.resolve())
    return quote(relative.replace(os.sep, "/"))


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
