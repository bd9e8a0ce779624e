"""Take the picture of the documentation: `python -m tests.speech.pictures PAGE docs/images/speech.png`.

PAGE is an `alignments/ID.html` of a run. Needs Chromium and Pillow.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.browser import chromium, take_picture, visit


def main(page: Path, target: Path, dark: bool) -> None:
    with chromium("hide-scrollbars", "autoplay-policy=no-user-gesture-required") as browser:
        visit(browser, page.resolve().as_uri(), 1100, 720, scale=2, dark=dark)
        browser.execute_async_script(
            "const done = arguments[0], audio = document.getElementById('audio');"
            "document.querySelectorAll('.time')[1].click();"
            "setTimeout(() => { audio.pause(); setTimeout(done, 300); }, 1200);"
        )
        take_picture(browser, target)
        print(browser.get_log("browser"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), "--dark" in sys.argv)
