"""Take the picture of the workbench: `python -m tests.web.pictures docs/images` (needs Chromium, Pillow, default model)."""

from __future__ import annotations

import sys
from pathlib import Path

from coalign.web.workbench import workbench
from tests.browser import chromium, take_picture, visit, wait
from tests.web.serving import running


def main(folder: Path, root: Path) -> None:
    with running(workbench(root)) as address, chromium("hide-scrollbars") as browser:
        visit(browser, f"{address}/play", 1200, 800, scale=2)
        browser.execute_script("document.querySelector('form').requestSubmit()")
        ended = (
            "[...document.querySelectorAll('.speed')].every((one) => one.textContent.includes('ended by'))"
        )
        wait(browser, ended, 600)
        take_picture(browser, folder / "workbench-play.png", 128)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path("runs"))
