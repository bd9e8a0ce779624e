"""Imports that wait for their first use, so that the command line reads options without loading what a run needs.

`import torch` costs seconds, and nearly every module of a system has that line. In the process of the command line
`defer("torch")` puts an empty module in its place, which becomes the real one when something reads an attribute of it.
Whoever imports coalign as a library never calls `defer`, and gets plain imports.

`importlib.util.LazyLoader` is no help: before Python 3.12 a second `import` of the same module already reads an
attribute of it, and so loads it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    """A module that runs its code, in place, when an attribute is read that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        _load(self)
        return getattr(self, name)


def defer(*names: str) -> None:
    """Let top-level modules that are neither imported nor absent wait for their first use.

    A module that takes another's place in `sys.modules` while it is imported cannot be deferred.
    """
    for name in names:
        spec = None if name in sys.modules else find_spec(name)
        if spec is None or spec.loader is None:
            continue
        module = module_from_spec(spec)
        # Without a path `import torch.nn` asks for it, which loads the package first.
        vars(module).pop("__path__", None)
        module.__class__ = _Deferred
        sys.modules[name] = module


def load_deferred() -> None:
    """Load what still waits. To be called before threads or processes are started: loading is for one thread."""
    for module in list(sys.modules.values()):
        if type(module) is _Deferred:
            _load(module)


def _load(module: ModuleType) -> None:
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    module.__class__ = ModuleType
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # As after any import that failed: the next one starts afresh.
        sys.modules.pop(spec.name, None)
        raise
