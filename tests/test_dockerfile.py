"""The images are built from the pins that the tests run with, and from files that reach the build."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

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
    assert len(installs()) == 4
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


def stages() -> dict[str, tuple[str, list[str]]]:
    """Name of a stage to what it begins with and its instructions."""
    found: dict[str, tuple[str, list[str]]] = {}
    for line in INSTRUCTIONS:
        if line.startswith("FROM "):
            _, base, _, name = line.split()
            found[name] = (base, [])
        elif found and line.strip():
            found[next(reversed(found))][1].append(line.strip())
    return found


def test_one_stage_stands_on_either_torch_and_runs_without_root() -> None:
    found = stages()
    (default,) = re.findall(r"^ARG DEVICE=(\w+)", DOCKERFILE, re.MULTILINE)
    base, steps = found["coalign"]
    assert list(found)[-1] == "coalign"  # what is built where no target is named
    assert base == "torch-${DEVICE}"
    assert {name for name in found if name.startswith("torch-")} == {"torch-cpu", "torch-cuda"}
    assert f"torch-{default}" in found
    user = steps.index("USER coalign")
    assert steps.index('ENTRYPOINT ["coalign"]') > user
    assert not any(line.startswith("RUN") for line in steps[user:])


def test_nothing_is_done_in_two_stages() -> None:
    steps = [line for _, lines in stages().values() for line in lines]
    assert len(set(steps)) == len(steps)


def test_every_line_is_an_instruction_that_shell_and_docker_read() -> None:
    known = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "SHELL", "RUN", "USER", "ENTRYPOINT", "CMD"}
    lines = [line for line in INSTRUCTIONS if line.strip()]
    assert {line.split()[0] for line in lines} == known
    for line in lines:
        word, rest = line.split(maxsplit=1)
        if word in ("SHELL", "ENTRYPOINT", "CMD"):
            assert all(isinstance(one, str) for one in json.loads(rest))
        if word == "RUN":
            command = re.sub(r"^(--\S+\s+)*", "", rest)
            subprocess.run(["bash", "-n", "-c", command], check=True)
