"""Code of the user, named on a command line or in a configuration: `file.py:name` or `module:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from coalign.core.errors import ConfigError, in_one_line

OWN_FILES: set[str] = set()
"""Files of the user that were imported."""


def names_code(text: str) -> bool:
    """Whether the text is `file.py:name`."""
    return text.partition(":")[0].endswith(".py")


def load_code(text: str, what: str) -> Any:
    """What `file.py:name` or `module:name` names. A file is imported once a process, and may import its neighbours.

    Args:
        what: it is to be, for messages.

    Raises:
        ConfigError: there is no such file, module or name, or the code cannot be imported.
    """
    place, _, name = text.partition(":")
    try:
        module = _of_file(Path(place)) if names_code(text) else importlib.import_module(place)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{what}: {place} cannot be imported ({in_one_line(error)}).") from error
    if not name:
        raise ConfigError(f"{what}: {text!r} names no function, expected {place}:NAME.")
    if not hasattr(module, name):
        known = [one for one in vars(module) if not one.startswith("_") and callable(getattr(module, one))]
        raise ConfigError(f"{what}: {place} has no {name!r}, expected one of: {', '.join(known) or 'none'}.")
    return getattr(module, name)


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file.")
    path = path.resolve()
    OWN_FILES.add(str(path))
    alias = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if alias in sys.modules:
        return sys.modules[alias]
    spec = importlib.util.spec_from_file_location(alias, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[alias] = module  # dataclasses of the file look themselves up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[alias]
        raise
    return module
