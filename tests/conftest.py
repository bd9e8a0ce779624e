"""What every test gets: a cache of its own, so that a test run leaves the user's alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
