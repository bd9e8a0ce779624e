"""Take the pictures of the documentation: `python -m tests.report.pictures docs/images` (needs Chromium and Pillow)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from coalign.report.html import write_report
from tests.browser import chromium, take_picture, visit
from tests.report.example import example_report

PICTURES = (
    ("report-light", "summary", 1200, 1150, False),
    ("report-dark", "answer-length", 1200, 1150, True),
    ("report-phone", "constraint-satisfaction", 390, 844, False),
)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, chromium("hide-scrollbars") as browser:
        page = Path(scratch) / "report.html"
        write_report(example_report(), page)
        for name, section, width, height, dark in PICTURES:
            visit(browser, page.as_uri(), width, height, scale=2, dark=dark)
            browser.execute_script(
                "document.getElementById(arguments[0]).scrollIntoView({behavior: 'instant'})", section
            )
            browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
            take_picture(browser, folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
