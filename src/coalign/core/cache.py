"""Where coalign keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """The cache folder: `$COALIGN_CACHE`, else the platform's place for user caches. It may not exist yet."""
    override = os.environ.get("COALIGN_CACHE")
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("coalign"))


def folder_size(path: Path) -> int:
    """Bytes under `path`; 0 when it does not exist. Links are not followed."""
    files = (one for one in path.rglob("*") if one.is_file() and not one.is_symlink())
    return sum(one.stat().st_size for one in files)
