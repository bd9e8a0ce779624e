"""Take the pictures of the documentation: `python -m tests.report.pictures docs/images` (needs Chromium and Pillow)."""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver

from coalign.report.html import write_report
from tests.browser import CHROMIUM, DRIVER, FLAGS
from tests.report.example import example_report

PICTURES = (
    ("report-light", "summary", 1200, 1150, False),
    ("report-dark", "answer-length", 1200, 1150, True),
    ("report-phone", "constraint-satisfaction", 390, 844, False),
)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "report.html"
        write_report(example_report(), page)
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, "--hide-scrollbars", f"--user-data-dir={scratch}/profile"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
        try:
            for name, section, width, height, dark in PICTURES:
                _take(browser, page, folder / f"{name}.png", section, width, height, dark)
        finally:
            browser.quit()


def _take(browser, page: Path, target: Path, section: str, width: int, height: int, dark: bool) -> None:
    screen = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(page.as_uri())
    browser.execute_script(
        "document.getElementById(arguments[0]).scrollIntoView({behavior: 'instant'})", section
    )
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        image.convert("RGB").quantize(256).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
