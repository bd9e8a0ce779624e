"""Libraries that write to the terminal what is of no use to who sits at it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def no_weight_bars() -> Iterator[None]:
    """No progress bars of Transformers over reading and writing weights. Bars of downloads stay."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    downloads = not are_progress_bars_disabled()
    logging.disable_progress_bar()
    if downloads:  # Transformers turns both off together
        enable_progress_bars()
    try:
        yield
    finally:
        logging.enable_progress_bar()


@contextlib.contextmanager
def no_load_report() -> Iterator[None]:
    """No table of Transformers over weights that a model lacks, for callers that look at them themselves."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
