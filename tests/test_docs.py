"""What README and docs say holds: generated tables are current, commands and flags exist, links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import unknown_in

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
COMMANDS = [
    (page, line.strip())
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip().startswith("coalign ")
]


def test_the_table_of_systems_is_current() -> None:
    script = ROOT / "docs" / "gen_readme.py"
    result = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_check_sees_an_old_table(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    script = tmp_path / "docs" / "gen_readme.py"
    script.write_text((ROOT / "docs" / "gen_readme.py").read_text(encoding="utf-8"), encoding="utf-8")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text.replace("cream", "crème"), encoding="utf-8")
    check = [sys.executable, str(script), "--check"]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1
    subprocess.run([sys.executable, str(script)], check=True)
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("page", "line"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value.name
)
def test_commands_in_the_docs_exist_with_their_flags(
    page: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scripts = re.findall(
        r"```python title=\"(.+?)\"\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    for name, source in scripts:
        Path(name).write_text(source, encoding="utf-8")
    assert unknown_in(line) == [], f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if link.startswith(("http", "mailto:")):
            continue
        target = (page.parent / link).resolve()
        generated = {"systems", "api"} & {target.parent.name}
        assert target.exists() or generated, f"{page.name}: {link}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    quiet = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, **quiet}, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-4000:]
    assert (tmp_path / "systems" / "cream.html").exists()
    assert 'id="cream"' in (tmp_path / "results" / "index.html").read_text(encoding="utf-8")
