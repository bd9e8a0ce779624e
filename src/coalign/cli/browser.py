"""Pages in the user's browser."""

from __future__ import annotations

import os
import sys

import click

_DESKTOP = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "WSL_DISTRO_NAME")
"""Variables one of which is set on a Linux machine that can show a page."""


def open_page(address: str) -> None:
    """Open a page where there is a desktop. Elsewhere `xdg-open` would tell of each browser that it did not find; whoever asks
    has said where the page is.
    """
    if not sys.platform.startswith("linux") or any(map(os.environ.get, _DESKTOP)):
        click.launch(address)
