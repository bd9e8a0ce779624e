"""Whether there are kernels for one row, and up to how many threads they are the quicker way."""

from __future__ import annotations

import logging
from typing import Any

from coalign.core.extras import is_installed

logger = logging.getLogger(__name__)

MOST_THREADS = 2
"""The kernels work with one thread; where there are more than these, PyTorch's operations share the work among them."""


def kernels_of_one_row() -> Any:
    """The module of kernels. None where numba is not installed, or finds no place to keep what it has compiled."""
    if not is_installed("numba"):
        return None
    try:
        from coalign.models.generation.one_row import kernels
    except RuntimeError as error:
        logger.debug("Rows are decoded by PyTorch's operations: %s", error)
        return None
    return kernels
