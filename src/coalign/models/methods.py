"""Decoding-time methods by name: what `coalign generate --method`, `coalign serve --align` and the library offer.

A method is a module with an attribute `METHOD`, of this room or of the one that trains the model for it. There are two kinds. A *source* makes a generator from
models of its own (two models that decode together, a search that needs the cache). A *wrapper* goes around any
generator: it rewrites the prompt, or picks among samples. Wrappers compose, around an endpoint too; a source stands
innermost::

    METHOD = Method("urial", "Answer as a chat model by in-context examples", Options, wrap=lambda options, inner: ...)
    METHOD = Method("nudging", "A small aligned model steps in where ...", Options, build=lambda options, models: ...)

    generator = open_methods(["urial"], {"examples": "3"}, ModelOptions(model="gpt2"))
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ConfigError
from coalign.core.names import suggest
from coalign.core.options import OptionGroup, build, options_of, parse_value
from coalign.core.own_code import load_code, names_code
from coalign.models.backends.options import BackendOptions
from coalign.models.options import ModelOptions

if TYPE_CHECKING:
    from coalign.models.types import Generator

MODULES = {
    "urial": "coalign.decoding.urial",
    "nudging": "coalign.decoding.nudging",
    "deal": "coalign.decoding.deal",
    "best-of-n": "coalign.decoding.search.best_of_n",
    "selective": "coalign.decoding.search.selective",
    "complement": "coalign.decoding.in_context.complement",
    "reward-augmented": "coalign.preference.reward_augmented",
}
"""Slug to module. A method is there once its module is."""


@dataclass(kw_only=True)
class MethodModels(ModelOptions, BackendOptions):
    """The model and back end that a command line gave: what a source gets beside its own options."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_training()


@dataclass(kw_only=True)
class NoOptions(OptionGroup):
    """Of a method that has none."""


@dataclass(frozen=True)
class Method:
    """A decoding-time method.

    Attributes:
        slug: its name for users.
        summary: one line.
        options: dataclass of its options (`coalign.core.options`).
        build: for a source: (options, models) to a generator; it loads what it needs.
        wrap: for a wrapper: (options, generator) to a generator.
    """

    slug: str
    summary: str
    options: type
    build: Callable[[Any, MethodModels], Generator] | None = None
    wrap: Callable[[Any, Generator], Generator] | None = None

    def __post_init__(self) -> None:
        if (self.build is None) == (self.wrap is None):
            raise ValueError(f"{self.slug}: a method is either a source (build) or a wrapper (wrap)")


def available_methods() -> list[str]:
    """The slugs of the methods that are there."""
    return [slug for slug, module in MODULES.items() if importlib.util.find_spec(module)]


def get_method(slug: str) -> Method:
    """The method of this name, or one of the user's: `file.py:name`, a `Method`, or a function that makes a generator around
    the one that it is given.

    Raises:
        ConfigError: there is none; the nearest name is given.
    """
    if names_code(slug):
        return _own_method(slug)
    known = available_methods()
    if slug not in known:
        fallback = "Known: " + ", ".join(known) if known else "None is installed."
        raise ConfigError(f"{slug!r} is not a decoding method. {suggest(slug, known, fallback)}")
    return importlib.import_module(MODULES[slug]).METHOD


def open_methods(
    slugs: Sequence[str],
    values: Mapping[str, Any],
    models: ModelOptions,
    backend: BackendOptions | None = None,
    *,
    batch_size: int | None = None,
) -> Generator:
    """A generator that decodes with these methods, the first one outermost.

    Args:
        slugs: names of methods; none gives the plain back end.
        values: options of the methods, by `name` or, where two methods share a name, by `slug.name`; values may be
            text as a command line gives it.
        models: model.
        backend: back end; by default what `models` say when they are back-end options too, else Transformers.

    Raises:
        ConfigError: an unknown method or option, or methods that do not go together.
    """
    from coalign.models.backends.open import open_generator

    methods = [get_method(slug) for slug in slugs]
    sources = [one for one in methods if one.build]
    if len(sources) > 1:
        names = " and ".join(one.slug for one in sources)
        raise ConfigError(f"{names} do not go together: both bring their own models.")
    if sources and methods[-1] is not sources[0]:
        raise ConfigError(
            f"{sources[0].slug} brings its own models, so it stands last: the others go around it."
        )
    options = method_options(methods, values)
    if sources:
        generator = _build(sources[0], options[-1], models, backend)
    else:
        generator = open_generator(models, backend, batch_size=batch_size, modules=bool(methods))
    for method, own in reversed(list(zip(methods, options, strict=True))):
        if method.wrap:
            generator = method.wrap(own, generator)
    return generator


def method_options(methods: Sequence[Method], values: Mapping[str, Any]) -> list[Any]:
    """The options of every method, validated.

    Raises:
        ConfigError: a name that no method has (the nearest one is given), or that several have.
    """
    owned: dict[str, dict[str, Any]] = {one.slug: {} for one in methods}
    names = {one.slug: {option.name: option for option in options_of(one.options)} for one in methods}
    for key, value in values.items():
        slug, _, name = key.rpartition(".")
        name = name.replace("-", "_")
        owners = [one for one in owned if name in names[one] and slug in ("", one)]
        if not owners:
            known = [f"{one}.{name}" if slug else name for one in names for name in names[one]]
            advice = suggest(key, known, f"Known: {', '.join(known) or 'none'}.")
            raise ConfigError(
                f"{key}: is not an option of {', '.join(owned) or 'any method given'}. {advice}"
            )
        if len(owners) > 1:
            raise ConfigError(f"{key}: {' and '.join(owners)} have it; write {owners[0]}.{name}.")
        owned[owners[0]][name] = parse_value(names[owners[0]][name], value)
    return [build(one.options, owned[one.slug], where=one.slug) for one in methods]


def _own_method(text: str) -> Method:
    found = load_code(text, "method")
    if isinstance(found, Method):
        return found
    if not callable(found):
        raise ConfigError(
            f"method: {text} is neither a Method nor a function, expected one that takes a generator."
        )

    def wrap(options: NoOptions, inner: Generator) -> Generator:
        made: Any = found(inner)
        if not callable(getattr(made, "generate", None)):
            raise ConfigError(
                f"method: {text} gave {type(made).__name__}, expected a generator: something with `generate`."
            )
        return made

    name = text.rpartition(":")[2].replace("_", "-")
    return Method(name, f"{text}, of your own", NoOptions, wrap=wrap)


def _build(method: Method, options: Any, models: ModelOptions, backend: BackendOptions | None) -> Generator:
    if not isinstance(models, MethodModels):
        models = MethodModels.of(*filter(None, (backend, models)))
    assert method.build is not None
    return method.build(options, models)
