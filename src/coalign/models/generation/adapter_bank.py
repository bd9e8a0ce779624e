"""Several adapters over one base model: each answers under a name of its own, and the base's weights are there once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch

from coalign.core.errors import ConfigError
from coalign.models.devices import decoding_dtype
from coalign.models.files.identity import model_identity
from coalign.models.files.loading import load_adapter, load_model, load_tokenizer
from coalign.models.files.places import base_of, locate
from coalign.models.generation.batching import default_batch_tokens
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions

Options = TypeVar("Options", bound=ModelOptions)


class AdapterBank(Generic[Options]):
    """A base model and its adapters.

    Attributes:
        options: of the base model.
        base: its name.
        identities: adapter to a hash of its files.
        generators: name to what answers under it, the base first. They share one model: call `use` before each of them
            works, and let no two work at a time.
    """

    def __init__(
        self, options: Options, base: str, adapters: Mapping[str, str], *, batch_size: int | None = None
    ) -> None:
        """Load the base model and its adapters.

        Args:
            options: of the base model.
            base: its name.
            adapters: name to adapter folder or run folder; see `named_adapters`.
            batch_size: most samples under way of each.

        Raises:
            ConfigError: an adapter of another model, or a base model that is an adapter itself.
            ModelError: something that cannot be loaded.
        """
        place = locate(options.model, options.revision)
        if place.is_adapter:
            raise ConfigError(
                f"{place.name} is an adapter: serve its base model and name it among the adapters."
            )
        places = {name: locate(path) for name, path in adapters.items()}
        for name, one in places.items():
            if not one.is_adapter:
                raise ConfigError(f"adapter {name}: {one.name} is {one.kind}, expected an adapter folder.")
            if (under := base_of(one).name) != place.name:
                raise ConfigError(f"adapter {name}: {one.name} adapts {under}, and {place.name} is served.")
        model: Any = load_model(options, training=False)
        for name, one in places.items():
            model = load_adapter(model, one, name=name)
        if options.dtype == "auto":
            model = model.to(decoding_dtype(next(model.parameters()).device))
        self._model = cast(torch.nn.Module, model)
        self._active: str | None = None
        self.base, self.options = base, options
        room = default_batch_tokens(model, next(model.parameters()).device) // (1 + len(places))
        self.generators = {
            name: TransformersGenerator(
                model, load_tokenizer(options.at(path)), batch_tokens=room, batch_size=batch_size
            )
            for name, path in {base: options.model, **adapters}.items()
        }
        self.identities = {name: model_identity(options.at(path)) for name, path in adapters.items()}
        self.use(base)

    def use(self, name: str) -> None:
        """From now on the model computes what `name` does."""
        if name == self._active:
            return
        tuner: Any = cast(Any, self._model).base_model
        if name == self.base:
            tuner.disable_adapter_layers()
        else:
            tuner.enable_adapter_layers()
            cast(Any, self._model).set_adapter(name)
        self._active = name


def named_adapters(given: Sequence[str]) -> dict[str, str]:
    """`NAME=FOLDER`, or a folder alone, whose name is the adapter's; of a run folder it is the run's.

    Raises:
        ConfigError: a name that is given twice or is empty.
    """
    found: dict[str, str] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or Path(one).exists():
            name, path = Path(one).resolve().name, one
        if not name or not path:
            raise ConfigError(f"adapter {one!r}: expected NAME=FOLDER.")
        if name in found:
            raise ConfigError(f"adapter: the name {name!r} is given twice; write NAME=FOLDER.")
        found[name] = path
    return found
