"""From a configuration dataclass to command line flags and back to a validated configuration."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from coalign.cli.advice import advice_on
from coalign.cli.peers import TITLES, peer_of
from coalign.cli.threads import threads_flag
from coalign.core.errors import ConfigError
from coalign.core.options import Option, build, converted, load_file, options_of, parse_value, to_yaml

if TYPE_CHECKING:
    from coalign.models.backends.options import BackendOptions

_PLAIN = re.compile(r"\b(a list of: )?(a whole number( of)?|a number( of)?|text|a path)\b")

T = TypeVar("T")

Apply = Callable[[Any, Path | None], None]


class Flag(click.Option):
    """An option with the heading under which `--help` lists it."""

    group = "General"


class GroupedCommand(click.Command):
    """A command whose `--help` lists the flags made by `flag` under their headings, and the others as General."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it, with advice on words that belong to no flag: a shell made them of a glob.

        A flag that it does not have is answered by what stands for it here, where that is known.
        """
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            found = advice_on(error.option_name, self)
            if found:
                raise click.UsageError(f"No such option: {error.option_name}. {found}", ctx) from error
            raise
        except click.UsageError as error:
            if not error.message.startswith("Got unexpected extra argument"):
                raise
            advice = "A flag takes one word: several files are a flag each, or a glob in quotes."
            raise click.UsageError(f"{error.message}. {advice}", ctx) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "group", "General"), []).append(record)
        general = sections.pop("General", [])
        for name, rows in [*sections.items(), ("General", general)]:
            with formatter.section(name):
                formatter.write_dl(rows)


class ConfigCommand(GroupedCommand):
    """A command whose flags come from a configuration class; `--help` lists them by group.

    Args:
        config_class: a dataclass of options.
        apply: what to do with the resulting configuration and `--out`.
    """

    def __init__(
        self, name: str, config_class: type, apply: Apply, *, help: str, epilog: str | None = None
    ) -> None:
        self.config_class = config_class
        self.apply = apply
        params = [flag(one) for one in options_of(config_class)]
        super().__init__(name, params=[*params, *_general()], help=help, epilog=epilog, callback=self._run)

    def _run(self, out: Path | None, config: Path | None, print_config: bool, **given: Any) -> None:
        flags = {name: value for name, value in given.items() if value is not None}
        values = self._values(flags, config)
        if print_config:
            click.echo(printed(self.config_class, values, self._places(config, flags)), nl=False)
            return
        self.apply(build(self.config_class, values, places=self._places(config, flags)), out)

    def values(self, args: Sequence[str]) -> dict[str, Any]:
        """What words of a command line say, as `build` takes it: flags over the file of `--config`."""
        given = dict(self.make_context(self.name or "", list(args)).params)
        file = given.pop("config")
        for name in ("out", "print_config"):
            given.pop(name)
        return self._values({name: value for name, value in given.items() if value is not None}, file)

    def _values(self, flags: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
        """Flags over file; defaults are filled in by `build`."""
        known = {one.name: one for one in options_of(self.config_class)}
        there = load_file(file) if file else {}
        peer = peer_of(there)
        if peer and not there.keys() <= known.keys():
            raise ConfigError(
                f"{file}: is a configuration of {TITLES[peer]}.",
                hint=f"`coalign import-config {file}` makes one of ours of it.",
            )
        return {
            **there,
            **{name: parse_value(known[name], value) for name, value in flags.items()},
        }

    def _places(self, file: Path | None, flags: Mapping[str, Any]) -> dict[str, str]:
        """Where the user will find each value that a message speaks of."""
        places = {one.name: one.flag for one in options_of(self.config_class)}
        if file:
            places |= {name: f"{file}: {name}" for name in load_file(file) if name not in flags}
        return places


def flags_of(config_class: type, *, leave_out: Container[str] = ()) -> list[click.Option]:
    """The flags of a group of options."""
    return [flag(one) for one in options_of(config_class) if one.name not in leave_out]


def command(options: type) -> Callable[[Callable[..., Any]], click.Command]:
    """A decorator that makes a command of a function whose first argument are options, validated.

    Fields for which the function has no parameter of its own (`click.option`, `click.argument`) become flags, except
    those of training: such a command only generates. What an endpoint would ignore is refused.
    """
    from coalign.models.backends.options import BackendOptions
    from coalign.models.options import TRAINING

    names = {one.name for one in options_of(options)}

    def decorate(function: Callable[..., Any]) -> click.Command:
        own = {one.name for one in getattr(function, "__click_params__", [])}

        @functools.wraps(function)
        def call(**given: Any) -> Any:
            made = built(options, given)
            if isinstance(made, BackendOptions):
                _assert_endpoint_alone(made, given)
            return function(made, **{name: value for name, value in given.items() if name not in names})

        flags = flags_of(options, leave_out={*TRAINING, *own})
        return click.command(cls=GroupedCommand, params=[*flags, threads_flag()])(call)

    return decorate


def assert_new(overwrite: bool, **files: Path | None) -> None:
    """Refuse to replace files, given by the names of their flags, unless that is asked for.

    Raises:
        ConfigError: one of them exists.
    """
    for name, path in files.items():
        if path is not None and path.exists() and not overwrite:
            raise ConfigError(
                f"--{name}: {path} exists.", hint="Name another file, or replace it with --overwrite."
            )


def built(config_class: type[T], given: Mapping[str, Any], **more: Any) -> T:
    """The options of a class out of a command's parameters (None: not given), validated; `more` are taken as they are.

    Raises:
        ConfigError: values that cannot be used, by the names of their flags.
    """
    known = options_of(config_class)
    values = {one.name: parse_value(one, given[one.name]) for one in known if given.get(one.name) is not None}
    return build(
        config_class, {**values, **more}, where="options", places={one.name: one.flag for one in known}
    )


def _assert_endpoint_alone(backend: BackendOptions, given: Mapping[str, Any]) -> None:
    """Refuse options of a local model that an endpoint would ignore."""
    from coalign.models.options import ModelOptions

    local = [one for one in options_of(ModelOptions) if given.get(one.name) is not None]
    if backend.chosen_backend == "endpoint" and local:
        raise ConfigError(
            f"{local[0].flag} has no effect with --endpoint: the server has the model.",
            hint="Name one of the server's models with --endpoint-model.",
        )


def key_values(texts: Sequence[str], flag: str = "--option") -> dict[str, Any]:
    """`KEY=VALUE` texts of a flag as a mapping; a key that is given again makes a list.

    Raises:
        ConfigError: a text without `=`.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{flag}: {text!r} is not usable, expected KEY=VALUE.")
        key = key.strip()
        if key in found:
            before = found[key] if isinstance(found[key], list) else [found[key]]
            found[key] = [*before, value]
        else:
            found[key] = value
    return found


def with_methods(*names: str) -> Callable[[Any], Any]:
    """A decorator that gives a command the flags of decoding methods: `methods` and `method_values`.

    Args:
        names: of the flag, such as `--method`.
    """
    from coalign.models.methods import available_methods

    known = ", ".join(available_methods()) or "none is installed"

    options = (
        click.option(
            *names,
            "methods",
            multiple=True,
            metavar="METHOD",
            help=f"Decode with this method ({known}), or with one of your own as file.py:name; given several times, the first "
            "goes around the next.",
        ),
        click.option(
            "--option",
            "method_values",
            multiple=True,
            metavar="KEY=VALUE",
            help="An option of a method; METHOD.KEY=VALUE where two methods have it.",
        ),
        click.option(
            "--list-methods",
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_list_methods,
            help="Show the methods with their options and exit.",
        ),
    )
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


def _list_methods(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value:
        return
    from coalign.models.methods import available_methods, get_method

    formatter = ctx.make_formatter()
    for method in map(get_method, available_methods()):
        with formatter.section(f"{method.slug} ({method.summary})"):
            formatter.write_dl(
                [
                    (f"{one.name}={metavar(one)}", f"{one.help}  [{described(one)}]")
                    for one in options_of(method.options)
                ]
                or [("no options", "")]
            )
    click.echo(formatter.getvalue().strip())
    ctx.exit()


def method_values_of(methods: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """The `--option`s, checked against the methods before anything is loaded.

    Raises:
        ConfigError: an unknown method, an option that none of them has, or options without a method.
    """
    values = key_values(texts)
    if methods:
        from coalign.models.methods import get_method, method_options

        method_options([get_method(one) for one in methods], values)
    elif values:
        raise ConfigError(f"--option {next(iter(values))}: options belong to a method; give --method.")
    return values


def with_declining(
    methods: Sequence[str], texts: Sequence[str], below: float | None, rewards: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Methods and `--option`s with selective answering around them, where `--decline-below` is given.

    Args:
        below: the threshold; None leaves everything as it is.
        rewards: what is compared with it.

    Raises:
        ConfigError: a threshold without a reward, or the method named as well.
    """
    if below is None:
        return tuple(methods), tuple(texts)
    if "selective" in methods:
        raise ConfigError(
            "--decline-below is the method selective, which is given too.", hint="Give one of them."
        )
    if not rewards:
        raise ConfigError(
            "--decline-below needs something to compare with.",
            hint="Give --reward, such as --reward model:FOLDER.",
        )
    own = (f"selective.decline_below={below}", *(f"selective.reward={one}" for one in rewards))
    return ("selective", *methods), (*texts, *own)


def flag(one: Option) -> click.Option:
    """The click option of a configuration option. Its value is None when it is not given."""
    text = f"{one.help}  [{described(one)}]"
    if one.is_flag:
        made = Flag([one.name, f"{one.flag}/--no-{one.flag[2:]}"], default=None, is_flag=True, help=text)
    else:
        made = Flag(
            [one.name, one.flag],
            default=None,
            multiple=True,
            metavar=metavar(one),
            help=text,
            callback=functools.partial(_given, one.repeats),
        )
    made.group = one.group
    return made


def described(one: Option) -> str:
    """Default and limits; the placeholder shows the type and the choices."""
    plain = one.choices or one.is_flag or (one.repeats and not one.is_list)
    limits = "" if plain else _PLAIN.sub("", one.type_name).strip()
    limits = (
        limits.removesuffix("or nothing").strip()
        if one.default is None
        else limits.replace("nothing", "none")
    )
    default = "required" if one.required else f"default: {shown(one.default)}"
    return f"{default}; {limits}" if limits else default


def shown(value: Any) -> str:
    """A default in the form in which a user would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple | set):
        return ",".join(map(str, value)) or "empty"
    return "none" if value is None else str(value)


def metavar(one: Option) -> str:
    """What help shows for the value of an option."""
    if one.choices:
        text = "[" + "|".join(one.choices) + "]"
    elif "path" in one.type_name:
        text = "PATH"
    elif "whole number" in one.type_name:
        text = "INT"
    elif "number" in one.type_name:
        text = "FLOAT"
    else:
        text = "TEXT"
    return f"{text},..." if one.is_list and one.split else text


def printed(config_class: type, values: Mapping[str, Any], places: Mapping[str, str]) -> str:
    """The resolved configuration as YAML; required options that are not given are left for the user to fill in."""
    missing = [one for one in options_of(config_class) if one.required and one.name not in values]
    if not missing:
        return to_yaml(build(config_class, values, places=places))
    given = converted(config_class, values, places=places, incomplete=True)
    rest = {one.name: given.get(one.name, one.default) for one in options_of(config_class)}
    gaps = "".join(f"{one.name}:  # required: {one.help}\n" for one in missing)
    return gaps + to_yaml({name: value for name, value in rest.items() if value is not dataclasses.MISSING})


def _given(repeats: bool, ctx: click.Context, param: click.Parameter, values: tuple[Any, ...]) -> Any:
    """The values of a flag, the value where it takes one, None where it is not given.

    Raises:
        click.UsageError: a flag that takes one value has several: the others would be ignored.
    """
    if repeats or not values:
        return values or None
    if len({*values}) > 1:
        raise click.UsageError(
            f"{param.opts[-1]} takes one value and was given {len(values)}: {', '.join(map(str, values))}."
        )
    return values[0]


def _general() -> list[click.Option]:
    return [
        click.Option(
            ["--out"],
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Run folder; an existing one is continued.  [default: a new one under ./runs]",
        ),
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="YAML file of options; flags go before it.",
        ),
        click.Option(["--print-config"], is_flag=True, help="Print the resolved configuration and exit."),
        threads_flag(),
    ]
