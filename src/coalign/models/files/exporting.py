"""A model as one folder that any tool loads: adapters folded in or apart, in a number format, on disk or on the hub."""

from __future__ import annotations

import shutil
from pathlib import Path

from coalign.core.errors import ConfigError, ModelError
from coalign.core.files import atomic_path
from coalign.models.files.defaults import disk_errors
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.files.places import Location, locate
from coalign.models.files.saving import save_model
from coalign.models.options import ModelOptions

CARD = "README.md"


def export(options: ModelOptions, target: Path, *, adapter: bool = False) -> Path:
    """Write a model to `target` in Hugging Face layout, whole or not at all, with the model card that it has.

    Args:
        options: `model` (a run, a folder or a hub id), `revision`, `save_dtype`.
        adapter: the adapter alone, as it is; else it is folded into its base.

    Raises:
        ConfigError: `adapter` of a whole model, or with a number format.
        ModelError: the model is not there or cannot be read.
    """
    place = locate(options.model, options.revision)
    if adapter and not place.is_adapter:
        raise ConfigError(f"{options.model} is a whole model.", hint="Leave --adapter out.")
    if adapter and options.save_dtype != "auto":
        raise ConfigError("--dtype has no effect on an adapter, which stays as it is.")
    as_it_is = adapter or (
        not place.is_adapter and options.save_dtype == "auto" and Path(place.path).is_dir()
    )
    if as_it_is:  # reward models and models of other modalities as well
        with atomic_path(target) as folder, disk_errors(target):
            shutil.copytree(place.path, folder)
    else:
        save_model(load_model(options, training=True), load_tokenizer(options), target)
        _keep_card(place, target)
    return target


def push(folder: Path, repo: str, *, private: bool, token: str | None = None) -> str:
    """Upload a model folder to the hub, and give its address.

    Args:
        repo: `name` or `organisation/name`; made where it is not there.

    Raises:
        ModelError: it cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(token=token)
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=str(folder), commit_message="Model")
    except LocalTokenNotFoundError as error:
        raise ModelError(
            "There is no token for the hub.", hint="`hf auth login`, or set HF_TOKEN."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"{repo}: not pushed ({str(error).splitlines()[0]}).") from error
    return str(made)


def base_elsewhere(options: ModelOptions) -> str | None:
    """Where the base of an adapter is that nobody else can load: a folder of this machine; None where all is well."""
    place = locate(options.model, options.revision)
    if not place.is_adapter:
        return None
    base = str(place.adapter_settings.get("base_model_name_or_path") or "")
    return base if Path(base).is_absolute() else None


def _keep_card(place: Location, folder: Path) -> None:
    card = Path(place.path) / CARD
    if card.is_file() and not (folder / CARD).exists():
        shutil.copy(card, folder / CARD)
