"""What a pipeline is: a YAML file of stages, each a method with its options, in which results go by name.

    settings:
      model: default
    stages:
      tuned:
        run: sft
        options: {model: "${model}", data: chats.jsonl}
      preferred:
        run: dpo
        options: {model: "${tuned}", data: pairs.jsonl, beta: 0.05}

`${NAME}` is a setting, or the run folder of a stage: wherever a model or records are wanted, a run stands for those that
it made, and `${NAME}/artefacts/FILE` is one of its files. `${NAME:-OTHER}` is OTHER where the stage is left out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.names import suggest
from coalign.core.yaml_text import load_yaml

_REFERENCE = re.compile(r"\$\{(?P<name>[A-Za-z0-9][\w-]*)(?::-(?P<otherwise>[^}]*))?\}")
_NAME = re.compile(r"[A-Za-z0-9][\w-]*")
_TOP = ("name", "settings", "stages")
_KEYS = ("run", "options", "launch", "after")


@dataclass(frozen=True)
class Stage:
    """A stage as it is written.

    Attributes:
        method: that `coalign run` knows.
        options: by their names in the configuration, with references.
        launch: words before `coalign run ...`, such as `accelerate launch --num_processes 2 -m`.
        after: stages that must be done before, whose result it does not name.
    """

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    launch: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def references(self) -> Iterator[tuple[str, bool]]:
        """Names that its options refer to, and whether it does without."""
        for text in _texts(self.options):
            for found in _REFERENCE.finditer(text):
                yield found["name"], found["otherwise"] is not None


@dataclass(frozen=True)
class Pipeline:
    """Stages in an order in which each comes after those that it needs.

    Attributes:
        place: the file, for messages.
    """

    name: str
    place: str
    settings: Mapping[str, Any]
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """The stage of that name.

        Raises:
            ConfigError: there is none.
        """
        found = next((one for one in self.stages if one.name == name), None)
        if found is None:
            names = [one.name for one in self.stages]
            raise ConfigError(
                f"{self.place}: there is no stage {name!r}. {suggest(name, names, _listed(names))}"
            )
        return found

    def needs(self, stage: Stage) -> set[str]:
        """Stages that must be done before it."""
        known = {one.name for one in self.stages}
        return {name for name, _ in stage.references() if name in known} | {*stage.after}

    def with_those_that_need(self, names: Collection[str]) -> set[str]:
        """The stages, and all that come of them."""
        found = {self.stage(name).name for name in names}
        for stage in self.stages:  # in order, so once is enough
            if self.needs(stage) & found:
                found.add(stage.name)
        return found

    def options_of(self, stage: Stage, folder: Path, left_out: Collection[str]) -> dict[str, Any]:
        """Its options with settings and run folders in place of the references.

        Args:
            folder: of the pipeline's run.
            left_out: stages that do not run, and have not.

        Raises:
            ConfigError: it needs what a stage that is left out would make.
        """
        known = {one.name for one in self.stages}

        def value_of(name: str, otherwise: str | None) -> Any:
            if name not in known:
                return self.settings[name]
            if name not in left_out:
                return str(stage_folder(folder, name))
            if otherwise is None:
                raise ConfigError(
                    f"{self.place}: stages.{stage.name}: needs the result of {name}, which is left out.",
                    hint=f"Write ${{{name}:-OTHER}} with what takes its place, or leave {stage.name} out as well.",
                )
            return otherwise

        filled = _filled(stage.options, lambda found: value_of(found["name"], found["otherwise"]))
        return {str(key).replace("-", "_"): value for key, value in filled.items()}


def references_replaced(
    options: Mapping[str, Any], values: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
    """Options in which some settings have become their values, and stages are called otherwise."""

    def value_of(found: re.Match[str]) -> Any:
        if found["name"] in values:
            return values[found["name"]]
        name = names.get(found["name"], found["name"])
        return f"${{{name}}}" if found["otherwise"] is None else f"${{{name}:-{found['otherwise']}}}"

    return _filled(options, value_of)


def _filled(value: Any, value_of: Callable[[re.Match[str]], Any]) -> Any:
    """The value with every reference in it replaced; a text that is one reference becomes whatever that stands for."""
    if isinstance(value, Mapping):
        return {key: _filled(one, value_of) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, value_of) for one in value]
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value)
    return value_of(whole) if whole else _REFERENCE.sub(lambda found: str(value_of(found)), value)


def stage_folder(folder: Path, name: str) -> Path:
    """The run folder of a stage."""
    return folder / "stages" / name


def read_pipeline(path: Path, changes: Mapping[str, Any] | None = None) -> Pipeline:
    """A pipeline from a YAML file.

    Args:
        changes: settings in place of the file's.

    Raises:
        ConfigError: it is not YAML or not a pipeline, names what is not there, or its stages need each other in a circle;
            every message has the file and the place in it.
    """
    return pipeline_of(load_yaml(path), str(path), changes)


def pipeline_of(given: Any, place: str, changes: Mapping[str, Any] | None = None) -> Pipeline:
    """A pipeline from what a file holds. Arguments and errors are those of `read_pipeline`."""
    _assert_mapping(given, place, "a mapping with stages", _TOP)
    settings = given.get("settings") or {}
    _assert_mapping(settings, f"{place}: settings", "a mapping of names to values")
    for name in changes or {}:
        if name not in settings:
            raise ConfigError(
                f"{place}: has no setting {name!r}. {suggest(name, settings, _listed(settings))}"
            )
    stages = given.get("stages")
    if not stages:
        raise ConfigError(f"{place}: stages: there are none, expected a mapping of names to stages.")
    _assert_mapping(stages, f"{place}: stages", "a mapping of names to stages")
    made = {name: _stage(name, one, f"{place}: stages.{name}") for name, one in stages.items()}
    for name in settings:
        if name in made:
            raise ConfigError(f"{place}: settings.{name}: a stage is called the same, expected another name.")
    for one in made.values():
        for name, _ in one.references():
            _assert_known(name, {*made, *settings}, f"{place}: stages.{one.name}.options")
        for name in one.after:
            _assert_known(name, made, f"{place}: stages.{one.name}.after")
    title = str(given.get("name") or Path(place).stem)
    raw = Pipeline(title, place, {**settings, **(changes or {})}, tuple(made.values()))
    return Pipeline(raw.name, place, raw.settings, tuple(_in_order(raw)))


def _in_order(pipeline: Pipeline) -> Iterator[Stage]:
    """As written, but each after what it needs.

    Raises:
        ConfigError: there is no such order.
    """
    waiting = {one.name: one for one in pipeline.stages}
    while waiting:
        ready = next((one for one in waiting.values() if not pipeline.needs(one) & {*waiting}), None)
        if ready is None:
            raise ConfigError(
                f"{pipeline.place}: stages need each other in a circle: {_circle(pipeline, waiting)}."
            )
        yield waiting.pop(ready.name)


def _circle(pipeline: Pipeline, waiting: Mapping[str, Stage]) -> str:
    path = [next(iter(waiting))]
    while path[-1] not in path[:-1]:
        path.append(min(pipeline.needs(waiting[path[-1]]) & {*waiting}))
    return " needs ".join(path[path.index(path[-1]) :])


def _stage(name: Any, given: Any, place: str) -> Stage:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{place}: is no name, expected letters, digits, - and _.")
    _assert_mapping(given, place, "a mapping with run and options", _KEYS)
    method = given.get("run")
    if not isinstance(method, str):
        raise ConfigError(f"{place}.run: {method!r} is not usable, expected a method's name.")
    options = given.get("options") or {}
    _assert_mapping(options, f"{place}.options", "a mapping of option names to values")
    launch = given.get("launch") or ""
    if not isinstance(launch, str):
        raise ConfigError(f"{place}.launch: {launch!r} is not usable, expected the words before the command.")
    after = given.get("after") or []
    after = [after] if isinstance(after, str) else after
    if not isinstance(after, list) or not all(isinstance(one, str) for one in after):
        raise ConfigError(f"{place}.after: {after!r} is not usable, expected names of stages.")
    return Stage(name, method, options, tuple(shlex.split(launch)), tuple(after))


def _assert_mapping(given: Any, place: str, expected: str, keys: Collection[str] | None = None) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{place}: holds {type(given).__name__}, expected {expected}.")
    for key in given:
        if keys is not None and key not in keys:
            raise ConfigError(f"{place}: {key}: is not known. {suggest(str(key), keys, _listed(keys))}")


def _assert_known(name: str, known: Collection[str], place: str) -> None:
    if name not in known:
        raise ConfigError(
            f"{place}: ${{{name}}} is neither a setting nor a stage. {suggest(name, known, _listed(known))}"
        )


def _listed(names: Collection[str]) -> str:
    return f"Known: {', '.join(map(str, names)) or 'none'}."


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str):
        yield value
