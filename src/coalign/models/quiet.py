"""Libraries that write to the terminal what is of no use to who sits at it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def no_weight_bars() -> Iterator[None]:
    """No progress bars of Transformers over reading and writing weights. Bars of downloads stay."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as theirs

    if not theirs.is_progress_bar_enabled():
        yield
        return
    downloads = not are_progress_bars_disabled()
    theirs.disable_progress_bar()
    if downloads:  # Transformers turns both off together
        enable_progress_bars()
    try:
        yield
    finally:
        theirs.enable_progress_bar()


@contextlib.contextmanager
def no_load_report() -> Iterator[None]:
    """No table of Transformers over weights that a model lacks, for callers that look at them themselves."""
    from transformers.utils import logging as theirs

    before = theirs.get_verbosity()
    theirs.set_verbosity_error()
    try:
        yield
    finally:
        theirs.set_verbosity(before)


@contextlib.contextmanager
def without_message(part: str, logger: str) -> Iterator[None]:
    """Inside the block a library's logger does not say what has `part` in it: a false alarm."""

    def others(record: logging.LogRecord) -> bool:
        return part not in record.getMessage()

    theirs = logging.getLogger(logger)
    theirs.addFilter(others)
    try:
        yield
    finally:
        theirs.removeFilter(others)
