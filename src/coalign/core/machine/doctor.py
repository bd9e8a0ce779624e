"""What this machine has: versions, extras, caches, disk, cores and memory. Imports no torch."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

from coalign.core.cache import cache_root, folder_size
from coalign.core.extras import EXTRAS, is_installed
from coalign.core.machine.cores import usable_cores
from coalign.core.runs import PACKAGES, version

LOW_DISK = 2e9
"""Bytes; less free space than this is reported as a problem."""
_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")


def versions() -> dict[str, str | None]:
    """Python, the platform and every package that coalign leans on; None where one is missing."""
    system = {"python": platform.python_version(), "platform": platform.platform()}
    return {**system, **{name: version(name) for name in PACKAGES}}


def machine() -> dict[str, Any]:
    """Cores that this process may use and memory in bytes, within the limits of a container."""
    import psutil

    memory = psutil.virtual_memory()
    total = memory.total
    if _CGROUP_MEMORY.is_file():
        limit = _CGROUP_MEMORY.read_text(encoding="utf-8").strip()
        total = min(total, int(limit)) if limit.isdigit() else total
    return {
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory": total,
        "free_memory": memory.available,
    }


def extras() -> list[dict[str, Any]]:
    """Every extra: whether it is installed, which modules are missing, what it unlocks."""
    rows = []
    for name, (modules, unlocks) in EXTRAS.items():
        missing = [module for module in modules if not is_installed(module)]
        rows.append({"extra": name, "installed": not missing, "missing": missing, "unlocks": unlocks})
    return rows


def caches() -> list[dict[str, Any]]:
    """coalign's cache and the hub's: path, bytes, free bytes on its disk, whether it can be written."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return [_cache("coalign", cache_root()), _cache("hub", Path(HF_HUB_CACHE))]


def _cache(name: str, path: Path) -> dict[str, Any]:
    existing = next(one for one in (path, *path.absolute().parents) if one.exists())
    return {
        "name": name,
        "path": str(path),
        "bytes": folder_size(path),
        "free": shutil.disk_usage(existing).free,
        "writable": os.access(existing, os.W_OK),
    }
