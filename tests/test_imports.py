"""Every module of the package can be imported, and the light ones stay light."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import coalign

MODULES = sorted(module.name for module in pkgutil.walk_packages(coalign.__path__, prefix="coalign."))
LIGHT = [
    "coalign.cli.main",
    "coalign.cli.methods",
    "coalign.cli.runs",
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
