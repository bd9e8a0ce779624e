"""What a model is, whatever it is called: a hash over the contents of the files that decide what it answers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from coalign.core.cache import cache_root
from coalign.core.files import file_sha256, write_json
from coalign.models.files.places import Location, base_of, locate
from coalign.models.files.stored import cached_path
from coalign.models.options import ModelOptions

_DECIDING = (
    "*.safetensors",
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "additional_chat_templates/*",
    "*.py",
)
_BLOCK = 2**22


def model_identity(options: ModelOptions) -> str:
    """A hash of weights, configuration and tokenizer of the model that `options` name, of its base under an adapter,
    and of the options that decide how it is loaded. 32 hexadecimal digits.

    A folder's files are read whole once, and again when they change. What comes from the hub has the revision that
    was fetched as its identity: it names the contents.

    Raises:
        ModelError: there is no such model.
    """
    place = locate(options.model, options.revision)
    places = [place, base_of(place)] if place.is_adapter else [place]
    template = options.chat_template
    if template is not None and Path(template).expanduser().is_file():
        template = _content(Path(template).expanduser())
    parts = [*map(_place_identity, places), options.dtype, template, options.attn_implementation]
    if options.quantization != "none":
        parts.append(options.quantization)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _place_identity(place: Location) -> list[str]:
    folder = Path(place.path)
    if folder.is_dir():
        files = sorted({one for pattern in _DECIDING for one in folder.glob(pattern) if one.is_file()})
        return [f"{one.relative_to(folder)} {_content(one)}" for one in files]
    config = cached_path(place, "config.json") or cached_path(place, "adapter_config.json")
    return [place.name, Path(config).parent.name if config else str(place.revision)]


def _content(path: Path) -> str:
    """SHA-256 of a file; of large ones it is noted in the cache under size and time of change."""
    path = path.resolve()
    about = path.stat()
    if about.st_size <= _BLOCK:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    name = hashlib.sha256(str(path).encode()).hexdigest()[:32]
    note = cache_root() / "hashes" / f"{name}.json"
    known = {"size": about.st_size, "changed": about.st_mtime_ns, "inode": about.st_ino}
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        if {key: noted[key] for key in known} == known:
            return noted["sha256"]
    except (OSError, ValueError, LookupError, TypeError):
        pass
    digest = file_sha256(path)
    write_json(note, {**known, "sha256": digest})
    return digest
