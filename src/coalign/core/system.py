"""What a system is: a module with a configuration and a run, found through the catalogue by its slug.

Config                                    keyword-only dataclass of options (see core.options)
run(config: Config, run: Run) -> None     does the work; writes artefacts, model and report into the run folder

Its check is a module of its own, `checks/papers/<room>/<slug>.py`, which no run loads:

check(run: Run, **options) -> Verdict     the paper's headline claim at desk scale
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from coalign.core.errors import ConfigError

if TYPE_CHECKING:
    from coalign.core.catalogue import Entry


def module_name(room: str, slug: str) -> str:
    """`selfalign`, `self-specialization` -> `coalign.selfalign.self_specialization`."""
    return f"coalign.{room}.{slug.replace('-', '_')}"


def load_system(slug: str) -> ModuleType:
    """Import the system `slug`.

    Raises:
        ConfigError: unknown (the nearest slug is named) or planned but not yet available.
    """
    entry = _available(slug)
    return importlib.import_module(module_name(entry.room, entry.slug))


def check_module_name(room: str, slug: str) -> str:
    """`preference`, `ln-dpo` -> `coalign.checks.papers.preference.ln_dpo`."""
    return module_name(f"checks.papers.{room}", slug)


def load_check(slug: str) -> ModuleType:
    """Import the module with the check of the system `slug`.

    Raises:
        ConfigError: the system is unknown, planned, or has no check of its claim yet.
    """
    entry = _available(slug)
    if not entry.checked:
        raise ConfigError(f"{slug}: runs, but has no check of its claim yet.")
    return importlib.import_module(check_module_name(entry.room, entry.slug))


def _available(slug: str) -> Entry:
    from coalign.core.catalogue import get

    entry = get(slug)
    if not entry.available:
        raise ConfigError(
            f"{slug} is planned, not yet available.", hint="`coalign methods --available` lists what can run."
        )
    return entry
