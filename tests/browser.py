"""A headless Chromium for the tests of pages, which are skipped where there is none, and for pictures of them."""

from __future__ import annotations

import base64
import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync",
)  # fmt: skip


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """A browser with a profile of its own, which goes with it."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, *flags, f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
        try:
            yield driver
        finally:
            driver.quit()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM or not DRIVER:
        pytest.skip(
            "no Chromium with chromedriver on PATH (Debian: apt-get install chromium chromium-driver)"
        )
    pytest.importorskip("selenium")
    with chromium() as driver:
        yield driver


def visit(
    browser, url: str, width: int = 1280, height: int = 900, *, scale: int = 1, dark: bool = False
) -> None:
    """Open a page on a screen of its size; what was logged before is forgotten."""
    screen = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(url)


def take_picture(browser, target: Path, colours: int = 256) -> None:
    """What is on the screen, as a small PNG (needs Pillow)."""
    from PIL import Image

    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        image.convert("RGB").quantize(colours).save(target, optimize=True)


def js(browser, expression: str):
    """The value of a JavaScript expression in the page."""
    return browser.execute_script(f"return {expression}")


def wait(browser, expression: str, seconds: float = 10) -> None:
    """Wait until a JavaScript expression is true."""
    end = time.monotonic() + seconds
    while not js(browser, expression):
        assert time.monotonic() < end, f"still false: {expression}"
        time.sleep(0.02)


def click(browser, selector: str) -> None:
    """Click the first element that fits, in sight or not."""
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def texts(browser, selector: str) -> list[str]:
    """The text of every element that fits."""
    return js(browser, f"[...document.querySelectorAll({selector!r})].map((one) => one.textContent)")


def assert_quiet(browser, width: int = 1280) -> None:
    """Nothing was logged, no hostile text ran, and the page is no wider than its screen."""
    assert browser.get_log("browser") == []
    assert js(browser, "typeof window.pwned") == "undefined"
    assert js(browser, "document.documentElement.scrollWidth") <= width
