"""The quick tests over the supported range of Python and Transformers, each pair in a virtual environment of its own.

    python -m tests.versions                                    # floor and newest Transformers, with this Python
    python -m tests.versions --python python3.12 python3.13     # the same with other Pythons: everything is installed for them
    python -m tests.versions --transformers 5.8.0 -- tests/models tests/training

With this Python an environment shares what is installed here and has the other Transformers on top, so that nothing else
differs. Prints a row a pair for docs/versions.md, and ends with 1 where a test failed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEWEST = "newest"
QUICK = ("-p", "no:cacheprovider", "-m", "not slow and not browser")
_OUTCOME = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


@dataclass(frozen=True)
class Pair:
    """A Python program and a version of Transformers (`newest`: whatever pip finds)."""

    python: str
    transformers: str

    @property
    def wanted(self) -> str:
        return "transformers" if self.transformers == NEWEST else f"transformers=={self.transformers}"


def floors() -> tuple[str, str]:
    """The lowest Python and Transformers that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    transformers = next(one for one in project["dependencies"] if one.startswith("transformers"))
    return project["requires-python"].removeprefix(">="), _release(transformers.partition(">=")[2])


def _release(version: str) -> str:
    """`5.0` as pip names the release: `5.0.0`."""
    return ".".join([*version.split("."), "0", "0"][:3])


def is_this(python: str) -> bool:
    """Whether a program is of the version that runs this."""
    said = subprocess.run(
        [python, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=True
    )
    return tuple(map(int, said.stdout.split())) == sys.version_info[:2]


def make(pair: Pair, folder: Path) -> Path:
    """The Python of an environment with the pair, made once; constraints are those of the project, less Transformers."""
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if (folder / "made").exists():
        return python
    subprocess.run([pair.python, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if is_this(pair.python):
        own = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        shared = sysconfig.get_path("purelib")
        (Path(own) / "shared.pth").write_text(f"{shared}\n", encoding="utf-8")
        subprocess.run([*pip, pair.wanted], check=True)
    else:
        kept = folder / "constraints.txt"
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        kept.write_text(
            "\n".join(one for one in lines if not one.startswith("transformers==")), encoding="utf-8"
        )
        subprocess.run([*pip, "--constraint", str(kept), f"{ROOT}[dev]", pair.wanted], check=True)
    (folder / "made").touch()
    return python


def versions(python: Path) -> tuple[str, str]:
    """Of Python and Transformers, as they are imported there."""
    code = "import sys, json, importlib.metadata as m; print(json.dumps(['.'.join(map(str, sys.version_info[:3])), m.version('transformers')]))"
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    first, second = json.loads(said.stdout)
    return first, second


def outcomes(text: str) -> dict[str, int]:
    """The counts of pytest's last line."""
    lines = [line for line in text.splitlines() if " in " in line and _OUTCOME.search(line)]
    return (
        {name.removesuffix("s"): int(count) for count, name in _OUTCOME.findall(lines[-1])} if lines else {}
    )


def tested(python: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """pytest's exit code and what it printed; the code under test is this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [python, "-m", "pytest", *QUICK, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def row(found: tuple[str, str], counts: dict[str, int], arguments: Sequence[str], day: datetime.date) -> str:
    """A row of the table: Python, Transformers, what ran, passed, failed, skipped, date."""
    failed = counts.get("failed", 0) + counts.get("error", 0)
    cells = (
        *found,
        " ".join(arguments) or "all",
        counts.get("passed", 0),
        failed,
        counts.get("skipped", 0),
        day,
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="programs")
    parser.add_argument(
        "--transformers", nargs="+", default=[floors()[1], NEWEST], help="versions, or newest"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("build/versions"), help="of the environments and logs"
    )
    parser.add_argument("arguments", nargs="*", help="of pytest, after --")
    given = parser.parse_args()
    worst = 0
    print(
        "| Python | Transformers | tests | passed | failed | skipped | date |\n|---|---|---|---|---|---|---|"
    )
    for pair in (Pair(python, version) for python in given.python for version in given.transformers):
        name = f"{Path(pair.python).name}-{pair.transformers}"
        python = make(pair, (given.folder / name).absolute())
        code, text = tested(python, given.arguments)
        (given.folder / f"{name}.log").write_text(text, encoding="utf-8")
        print(row(versions(python), outcomes(text), given.arguments, datetime.date.today()), flush=True)
        worst = max(worst, code)
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
