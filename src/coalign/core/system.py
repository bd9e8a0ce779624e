"""What a system is: a module with a configuration, a run and a check, found through the catalogue by its slug.

Config                                    keyword-only dataclass of options (see core.options)
run(config: Config, run: Run) -> None     does the work; writes artefacts, model and report into the run folder
check(run: Run, **options) -> Verdict     the paper's headline claim at desk scale
"""

from __future__ import annotations

import importlib
from types import ModuleType

from coalign.core.errors import ConfigError


def module_name(room: str, slug: str) -> str:
    """`selfalign`, `self-specialization` -> `coalign.selfalign.self_specialization`."""
    return f"coalign.{room}.{slug.replace('-', '_')}"


def load_system(slug: str) -> ModuleType:
    """Import the system `slug`.

    Raises:
        ConfigError: unknown (the nearest slug is named) or planned but not yet available.
    """
    from coalign.core.catalogue import get

    entry = get(slug)
    if not entry.available:
        raise ConfigError(
            f"{slug} is planned, not yet available.", hint="`coalign methods --available` lists what can run."
        )
    return importlib.import_module(module_name(entry.room, entry.slug))
