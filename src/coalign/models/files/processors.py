"""What a model says that it is, and the processor of one that sees."""

from __future__ import annotations

from typing import Any

from coalign.models.files.failures import explained
from coalign.models.files.places import locate


def model_type(name: str, revision: str | None = None) -> str:
    """The kind that a model's configuration names (`clip`, `blip-2`, ...).

    Raises:
        ModelError: there is no such model, or its configuration cannot be read.
    """
    from transformers import AutoConfig

    return _loaded(AutoConfig, name, revision, "a model").model_type


def load_processor(kind: Any, name: str, revision: str | None = None) -> Any:
    """The processor of a model, by an auto class of Transformers.

    Raises:
        ModelError: it cannot be found or read.
    """
    return _loaded(kind, name, revision, "a model with a processor")


def _loaded(kind: Any, name: str, revision: str | None, what: str) -> Any:
    place = locate(name, revision)
    try:
        return kind.from_pretrained(place.path, revision=place.revision, local_files_only=place.cached_only)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise explained(error, place, what) from error
