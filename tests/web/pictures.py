"""Take the picture of the workbench: `python -m tests.web.pictures docs/images` (needs Chromium, Pillow, default model)."""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver

from coalign.web.workbench import workbench
from tests.browser import CHROMIUM, DRIVER, FLAGS, wait
from tests.web.serving import running


def main(folder: Path, root: Path) -> None:
    with running(workbench(root)) as address, tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, "--hide-scrollbars", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
        try:
            screen = {"width": 1200, "height": 800, "deviceScaleFactor": 2, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            browser.get(f"{address}/play")
            browser.execute_script("document.querySelector('form').requestSubmit()")
            ended = "[...document.querySelectorAll('.speed')].every((one) => one.textContent.includes('ended by'))"
            wait(browser, ended, 600)
            picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        finally:
            browser.quit()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        image.convert("RGB").quantize(128).save(folder / "workbench-play.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path("runs"))
