"""A model as one folder that any tool loads, or one GGUF file: adapters folded in or apart, in a number format, on disk or on
the hub; and the records that a run made, with their card.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from coalign.core.errors import ConfigError, ModelError
from coalign.core.files import atomic_path, write_text
from coalign.core.runs import Run
from coalign.models.files.defaults import disk_errors
from coalign.models.files.failures import first_line
from coalign.models.files.llama_cpp.writing import OutType, write_adapter, write_model
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.files.places import Location, locate, short_name
from coalign.models.files.saving import save_model
from coalign.models.options import ModelOptions
from coalign.report.data_card import data_card
from coalign.report.model_card import recast

CARD = "README.md"
DATA_CARD = "DATA.md"
GGUF = ".gguf"
NO_TOKEN, TOKEN_HINT = "There is no token for the hub.", "`hf auth login`, or set HF_TOKEN."


def export(
    options: ModelOptions, target: Path, *, adapter: bool = False, max_shard_size: str | None = None
) -> Path:
    """Write a model to `target` in Hugging Face layout, whole or not at all, with the model card that it has and, of a run's model, a
    card of its data (`DATA.md`).

    Args:
        options: `model` (a run, a folder or a hub id), `revision`, `save_dtype`.
        adapter: the adapter alone, as it is; else it is folded into its base.
        max_shard_size: of the files of weights, such as `2GB`.

    Raises:
        ConfigError: `adapter` of a whole model, or with a number format.
        ModelError: the model is not there or cannot be read.
    """
    place = locate(options.model, options.revision)
    if adapter and not place.is_adapter:
        raise ConfigError(f"{options.model} is a whole model.", hint="Leave --adapter out.")
    if adapter and options.save_dtype != "auto":
        raise ConfigError("--dtype has no effect on an adapter, which stays as it is.")
    if adapter and max_shard_size is not None:
        raise ConfigError("--max-shard-size has no effect on an adapter, which stays as it is.")
    changes = (max_shard_size, options.chat_template)
    unchanged = not place.is_adapter and options.save_dtype == "auto" and changes == (None, None)
    if adapter or (unchanged and Path(place.path).is_dir()):  # also reward models, other modalities
        with atomic_path(target) as folder, disk_errors(target):
            shutil.copytree(place.path, folder)
    else:
        model, tokenizer = load_model(options, training=True), load_tokenizer(options)
        save_model(model, tokenizer, target, max_shard_size=max_shard_size)
        _keep_card(place, target)
    _keep_data_card(place, target)
    return target


def export_gguf(options: ModelOptions, target: Path, outtype: OutType, *, adapter: bool = False) -> Path:
    """Write a model, or an adapter alone, as GGUF: to the file `target` where its name ends in `.gguf`, else to a folder with
    the cards beside it.

    Raises:
        ConfigError, ModelError, MissingExtraError: as `write_model` and `write_adapter` have them.
    """
    write = write_adapter if adapter else write_model
    if target.suffix == GGUF:
        return write(options, target, outtype)
    place = locate(options.model, options.revision)
    file = f"{short_name(place.name)}-{outtype}{GGUF}"
    with atomic_path(target) as folder:
        folder.mkdir()
        write(options, folder / file, outtype)
        _keep_card(place, folder, file=file, adapter=adapter)
        _keep_data_card(place, folder)
    return target


def export_records(name: str, target: Path) -> Path:
    """Write the records that a run made to `target`, with a card as data sets have it on the hub.

    Raises:
        ModelError: it is no run, or one that made no records.
    """
    run = Run(Path(name))
    if not (run.path / "status.json").is_file():
        raise ModelError(f"{name} is no run folder.", hint="--records takes a run that made records.")
    records = run.records
    if records is None or not records.is_file():
        raise ModelError(f"{name} made no records (its state: {run.summary()['state']}).")
    with atomic_path(target) as folder, disk_errors(target):
        folder.mkdir()
        shutil.copy(records, folder / records.name)
        write_text(folder / CARD, data_card(run, records=str(records.relative_to(run.path))))
    return target


def push(
    folder: Path,
    repo: str,
    *,
    private: bool,
    token: str | None = None,
    kind: Literal["model", "dataset"] = "model",
) -> str:
    """Upload a folder to the hub, and give its address.

    Args:
        repo: `name` or `organisation/name`; made where it is not there.
        kind: of repository.

    Raises:
        ModelError: it cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HTTPError,
        LocalTokenNotFoundError,
    )  # of the client that this version uses

    api = HfApi(token=token)
    try:
        made = api.create_repo(repo, private=private, exist_ok=True, repo_type=kind)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=str(folder), repo_type=kind, commit_message=kind.capitalize()
        )
    except LocalTokenNotFoundError as error:
        raise ModelError(NO_TOKEN, hint=TOKEN_HINT) from error
    except (HTTPError, OSError, RuntimeError) as error:  # the last is of hf_xet, which uploads large files
        raise ModelError(
            f"{repo}: not pushed ({first_line(error)}).",
            hint=f"What was written stands in {folder}: `hf upload {repo} {folder} --repo-type {kind}`.",
        ) from error
    return str(made)


def assert_pushable(repo: str) -> None:
    """Refuse what `push` would, before anything is written for it: a name that the hub has not, or no token.

    Raises:
        ConfigError: such a name.
        ModelError: there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"--push: {first_line(error)}") from error
    if get_token() is None:
        raise ModelError(NO_TOKEN, hint=TOKEN_HINT)


def base_elsewhere(options: ModelOptions) -> str | None:
    """Where the base of an adapter is that nobody else can load: a folder of this machine; None where all is well."""
    place = locate(options.model, options.revision)
    if not place.is_adapter:
        return None
    base = str(place.adapter_settings.get("base_model_name_or_path") or "")
    return base if Path(base).is_absolute() else None


def _keep_card(place: Location, folder: Path, *, file: str | None = None, adapter: bool = False) -> None:
    """The model's own card, for the form in which it now is."""
    card = Path(place.path) / CARD
    if card.is_file() and not (folder / CARD).exists():
        text = card.read_text(encoding="utf-8")
        write_text(
            folder / CARD, recast(text, file=file, adapter=adapter) if place.is_adapter or file else text
        )


def _keep_data_card(place: Location, folder: Path) -> None:
    run = Run(Path(place.path).parent)
    if run.model == Path(place.path) and (run.path / "status.json").is_file():
        write_text(folder / DATA_CARD, data_card(run))
