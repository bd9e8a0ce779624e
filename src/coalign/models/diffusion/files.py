"""Diffusion models on disk and on the hub, in the layout of diffusers: whole pipelines and their networks. Safetensors only."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ConfigError, ModelError
from coalign.core.extras import require
from coalign.core.files import atomic_path
from coalign.models.devices import DtypeName, pick_device, pick_dtype
from coalign.models.files.defaults import disk_errors
from coalign.models.files.failures import explained, first_line
from coalign.models.files.places import Location, locate
from coalign.models.quiet import no_weight_bars

if TYPE_CHECKING:
    from torch import nn

PIPELINE = "model_index.json"
LAYOUT = "A folder or hub id in the layout of diffusers: a pipeline (model_index.json)"


def load_pipeline(
    name: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: DtypeName = "auto",
    training: bool = False,
    parts: tuple[str, ...] = (),
    **given: Any,
) -> Any:
    """A pipeline of diffusers on its device, quiet.

    Args:
        name: a folder, a run folder or a hub id; what the hub's cache holds where the hub cannot be reached.
        training: float32 weights.
        parts: components that it must have, such as `unet`, `vae`, `text_encoder`, `scheduler`.
        given: components in place of those on disk, and further arguments of `DiffusionPipeline.from_pretrained`.

    Raises:
        ModelError: absent, no pipeline, weights that are not safetensors, a part that it does not have.
        MissingExtraError: diffusers is not installed.
    """
    diffusers = quiet_diffusers()
    place = locate(name, revision)
    target = pick_device(device)
    with _failures(place, "pipeline", "of any kind"), no_weight_bars():
        found = diffusers.DiffusionPipeline.from_pretrained(
            place.path,
            use_safetensors=True,
            **_hub(place),
            **given,
        )
    assert_parts(found, name, parts)
    found.set_progress_bar_config(disable=True)
    return found.to(target, pick_dtype(target, dtype, training=training))


def assert_parts(pipeline: Any, name: str, parts: tuple[str, ...]) -> None:
    """Refuse a pipeline without a component that the work needs.

    Raises:
        ModelError: it has none; those that it has are named.
    """
    lacking = [one for one in parts if getattr(pipeline, one, None) is None]
    if lacking:
        has = ", ".join(part for part, value in pipeline.components.items() if value is not None)
        raise ModelError(
            f"{name}: a {type(pipeline).__name__} without {', '.join(lacking)}; it has {has}.",
            hint=f"This needs a pipeline with {', '.join(parts)}.",
        )


def load_network(name: str, kind: str, *, revision: str | None = None, part: str = "unet") -> nn.Module:
    """One network: of a pipeline its component `part`, else the folder or hub id itself; float32, on the CPU.

    Args:
        kind: its class in diffusers, such as `UNet2DModel`.

    Raises:
        ModelError: absent, of another kind, or weights that are not safetensors.
    """
    diffusers = quiet_diffusers()
    place = locate(name, revision)
    folder = {"subfolder": part} if is_pipeline(place) else {}
    with _failures(place, "network", f"with a {kind}"):
        config = diffusers.AutoModel.load_config(place.path, **folder, **_hub(place))
        found = dict(config).get("_class_name")
        if found != kind:
            raise ModelError(
                f"{name}: its network is a {found or 'model of another library'}, expected a {kind}."
            )
        return getattr(diffusers, kind).from_pretrained(
            place.path, use_safetensors=True, **folder, **_hub(place)
        )


def network_of_config(path: Path, kind: str) -> nn.Module:
    """A new network as a JSON file describes it; its weights are drawn from torch's random numbers.

    Raises:
        ConfigError: the file is absent, not JSON, or describes another kind or what cannot be built.
    """
    diffusers = quiet_diffusers()
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)}), expected JSON.") from error
    named = config.get("_class_name", kind) if isinstance(config, dict) else type(config).__name__
    if named != kind:
        raise ConfigError(f"{path}: describes a {named}, expected the configuration of a {kind}.")
    try:
        return getattr(diffusers, kind).from_config(config)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ConfigError(f"{path}: a {kind} cannot be built of it ({first_line(error)}).") from error


def is_pipeline(place: Location) -> bool:
    """Whether a whole pipeline is there, rather than a single network."""
    if Path(place.path).is_dir():
        return (Path(place.path) / PIPELINE).is_file()
    from transformers.utils import cached_file

    found = cached_file(
        place.path,
        PIPELINE,
        revision=place.revision,
        local_files_only=place.cached_only,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return found is not None


def save_pipeline(pipeline: Any, path: Path) -> Path:
    """Write a pipeline to `path`, replacing what is there: whole or not at all, in safetensors.

    Raises:
        ModelError: the disk is full.
    """
    quiet_diffusers()
    with atomic_path(path) as temporary, disk_errors(path), no_weight_bars():
        temporary.mkdir()
        pipeline.save_pretrained(str(temporary), safe_serialization=True)
    return path


def quiet_diffusers() -> Any:
    """The library without its progress bars and notes.

    Raises:
        MissingExtraError: it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = require("diffusers", "diffusion")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    return diffusers


def _hub(place: Location) -> dict[str, Any]:
    return {"revision": place.revision, "local_files_only": place.cached_only}


@contextlib.contextmanager
def _failures(place: Location, what: str, kind: str) -> Iterator[None]:
    """What diffusers raises, as what it means to the user."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        if place.cached_only or not Path(place.path).is_dir():
            raise explained(error, place, what) from error
        raise ModelError(
            f"{place.name}: no {what} {kind} that can be loaded ({first_line(error)}).",
            hint=f"{LAYOUT}, with weights in safetensors.",
        ) from error
