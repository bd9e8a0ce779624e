"""What Transformers' failures to load something mean to a user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coalign.core.errors import CoalignError, ModelError, in_one_line
from coalign.models.files.defaults import hub_problem

if TYPE_CHECKING:
    from coalign.models.files.places import Location


def explained(error: Exception, place: Location, what: str) -> CoalignError:
    """What a failure of Transformers means to the user."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    causes = list(_causes(error))
    name = place.name
    if any(isinstance(one, GatedRepoError) for one in causes):
        return ModelError(
            f"{name} is gated: its owners ask for consent first.",
            hint=f"Accept the terms at https://huggingface.co/{name} and run `hf auth login`.",
        )
    if any(isinstance(one, RevisionNotFoundError) for one in causes):
        return ModelError(f"{name} has no revision {place.revision!r}.")
    if any(isinstance(one, RepositoryNotFoundError) for one in causes):
        hint = "Check the spelling; for a private model run `hf auth login`."
        return ModelError(f"{name} is neither a folder here nor a model on the hub.", hint=hint)
    if place.cached_only:
        return ModelError(
            f"{name} is neither a folder here nor in the hub's cache, and the hub cannot be reached ({hub_problem()}).",
            hint="Check the connection, give a model folder, or use the embedded `default`.",
        )
    if what == "model" and "safetensors" in str(error) and isinstance(error, OSError):
        return ModelError(
            f"{name} has no safetensors weights: {first_line(error)}",
            hint="Other formats can run code and are not read.",
        )
    if "trust_remote_code" in str(error):
        return ModelError(
            f"{name} brings its own Python code.", hint="Read it, then allow it with --trust-remote-code."
        )
    return ModelError(f"{name}: the {what} cannot be loaded: {first_line(error)}")


def _causes(error: BaseException | None) -> Any:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    """A failure in one line."""
    return in_one_line(error, named=not str(error))
