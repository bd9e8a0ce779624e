"""Every module of the package can be imported, and the light ones stay light."""

from __future__ import annotations

import ast
import graphlib
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import KeysView
from pathlib import Path

import pytest

import coalign

MODULES = sorted(module.name for module in pkgutil.walk_packages(coalign.__path__, prefix="coalign."))
LIGHT = [
    "coalign.cli.main",
    "coalign.cli.running.methods",
    "coalign.cli.results.runs",
    "coalign.core.catalogue",
    "coalign.core.options",
    "coalign.core.runs",
    "coalign.core.system",
    "coalign.data.records",
]


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name: str) -> None:
    importlib.import_module(name)


def test_light_modules_leave_torch_alone() -> None:
    code = f"import sys, {', '.join(LIGHT)}; print('torch' in sys.modules, 'transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


def test_no_circle_of_imports() -> None:
    """Every import counts, also those inside functions and under `TYPE_CHECKING`: they tie files together as well."""
    root = Path(coalign.__path__[0])
    files = {
        ".".join(("coalign", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in root.rglob("*.py")
    }
    graph = {name: _imported(path, files.keys()) - {name} for name, path in files.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def _imported(path: Path, modules: KeysView[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}:{node.lineno}: a relative import"
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= names & modules or {node.module}
    return found & modules


def test_names_of_the_package_are_those_that_type_checkers_see() -> None:
    stub = ast.parse(Path(coalign.__path__[0], "__init__.pyi").read_text(encoding="utf-8"))
    seen = {
        name.name: f"{node.module}.{name.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert seen == {name: f"{module}.{name}" for name, module in vars(coalign)["_MODULES"].items()}
    assert {*seen} <= {*dir(coalign)}
    assert all(getattr(coalign, name) is not None for name in seen)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(coalign, "noth" + "ing")
