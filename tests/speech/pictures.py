"""Take the picture of the documentation: `python -m tests.speech.pictures PAGE docs/images/speech.png`.

PAGE is an `alignments/ID.html` of a run. Needs Chromium and Pillow.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver

from tests.browser import CHROMIUM, DRIVER, FLAGS


def main(page: Path, target: Path, dark: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, "--hide-scrollbars", "--autoplay-policy=no-user-gesture-required"):
            options.add_argument(flag)
        options.add_argument(f"--user-data-dir={scratch}/profile")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
        try:
            screen = {"width": 1100, "height": 720, "deviceScaleFactor": 2, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            browser.get(page.resolve().as_uri())
            browser.execute_async_script(
                "const done = arguments[0], audio = document.getElementById('audio');"
                "document.querySelectorAll('.time')[1].click();"
                "setTimeout(() => { audio.pause(); setTimeout(done, 300); }, 1200);"
            )
            picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
            print(browser.get_log("browser"))
        finally:
            browser.quit()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        image.convert("RGB").quantize(256).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), "--dark" in sys.argv)
