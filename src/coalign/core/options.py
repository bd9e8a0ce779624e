"""Configuration: one dataclass a system; from it the flags, the YAML file, the validation and the docs table.

A system writes a keyword-only dataclass, usually on top of shared groups (`ModelOptions`, `TrainingOptions`, ...),
and describes every field with `option`. Types carry the constraints::

    @dataclass(kw_only=True)
    class Config(ModelOptions, TrainingOptions):
        beta: Positive = option(0.1, "temperature of the implicit reward", source="paper, section 4")
        reduction: Literal["sum", "mean"] = option("sum", "over response tokens")

`build` validates a mapping against such a class and names the field, the value and what is allowed. Groups derive from
`OptionGroup`, which refuses options that have no effect beside the others, however the configuration is made.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, Union

from coalign.core import secrets
from coalign.core.errors import ConfigError
from coalign.core.files import is_valid, write_text
from coalign.core.limits import LARGEST, as_shown, describe_type, is_large
from coalign.core.limits import Count as Count
from coalign.core.limits import CountOrZero as CountOrZero
from coalign.core.limits import Fraction as Fraction
from coalign.core.limits import NonNegative as NonNegative
from coalign.core.limits import Positive as Positive
from coalign.core.limits import Seed as Seed
from coalign.core.names import spelt_alike, suggest
from coalign.core.yaml_text import load_yaml, parse_yaml

NOTHING = ("none", "null")
"""What a command line writes for no value."""

T = TypeVar("T")
_LINE_ENDS = "\x85\u2028\u2029"
"""Characters that YAML takes for line ends when they are not escaped."""


def option(
    default: Any,
    help: str,
    *,
    source: str = "our choice",
    group: str | None = None,
    split: bool = True,
    only_with: str | Mapping[str, Any] | None = None,
    refused: Mapping[str, str] | None = None,
) -> Any:
    """A dataclass field with its help text and the source of its default.

    Args:
        default: the default value; a list or dict is copied for each instance.
        help: one line, shown by `--help` and in the docs table.
        source: where the default comes from (`paper`, `official code`, `our choice`, ...).
        group: heading under which `--help` lists the flag; by default the class that declares the field.
        split: whether a command line's text for a list is several values where it has commas.
        only_with: when it has an effect: the name of another option of the configuration that must be given, or names
            of others with the value (a tuple: values) that each must have. Elsewhere `OptionGroup` refuses every value
            but the default.
        refused: values that one may look for and that are not taken, with the reason, a clause for the message.
    """
    metadata = {"help": help, "source": source, "group": group, "split": split}
    metadata |= {"only_with": only_with, "refused": refused}
    if isinstance(default, list | dict | set):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(help: str, *, group: str | None = None, split: bool = True) -> Any:
    """A field without a default: the user must give it. `group` and `split` as of `option`."""
    return dataclasses.field(metadata={"help": help, "source": "required", "group": group, "split": split})


@dataclasses.dataclass(frozen=True)
class Option:
    """A field of a configuration class, resolved for flags, docs and messages."""

    name: str
    type: Any
    default: Any
    help: str
    source: str
    group: str
    split: bool = True
    only_with: str | Mapping[str, Any] | None = None
    refused: Mapping[str, str] | None = None

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The allowed values of a `Literal` (also inside `X | None` and `list[X]`), else None."""
        return _choices(self.type)

    @property
    def is_flag(self) -> bool:
        return _strip_optional(self.type) is bool

    @property
    def is_list(self) -> bool:
        return typing.get_origin(_strip_optional(self.type)) in (list, tuple)

    @property
    def repeats(self) -> bool:
        """Whether a command line may give it several times."""
        base = _strip_optional(self.type)
        kinds = typing.get_args(base) if typing.get_origin(base) in (Union, types.UnionType) else [base]
        return any(typing.get_origin(one) in (list, tuple) for one in kinds)

    @property
    def type_name(self) -> str:
        return describe_type(self.type)


def options_of(config_class: type) -> tuple[Option, ...]:
    """The options of a configuration class in declaration order, own fields before inherited groups."""
    return _options_of(config_class)


@functools.cache
def _options_of(config_class: Any) -> tuple[Option, ...]:
    hints = typing.get_type_hints(config_class, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    owner: dict[str, type] = {}
    for base in reversed(config_class.__mro__):
        for name in vars(base).get("__annotations__", {}):
            owner.setdefault(name, base)
    order = [config_class, *(base for base in config_class.__mro__[1:] if dataclasses.is_dataclass(base))]
    names = sorted(fields, key=lambda name: order.index(owner[name]))
    return tuple(_option(fields[name], hints[name], owner[name]) for name in names)


def groups_of(config_class: type) -> dict[str, list[Option]]:
    """The options under their headings, headings in the order of first use."""
    groups: dict[str, list[Option]] = {}
    for one in options_of(config_class):
        groups.setdefault(one.group, []).append(one)
    return groups


def _option(field: dataclasses.Field[Any], hint: Any, owner: type) -> Option:
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return Option(
        name=field.name,
        type=hint,
        default=default,
        help=field.metadata.get("help", ""),
        source=field.metadata.get("source", ""),
        group=field.metadata.get("group") or vars(owner).get("__group__", "Method"),
        split=field.metadata.get("split", True),
        only_with=field.metadata.get("only_with"),
        refused=field.metadata.get("refused"),
    )


@dataclasses.dataclass(kw_only=True)
class OptionGroup:
    """Base of groups of options, and so of configurations: works or errors, nothing is ignored.

    The check of `only_with` stands in `__post_init__`, so that `build` and a caller that makes an instance reach it. A
    group with rules that span fields in another way adds a `__post_init__` that calls `super().__post_init__()` first
    and raises `ValueError`; of groups that are inherited beside each other all rules are then checked.

    Raises:
        ValueError: an option that has no effect beside the others.
    """

    def __post_init__(self) -> None:
        for one in options_of(type(self)):
            if isinstance(one.only_with, str):
                if not getattr(self, one.only_with):
                    self.refuse([one.name], f"without {one.only_with}")
                continue
            for other, allowed in (one.only_with or {}).items():
                value = getattr(self, other)
                if value not in (allowed if isinstance(allowed, tuple) else (allowed,)):
                    self.refuse([one.name], f"with {other}: {value}")

    def changed(self, names: type | Iterable[str]) -> list[str]:
        """Which of the options, or of the options of a group, differ from their defaults. A required one never does."""
        wanted = {one.name for one in options_of(names)} if isinstance(names, type) else {*names}
        return [
            one.name
            for one in options_of(type(self))
            if one.name in wanted and not one.required and getattr(self, one.name) != one.default
        ]

    def refuse(self, names: type | Iterable[str], why: str, *, advice: str = "leave it out") -> None:
        """Refuse options that differ from their defaults where they have no effect.

        Args:
            names: the options, or a group.
            why: `with judge: stored`, `without study`, `here: nothing is trained`.

        Raises:
            ValueError: it names the first such option.
        """
        changed = self.changed(names)
        if changed:
            raise ValueError(f"{changed[0]} has no effect {why}; {advice}")

    @classmethod
    def of(cls, *configs: Any, **changes: Any) -> Self:
        """The options of this group out of larger or neighbouring configurations.

        Args:
            configs: the first that has an option gives it; what none has keeps its default.
            changes: values in place of theirs.
        """
        found = {
            one.name: getattr(config, one.name)
            for one in dataclasses.fields(cls)
            for config in reversed(configs)
            if hasattr(config, one.name)
        }
        return cls(**{**found, **changes})


def build(
    config_class: type[T],
    values: Mapping[str, Any],
    *,
    where: str = "configuration",
    places: Mapping[str, str] | None = None,
) -> T:
    """Validate `values` and make the configuration.

    Strings are converted where the type asks for a number or a path, so the same function serves flags and YAML.
    A `__post_init__` of the class may raise `ValueError` for rules that span fields (`OptionGroup`).

    Args:
        places: how to call single keys in messages (`--beta`); by default `where: key`.

    Raises:
        ConfigError: an unknown key (with the nearest known name), a missing required key, a wrong type or a value
            out of range; every problem is listed, one a line, as `where: key: found, expected`.
    """
    clean = converted(config_class, values, where=where, places=places)
    try:
        return config_class(**clean)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def converted(
    config_class: type,
    values: Mapping[str, Any],
    *,
    where: str = "configuration",
    places: Mapping[str, str] | None = None,
    incomplete: bool = False,
) -> dict[str, Any]:
    """`values` as the types of the options have them. Arguments and errors are those of `build`.

    Args:
        incomplete: required options may be missing.
    """
    places = places or {}
    known = {one.name: one for one in options_of(config_class)}
    clean: dict[str, Any] = {}
    problems: list[str] = []
    strange = False
    for key, value in values.items():
        place = places.get(key, f"{where}: {key}")
        if key not in known:
            near = suggest(key, known, "")
            strange = strange or not near
            problems.append(f"{place}: is not an option. {near}".rstrip())
            continue
        if secrets.holds_password(value):
            problems.append(f"{place}: holds an address with a password, expected the address alone")
            continue
        if not _is_text(value):
            problems.append(
                f"{place}: {as_shown(value)} is no valid text, expected Unicode (names of files as well)"
            )
            continue
        try:
            clean[key] = _convert(known[key].type, value)
        except ValueError:
            expected = known[key].type_name
            if is_large(value) and "at least" in expected and "at most" not in expected:
                expected += f" and at most {LARGEST}"
            shown = "the value" if secrets.is_called_a_key(key) else secrets.redacted(as_shown(value))
            why = spelt_alike(value, known[key].refused or {})
            problems.append(f"{place}: {shown} is not usable{why and f' ({why})'}, expected {expected}")
    problems += [
        f"{places.get(one.name, f'{where}: {one.name}')}: is required ({one.help.partition(':')[0]})"
        for one in known.values()
        if one.required and one.name not in values and not incomplete
    ]
    if strange:
        problems.append("Known: " + ", ".join(known))
    if problems:
        raise ConfigError("\n".join(problems))
    return clean


def parse_value(one: Option, value: Any) -> Any:
    """A command line's text as `build` takes it: lists split at commas, `none` where nothing is allowed, mappings read.
    Of a type that is one value or a list, what is given once is the value.
    """
    if one.is_list and not one.split:
        return list(value) if isinstance(value, list | tuple) else [value]
    if isinstance(value, list | tuple) and not one.is_list and one.repeats:
        first, *more = value
        value = [first, *more] if more else first
    if isinstance(value, list | tuple) and one.is_list:
        return [part for text in value for part in (_parts(text) if isinstance(text, str) else [text])]
    if not isinstance(value, str):
        return value
    if one.is_list:
        return _parts(value)
    if value.lower() in NOTHING and "nothing" in one.type_name:
        return None
    if "mapping" in one.type_name:
        try:
            return parse_yaml(value)
        except ValueError:
            return value
    return value


def _parts(text: str) -> list[str]:
    """A text without a comma is one value as it stands (a line break can be a stop string)."""
    return [part.strip() for part in text.split(",") if part.strip()] if "," in text else [text]


def _is_text(value: Any) -> bool:
    """Whether every text in a value can be written: bytes of a command line that are no UTF-8 cannot."""
    if isinstance(value, Mapping):
        return all(_is_text(one) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple):
        return all(map(_is_text, value))
    return not isinstance(value, str) or is_valid(value)


def _convert(hint: Any, value: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    if isinstance(value, bool) and _strip_optional(hint) in (int, float):
        raise ValueError("true and false are not numbers")
    try:
        return TypeAdapter(hint).validate_python(_chosen(hint, value))
    except ValidationError as error:
        raise ValueError(str(error)) from error


def _chosen(hint: Any, value: Any) -> Any:
    """The choice of a `Literal` whose text is given, also within lists: of numbers a command line has the text."""
    base = _strip_optional(hint)
    if typing.get_origin(base) is Literal and isinstance(value, str):
        return next((one for one in typing.get_args(base) if str(one) == value.strip()), value)
    if typing.get_origin(base) is list and isinstance(value, list):
        return [_chosen(typing.get_args(base)[0], one) for one in value]
    return value


def load_file(path: Path) -> dict[str, Any]:
    """Read a YAML configuration file.

    Raises:
        ConfigError: the file is absent, not YAML, or not a mapping.
    """
    loaded = load_yaml(path)
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"{path}: holds a {type(loaded).__name__}, expected a mapping of option names to values."
        )
    return {str(key).replace("-", "_"): value for key, value in loaded.items()}


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain values (paths as strings, tuples as lists), in declaration order."""
    return {one.name: _plain(getattr(config, one.name)) for one in options_of(type(config))}


def defaults(config_class: type) -> dict[str, Any]:
    """The plain values of the options that have a default."""
    return {one.name: _plain(one.default) for one in options_of(config_class) if not one.required}


def to_yaml(config: Any) -> str:
    """The configuration, or a mapping of names to values, as YAML that `load_file` and `build` read back."""
    import yaml

    values = _plain(config) if isinstance(config, dict) else to_dict(config)

    class Dumper(yaml.SafeDumper):
        """Escapes Unicode's line ends, which would be read back as spaces."""

    def text(dumper: Any, value: str) -> Any:
        style = '"' if set(value) & set(_LINE_ENDS) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def save(config: Any, path: Path) -> None:
    """Write `to_yaml` atomically, without secrets."""
    write_text(path, to_yaml(secrets.redacted_values(to_dict(config))))


def _strip_optional(hint: Any) -> Any:
    if typing.get_origin(hint) is Annotated:
        return _strip_optional(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (Union, types.UnionType):
        rest = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return _strip_optional(rest[0]) if len(rest) == 1 else hint
    return hint


def _choices(hint: Any) -> tuple[str, ...] | None:
    base = _strip_optional(hint)
    if typing.get_origin(base) is Literal:
        return tuple(str(value) for value in typing.get_args(base))
    if typing.get_origin(base) in (list, tuple):
        return _choices(typing.get_args(base)[0])
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list | set):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value
