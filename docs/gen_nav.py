"""The parts of the navigation that follow from the catalogue and the packages."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

import coalign
from coalign.core.catalogue import entries

ROOT = Path(coalign.__file__).parent


def on_config(config: Any) -> Any:
    """Called by MkDocs: append the systems and the API to the navigation."""
    systems = [f"systems/{entry.slug}.md" for entry in entries() if entry.available]
    pages = [f"api/{package}.md" for package in api_packages()]
    config.nav += [{"Systems": ["systems/index.md", *systems]}, {"API": ["api/index.md", *pages]}]
    return config


def api_packages() -> dict[str, list[str]]:
    """Packages to their modules. Systems have pages of their own; the command line documents itself."""
    systems = {entry.slug.replace("-", "_") for entry in entries()}
    packages: dict[str, list[str]] = {}
    for package in pkgutil.iter_modules([str(ROOT)]):
        names = [one.name for one in pkgutil.iter_modules([str(ROOT / package.name)])]
        modules = [name for name in names if name not in systems and not name.startswith("_")]
        if modules and package.name != "cli":
            packages[package.name] = modules
    return packages
