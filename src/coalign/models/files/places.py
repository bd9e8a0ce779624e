"""Where a model's files are: `default`, a hub id, a model folder, an adapter folder or a run folder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.errors import ModelError
from coalign.core.names import name_of_place
from coalign.core.runs import Run
from coalign.data.files.hub import date_of
from coalign.models.files.defaults import DEFAULTS, SHIPPED, Kind, default_model_path, hub_problem

DESCRIPTIONS = ("config.json", "adapter_config.json", "model_index.json")
"""What says in a folder that it is a model: a whole one, an adapter, a pipeline of diffusers."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Location:
    """Where the files of a model are.

    Attributes:
        name: what to record as the model's name: a hub id or an absolute folder.
        path: folder or hub id to load from.
        revision: on the hub, None for a folder.
        cached_only: the hub cannot be reached; take the copy in its cache on this machine.
    """

    name: str
    path: str
    revision: str | None = None
    cached_only: bool = False

    @property
    def adapter_config(self) -> Path:
        return Path(self.path) / "adapter_config.json"

    @property
    def adapter_settings(self) -> dict[str, Any]:
        """What `adapter_config.json` holds."""
        return json.loads(self.adapter_config.read_text(encoding="utf-8"))

    @property
    def is_adapter(self) -> bool:
        return self.adapter_config.is_file()

    @property
    def of_weights(self) -> dict[str, Any]:
        """Arguments of Transformers' `from_pretrained` for the weights: it looks for an adapter beside them first, and asks
        the hub for one whatever `local_files_only` says (seen in 5.23).
        """
        hub: dict[str, Any] = {"revision": self.revision, "local_files_only": self.cached_only}
        return {**hub, "adapter_kwargs": {"local_files_only": True}} if self.cached_only else hub

    @property
    def kind(self) -> str:
        """What is there, in words."""
        if self.is_adapter:
            return "an adapter"
        return "a whole model" if Path(self.path).is_dir() else "no folder here"


def locate(name: str, revision: str | None = None, *, as_base: bool = False) -> Location:
    """Find a model.

    Args:
        name: `default`, `default-encoder`, a name of `SHIPPED`, a model folder, an adapter folder, a run folder (its `model/`) or a hub id.
        revision: on the hub.
        as_base: the name is recorded as the base of an adapter: the id of an embedded default then means the copy
            that `default` means on this machine.

    Raises:
        ModelError: there is no such folder or run, a run has no model yet, or a revision of a folder was asked for.
    """
    for kind, default in DEFAULTS.items():
        alias = "default" if kind == "chat" else "default-encoder"
        pinned = revision in (None, default.revision)
        same = name == default.hub_id and pinned and (as_base or hub_problem() is not None)
        if name == alias and not pinned:
            raise ModelError(f"{alias} is pinned to one revision, so revision {revision!r} cannot be taken.")
        if name == alias or (same and not _in_hub_cache(name, revision)):
            return Location(default.hub_id, str(default_model_path(kind)))
    folder = SHIPPED.get(name, Path(name)).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(f"{name} is a folder, so revision {revision!r} cannot be taken.")
        folder = _model_folder(folder.resolve())
        return Location(name if name in SHIPPED else str(folder), str(folder))
    if folder.exists() or name.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(name):
        found = "is a file" if folder.exists() else "does not exist"
        raise ModelError(
            f"{name} {found}.", hint="A model is `default`, a hub id, a model folder or a run folder."
        )
    return Location(name, name, revision, cached_only=hub_problem() is not None)


def _in_hub_cache(name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "model.safetensors", revision=revision), str)


def _model_folder(folder: Path) -> Path:
    if (folder / "status.json").is_file() and not (folder / "config.json").is_file():
        state = Run(folder).summary()["state"]
        folder = folder / "model"
        if not folder.is_dir():
            raise ModelError(f"The run {folder.parent} has no model (its state: {state}).")
    if not any((folder / name).is_file() for name in DESCRIPTIONS):
        raise ModelError(f"{folder} is not a model: it holds none of {', '.join(DESCRIPTIONS)}.")
    return folder


def full_name(name: str | None) -> str:
    """A model's name where people read it: of `default` the hub id that it stands for, else as it is."""
    aliases: dict[str | None, Kind] = {"default": "chat", "default-encoder": "encoder"}
    return DEFAULTS[aliases[name]].hub_id if name in aliases else str(name)


def told(name: str, revision: str | None = None) -> str:
    """A model for the plan: of the default, and of a copy that is taken since the hub cannot be reached, with its date."""
    place = locate(name, revision)
    if place.name != name and place.path != place.name:
        return f"{place.name}, the default, copy of {date_of(Path(place.path) / 'config.json')}"
    if place.cached_only:
        from huggingface_hub import try_to_load_from_cache

        copy = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(copy, str):
            return f"{name}, copy of {date_of(copy)} in the hub's cache: the hub cannot be reached"
    return name


def short_name(name: str | None) -> str:
    """`full_name` for a title: of a hub id or a folder the last part, of a run folder's model the run."""
    return name_of_place(full_name(name))


def base_of(place: Location) -> Location:
    """Where the model under an adapter is.

    Raises:
        ModelError: the adapter does not say, or it is not there.
    """
    config = place.adapter_settings
    name = config.get("base_model_name_or_path")
    if not name:
        raise ModelError(f"{place.name} does not say which model it adapts (base_model_name_or_path).")
    try:
        return locate(name, config.get("revision"), as_base=True)
    except ModelError as error:
        hint = error.hint
        if not Path(name).exists():
            hint = (
                f"Put it there, or write where it is as base_model_name_or_path in {Path(place.path) / 'adapter_config.json'}. "
                "To take a model along in one folder: `coalign export RUN --out FOLDER`, where its base is."
            )
        raise ModelError(f"{place.name} adapts another model: {error.message}", hint=hint) from error
