"""The hub of models and data sets: whether it can be reached, and what is taken from its cache on this machine instead."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

HUB_TIMEOUT = 3.0
TAKEN: dict[str, str] = {}
"""Data sets that were taken from the cache, since the hub could not be reached: name to the date of the copy."""
_ASKED = ("HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac")
"""A repository that is there, whoever asks."""


@functools.cache
def hub_problem(timeout: float = HUB_TIMEOUT) -> str | None:
    """Why the hub cannot be reached, None when it can. Asked once a process.

    The question runs in a thread of its own: looking up a name with a dead resolver ignores every time-out.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import RepositoryNotFoundError

    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    answer: list[str | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(_ASKED[0], revision=_ASKED[1], timeout=timeout)
            answer.append(None)
        except RepositoryNotFoundError:  # a mirror that does not hold it has answered
            answer.append(None)
        except Exception as error:
            reason = str(error).partition("For more information")[0] or type(error).__name__
            answer.append(" ".join(reason.split())[:200])

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answer[0] if answer else f"no answer within {timeout:g} s"


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Have `datasets` take what is in its cache, or fail at once: it would ask again and again for half a minute."""
    import datasets.config
    import huggingface_hub.constants

    places = ((huggingface_hub.constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE"))
    before = [getattr(*one) for one in places]
    try:
        for module, name in places:
            setattr(module, name, True)
        yield
    finally:
        for (module, name), value in zip(places, before, strict=True):
            setattr(module, name, value)


def date_of(path: str | Path) -> str:
    """The day on which a file was written."""
    return time.strftime("%Y-%m-%d", time.localtime(Path(path).lstat().st_mtime))
