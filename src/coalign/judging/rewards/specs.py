"""Rewards as users write them, on a command line or in YAML.

    max_words:20                             a verifier and its argument
    must_include:river,stone@2               a list, and a weight
    words_between:low=10,high=20             arguments by name
    model:OpenAssistant/reward-model@0.5     a reward model
    model:unitary/toxic-bert,label=toxic@-1  a classifier: less of this label
    model:runs/self-j                        a grader that `coalign run self-j` trained: its score from 0 to 9
    likelihood:PATH,reduction=mean           how probable a model finds the response; sum over tokens by default
    likelihood:PATH,reference=PATH           how much more probable than its reference does: the DPO reward
    judge:is the answer polite?              a language model's rating
    compare:which is more polite?            the share of the prompt's other responses that it beats, in both orders
    final_answer:{answer}                    a verifier whose argument is a column of each prompt
    rewards.py:polite@0.5                    a function of yours, such as one written for TRL
    constraints                              the column `constraints` of the prompts
    {"verifier": "max_words", "n": 20, "weight": 2}
    log_sigmoid:0.5:model:PATH               a transform of another reward, and what it compares with
    log_sigmoid:references.jsonl:model:PATH  the same with a reference for each prompt
    exponential:10:calibrated:base.jsonl:model:PATH

After the first colon stand the arguments, split at commas; a part without `name=` belongs to the argument before it.
A number after the last `@` is the weight, 1 by default.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from coalign.core.errors import ConfigError, DataError, RecordProblem
from coalign.core.files import parse_json
from coalign.core.names import suggest
from coalign.core.options import OptionGroup, option
from coalign.core.own_code import names_code
from coalign.core.yaml_text import parse_yaml
from coalign.judging.rewards import mix
from coalign.judging.rewards.comparing import ComparisonReward
from coalign.judging.rewards.functions import FunctionReward, load_function
from coalign.judging.rewards.transforms import TRANSFORMS, as_number, transformed
from coalign.judging.verifiers.constraints import Constraint, ConstraintError, get_verifier, verifiers
from coalign.judging.verifiers.isolation import Verify, verify_here

if TYPE_CHECKING:
    from coalign.data.records import Record
    from coalign.judging.protocol import Judge
    from coalign.judging.store import ReplyStore
    from coalign.models.types import Generator

OTHERS = ("model", "likelihood", "judge", "compare", "function", "constraints")
"""Kinds of reward besides verifiers."""
MODEL_ARGUMENTS = {
    "model": ("label", "format", "device", "dtype"),
    "likelihood": ("reference", "reduction", "device", "dtype"),
}
_WEIGHT = re.compile(r"(.*)@([-+]?[\d.]+)$", re.DOTALL)
_NAMED = re.compile(r"(\w+)=(.*)", re.DOTALL)
_COLUMN = re.compile(r"\{([\w -]+)\}")


@dataclass(kw_only=True)
class RewardOptions(OptionGroup):
    """What responses are rewarded for."""

    __group__ = "Rewards"

    reward: list[str | dict[str, Any]] = option(
        [],
        "a reward as NAME:ARGUMENTS@WEIGHT, such as max_words:20, must_include:river,stone@2, model:PATH@0.5, "
        "judge:CRITERION or file.py:FUNCTION; may be given several times",
        split=False,
    )
    combine: mix.Combine = option(
        "sum",
        "weighted mean of the rewards; weighted sum (total), for log-probabilities; the worst of them, or the best",
    )
    normalise: bool = option(
        False, "standardise each reward over the candidates of a step, for rewards of different scale"
    )
    judge_model: str | None = option(None, "model that rates for judge:; by default the one that generates")

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in self.reward:
            parse_reward(one)  # a mistake is found before anything is loaded or written


@dataclass(frozen=True)
class RewardSpec:
    """A parsed reward.

    Attributes:
        kind: `verifier` or one of `OTHERS`.
        name: as the user wrote it, without the weight.
        arguments: of the model.
        constraint: of a verifier.
        columns: of a verifier whose arguments are columns of each prompt: argument to column. `literal` has the others.
        criteria: of a judge.
        given, inner: what a transform is given, and the reward that it transforms.
    """

    kind: str
    name: str
    weight: float = 1.0
    arguments: Mapping[str, str] = field(default_factory=dict)
    constraint: Constraint | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    literal: Mapping[str, Any] = field(default_factory=dict)
    verifier: str = ""
    criteria: str = ""
    given: str = ""
    inner: RewardSpec | None = None


def parse_reward(value: str | Mapping[str, Any]) -> RewardSpec:
    """Read a reward. Nothing is loaded.

    Raises:
        ConfigError: what is wrong with it, and what is expected.
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise ConfigError(f"reward: {value!r} is not JSON ({error}).") from error
    if isinstance(value, Mapping):
        return _from_mapping(value)
    weighted = _WEIGHT.fullmatch(value.strip())
    body, weight = (weighted[1], _weight(value, weighted[2])) if weighted else (value.strip(), 1.0)
    name, _, text = body.partition(":")
    if names_code(body):
        return _other(value, "function", body, weight)
    if name in TRANSFORMS:
        given, _, inner = text.partition(":")
        return _transform(value, name, given, inner, weight)
    if name in OTHERS:
        return _other(value, name, text, weight)
    try:
        return _verifier(body, weight, name, _arguments(get_verifier(name).args, text))
    except ConstraintError as error:
        if error.field == "verifier":
            known = [*OTHERS, *TRANSFORMS, *verifiers()]
            advice = suggest(name, known, "`docs/verifiers.md` lists the verifiers.")
            raise ConfigError(f"reward: {name!r} is unknown. {advice}") from error
        raise ConfigError(f"reward: {body}: {error}") from error


def innermost(spec: RewardSpec) -> RewardSpec:
    """What the transforms of a reward stand around."""
    return spec if spec.inner is None else innermost(spec.inner)


def build_rewards(
    options: RewardOptions,
    *,
    constraints: Mapping[int, Sequence[Constraint]] | None = None,
    columns: Mapping[int, Record] | None = None,
    open_judge: Callable[[str | None], Judge] | None = None,
    unscorable: mix.Unscorable = "lowest",
    verify: Verify = verify_here,
) -> mix.RewardMix:
    """The rewards of `options`, models loaded.

    Args:
        constraints: those of the prompts' own column, by number of the prompt.
        columns: the prompts by their numbers, for verifiers whose arguments are columns.
        open_judge: makes the judge for `judge:` rewards out of `options.judge_model`.
        unscorable: what becomes of a response that a reward cannot score.
        verify: works out the values of verifiers, in this process by default.

    Raises:
        ConfigError: a reward that cannot be used here.
        DataError: a prompt without a column that a reward reads, or with one that it cannot use; every such is listed.
        ModelError: a reward model that cannot be loaded.
    """
    specs = [parse_reward(one) for one in options.reward]
    kinds = {innermost(one).kind for one in specs}
    if options.judge_model and not kinds & {"judge", "compare"}:
        raise ConfigError("judge_model has no effect without a reward judge:CRITERION or compare:CRITERION.")
    if unscorable == "lowest" and "compare" in kinds:
        raise ConfigError(
            "reward: compare: compares whole responses with each other: it cannot guide a search."
        )
    return mix.RewardMix(
        [
            mix.Weighted(_reward(one, options, constraints, columns, open_judge, verify), one.weight)
            for one in specs
        ],
        combine=options.combine,
        normalise=options.normalise,
        unscorable=unscorable,
    )


def _reward(
    spec: RewardSpec,
    options: RewardOptions,
    constraints: Mapping[int, Sequence[Constraint]] | None,
    columns: Mapping[int, Record] | None,
    open_judge: Callable[[str | None], Judge] | None,
    verify: Verify,
) -> mix.Reward:
    if spec.inner is not None:
        inner = _reward(spec.inner, options, constraints, columns, open_judge, verify)
        return transformed(spec.kind, spec.given, inner, spec.name, about=spec.inner.name)
    if spec.kind == "constraints":
        if constraints is None:
            raise ConfigError(
                "reward: constraints: the prompts' column is read by `coalign run`, not here.",
                hint="Name the verifiers themselves.",
            )
        return mix.OwnConstraintsReward(constraints, verify=verify)
    if spec.kind == "model":
        from coalign.judging.graders import GraderReward, load_grader, read_grader
        from coalign.models.reward_model import load_reward_model

        given: dict[str, Any] = dict(spec.arguments)
        if read_grader(given["path"]) is not None:
            unused = sorted(given.keys() - {"path", "device"})
            if unused:
                raise ConfigError(f"reward: {spec.name}: {unused[0]} has no effect on a grader.")
            return GraderReward(load_grader(given["path"], device=given.get("device", "auto")), spec.name)
        return mix.ModelReward(load_reward_model(given.pop("path"), **given), spec.name)
    if spec.kind == "function":
        return FunctionReward(load_function(spec.name), spec.name, columns or {})
    if spec.kind == "likelihood":
        from coalign.judging.rewards.likelihood import load_likelihood

        return load_likelihood(spec.name, spec.arguments)
    if spec.kind in ("judge", "compare"):
        if open_judge is None:
            raise ConfigError(f"reward: {spec.kind}: there is no language model to judge with here.")
        kind = mix.JudgeReward if spec.kind == "judge" else ComparisonReward
        return kind(open_judge(options.judge_model), spec.name, spec.criteria)
    if spec.columns:
        if columns is None:
            raise ConfigError(f"reward: {spec.name}: columns of the prompts are read by training, not here.")
        return mix.OwnConstraintsReward(_from_columns(spec, columns), spec.name, verify)
    assert spec.constraint is not None
    return mix.ConstraintReward(spec.constraint, verify)


def _verifier(name: str, weight: float, verifier: str, arguments: Mapping[str, Any]) -> RewardSpec:
    """A verifier whose arguments are there, or stand in columns of the prompts (`{COLUMN}`)."""
    columns = {key: found[1] for key, one in arguments.items() if (found := _column(one))}
    literal = {key: one for key, one in arguments.items() if key not in columns}
    if not columns:
        return RewardSpec("verifier", name, weight, constraint=Constraint(verifier, literal))
    hints = get_verifier(verifier).args
    for key in arguments:
        if key not in hints:
            raise ConstraintError(key, "is not an argument", " or ".join(hints) or "none")
    return RewardSpec("verifier", name, weight, columns=columns, literal=literal, verifier=verifier)


def _column(value: Any) -> re.Match[str] | None:
    """The column that an argument names: `{COLUMN}`, also as the only entry of a list or as YAML reads it."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict) and len(value) == 1 and [*value.values()] == [None]:
        value = f"{{{next(iter(value))}}}"
    return _COLUMN.fullmatch(value) if isinstance(value, str) else None


def _from_columns(spec: RewardSpec, prompts: Mapping[int, Record]) -> dict[int, tuple[Constraint, ...]]:
    hints = get_verifier(spec.verifier).args
    found: dict[int, tuple[Constraint, ...]] = {}
    problems: list[RecordProblem] = []
    for number, record in prompts.items():
        missing = [one for one in spec.columns.values() if record.extra.get(one) is None]
        if missing:
            problems.append(record.problem(missing[0], "is missing", f"what {spec.name} compares with"))
            continue
        own = {key: _fitting(hints[key], record.extra[one]) for key, one in spec.columns.items()}
        try:
            found[number] = (Constraint(spec.verifier, {**spec.literal, **own}),)
        except ConstraintError as error:
            column = spec.columns.get(error.field, error.field)
            problems.append(record.problem(column, error.problem, error.expected))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(prompts)} prompts cannot be rewarded by {spec.name}.", problems
        )
    return found


def _fitting(hint: Any, value: Any) -> Any:
    """A column's value as an argument: numbers as text where text is wanted, one value as a list where that is."""
    base = _plain(hint)
    if base is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return [value] if get_origin(base) is list and isinstance(value, str) else value


def _from_mapping(value: Mapping[str, Any]) -> RewardSpec:
    rest = dict(value)
    weight = _weight(value, rest.pop("weight", 1.0))
    if "transform" in rest:
        kind, given, inner = (rest.pop(name, "") for name in ("transform", "by", "reward"))
        if rest or kind not in TRANSFORMS:
            raise ConfigError(
                f"reward: {dict(value)} is not usable, expected transform ({', '.join(TRANSFORMS)}), by, reward and weight."
            )
        return _transform(value, kind, str(given), inner, weight)
    kinds = [kind for kind in ("verifier", *OTHERS) if kind in rest]
    if len(kinds) != 1:
        raise ConfigError(
            f"reward: {dict(value)} is not usable, expected a mapping with one of: verifier, {', '.join(OTHERS)}."
        )
    if kinds[0] == "verifier":
        try:
            arguments = rest.get("args", {key: one for key, one in rest.items() if key != "verifier"})
            if isinstance(arguments, Mapping) and any(map(_column, arguments.values())):
                shown = ",".join(f"{key}={one}" for key, one in arguments.items())
                return _verifier(f"{rest['verifier']}:{shown}", weight, rest["verifier"], arguments)
            constraint = Constraint.from_json(rest)
        except ConstraintError as error:
            raise ConfigError(f"reward: {error}") from error
        return RewardSpec("verifier", constraint.describe(), weight, constraint=constraint)
    text = str(rest.pop(kinds[0]))
    text += "".join(f",{name}={one}" for name, one in rest.items())
    return _other(value, kinds[0], text, weight)


def _transform(value: Any, kind: str, given: str, inner: Any, weight: float) -> RewardSpec:
    """A transform of another reward; files are read when the reward is built."""
    if not given or not inner:
        raise ConfigError(f"reward: {value!r} is not usable, expected {kind}:NUMBER-OR-FILE:REWARD")
    if kind == "exponential" and as_number(given) is None:
        raise ConfigError(f"reward: {value!r}: {given!r} is not usable, expected a number")
    spec = parse_reward(inner)
    if spec.weight != 1:
        raise ConfigError(f"reward: {value!r}: the weight stands outside of the transform.")
    return RewardSpec(kind, f"{kind}:{given}:{spec.name}", weight, given=given, inner=spec)


def _other(value: Any, kind: str, text: str, weight: float) -> RewardSpec:
    name = f"{kind}:{text}" if text else kind
    if kind == "constraints":
        return RewardSpec(kind, kind, weight)
    if not text.strip():
        needed = {
            **dict.fromkeys(MODEL_ARGUMENTS, "the model's path or hub id"),
            "function": "file.py:name",
        }.get(kind, "what to judge by")
        raise ConfigError(f"reward: {value!r} is not usable, expected {needed} after {kind}:")
    if kind == "function":
        load_function(text.strip())
        return RewardSpec(kind, text.strip(), weight)
    if kind in ("judge", "compare"):
        return RewardSpec(kind, name, weight, criteria=text.strip())
    path, *parts = text.split(",")
    arguments = {"path": path.strip()}
    for part in parts:
        named = _NAMED.fullmatch(part.strip())
        if not named or named[1] not in MODEL_ARGUMENTS[kind]:
            raise ConfigError(
                f"reward: {value!r}: {part!r} is not usable, expected one of "
                + ", ".join(f"{one}=..." for one in MODEL_ARGUMENTS[kind])
            )
        arguments[named[1]] = named[2]
    return RewardSpec(kind, name, weight, arguments)


def _arguments(hints: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Arguments of a verifier out of `20`, `river,stone` or `low=10,high=20`."""
    if not text:
        return {}
    parts: dict[str, list[str]] = {}
    names = list(hints)
    current = names[0] if names else ""
    for part in text.split(","):
        named = _NAMED.fullmatch(part.strip())
        if named and named[1] in hints:
            current, part = named[1], named[2]
        elif current in parts and not _takes_several(hints[current]) and names[-1] != current:
            current = names[names.index(current) + 1]
        parts.setdefault(current, []).append(part)
    if "" in parts:
        raise ConstraintError(text, "is an argument", "none")
    return {name: _value(hints[name], values) for name, values in parts.items()}


def _takes_several(hint: Any) -> bool:
    """Whether parts between commas belong together: lists, and text that has commas."""
    return get_origin(_plain(hint)) is list or _plain(hint) is str


def _value(hint: Any, values: list[str]) -> Any:
    """Texts as what the argument is made of: text stays, numbers and the like are read."""
    base = _plain(hint)
    if base is str:
        return ",".join(values)
    is_list = get_origin(base) is list
    inner = _plain(get_args(base)[0]) if is_list and get_args(base) else base
    as_text = inner is str or get_origin(inner) is typing.Literal
    read = [one.strip() if as_text else _read(one) for one in values]
    return read if is_list else read[0] if len(read) == 1 else ",".join(values)


def _read(text: str) -> Any:
    """A number and the like; what is none stays text, which the argument then refuses by its name."""
    try:
        return parse_yaml(text)
    except ValueError:
        return text


def _plain(hint: Any) -> Any:
    return _plain(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def _weight(value: Any, weight: Any) -> float:
    try:
        return float(weight)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"reward: {value!r}: the weight {weight!r} is not a number.") from error


def judge_over(generator: Generator, store: ReplyStore | None = None) -> Callable[[str | None], Judge]:
    """For `build_rewards`: a judge over `generator`, or over the model that `judge_model` names.

    Args:
        store: keeps its replies, by default in memory.
    """

    def open_judge(name: str | None) -> Judge:
        from coalign.judging.language_judge import LanguageModelJudge
        from coalign.judging.store import ReplyStore
        from coalign.models.backends.open import open_named

        inner = generator if name is None else open_named(name)
        return LanguageModelJudge(
            inner,
            name=name or "the model itself",
            explain=False,
            store=ReplyStore() if store is None else store,
        )

    return open_judge
