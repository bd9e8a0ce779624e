"""The images are built from the pins that the tests run with, and from files that reach the build."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE)).splitlines()
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def canonical(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installs() -> list[str]:
    """Every `pip install` of the file, one command each."""
    return [
        part for line in INSTRUCTIONS for part in re.split(r"&&|(?=xargs)", line) if "pip install" in part
    ]


def test_every_install_is_held_to_the_pins() -> None:
    assert len(installs()) == 6
    for command in installs():
        assert "--constraint constraints.txt" in command or "--no-deps" in command, command


def test_versions_that_the_file_writes_are_those_of_the_project() -> None:
    optional = [name for names in PROJECT["optional-dependencies"].values() for name in names]
    known = {f"{name}=={version}" for name, version in PINS.items()} | set(optional)
    written = {word for command in installs() for word in shlex.split(command) if "==" in word}
    assert written
    assert written <= known


def test_what_the_images_install_by_name_is_pinned() -> None:
    """Without a pin an image has the newest version of the day it is built."""
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    named = [name for extra in everything[8:-1].split(",") for name in extras[extra]] + PROJECT[
        "dependencies"
    ]
    wanted = {canonical(re.split(r"[\[<>=]", name)[0]) for name in named}
    assert wanted - {canonical(name) for name in PINS} == set()


def test_torch_without_cuda_is_one_pinned_line() -> None:
    """What `grep` hands to pip: a second line that begins alike would be installed too."""
    (pattern,) = re.findall(r"grep -E '([^']+)' constraints.txt", DOCKERFILE)
    found = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if re.search(pattern, line)]
    assert found == [f"torch=={PINS['torch']}"]


def test_python_is_one_that_the_project_names() -> None:
    (version,) = re.findall(r"FROM python:([\d.]+)-slim", DOCKERFILE)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in INSTRUCTIONS if line.startswith("COPY") for word in line.split()[1:-1]}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_begins_with_its_own_torch_and_runs_without_root(target: str) -> None:
    start = INSTRUCTIONS.index(f"FROM torch-{target} AS {target}")
    end = next((n for n in range(start + 1, len(INSTRUCTIONS)) if INSTRUCTIONS[n].startswith("FROM")), None)
    stage = INSTRUCTIONS[start:end]
    user = stage.index("USER coalign")
    assert stage.index('ENTRYPOINT ["coalign"]') > user
    assert not any(line.startswith("RUN") for line in stage[user:])
