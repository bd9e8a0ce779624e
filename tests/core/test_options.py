from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coalign.core import options
from coalign.core.errors import ConfigError


@dataclass(kw_only=True)
class Shared:
    __group__ = "Training"

    epochs: options.Count = options.option(3, "passes over the data")
    names: list[str] = options.option([], "some names")


@dataclass(kw_only=True)
class Config(Shared):
    data: Path = options.required("the file")
    beta: options.Positive = options.option(0.1, "temperature", source="paper")
    share: options.Fraction = options.option(0.5, "a share")
    reduction: Literal["sum", "mean"] = options.option("sum", "over tokens")
    limit: int | None = options.option(None, "at most so many")
    window: tuple[int, int] = options.option((1, 2), "from and to")
    shuffle: bool = options.option(True, "mix")
    epochs: options.Count = options.option(1, "passes over the data")

    def __post_init__(self) -> None:
        if self.window[0] > self.window[1]:
            raise ValueError("window: the first value must not exceed the second")


def option_named(name: str) -> Any:
    return next(one for one in options.options_of(Config) if one.name == name)


def test_groups_order_and_redeclared_defaults() -> None:
    names = [one.name for one in options.options_of(Config)]
    assert names[:2] == ["data", "beta"]
    assert set(names[-2:]) == {"epochs", "names"}
    assert option_named("beta").group == "Method", "a class does not inherit its base's group"
    assert option_named("epochs").group == "Training"
    assert option_named("epochs").default == 1


def test_types_are_described_in_the_users_words() -> None:
    assert option_named("share").type_name == "a number of at least 0 and at most 1"
    assert option_named("reduction").type_name == "one of: sum, mean"
    assert option_named("limit").type_name == "a whole number or nothing"
    assert option_named("window").type_name == "values: a whole number, a whole number"


def test_build_converts_text() -> None:
    texts = {"data": "a.jsonl", "beta": "1e-3", "epochs": "2", "shuffle": "no", "window": ["3", "4"]}
    assert options.build(Config, texts) == Config(
        data=Path("a.jsonl"), beta=0.001, epochs=2, shuffle=False, window=(3, 4)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beta": 0}, "beta: 0 is not usable, expected a number above 0"),
        ({"beta": True}, "beta: True is not usable"),
        ({"beta": math.nan}, "beta: nan is not usable"),
        ({"epochs": 1.5}, "epochs: 1.5 is not usable, expected a whole number of at least 1"),
        ({"share": "2"}, "share: '2' is not usable"),
        ({"reduction": "max"}, "expected one of: sum, mean"),
        ({"window": [1]}, "window: .1. is not usable"),
        ({"window": [2, 1]}, "the first value must not exceed the second"),
        ({"names": "a"}, "expected a list of: text"),
        ({"bta": 1}, "bta: is not an option. Did you mean beta"),
        ({"zzz": 1}, "Known: data, beta"),
    ],
)
def test_build_names_the_field_and_what_is_allowed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        options.build(Config, {"data": "x", **values})
    assert caught.value.exit_code == 2


def test_build_lists_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        options.build(Config, {"beta": -1, "epochs": 0}, where="c.yaml", places={"beta": "--beta"})
    lines = str(caught.value).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["--beta:", "c.yaml:", "c.yaml:"]
    assert lines[2] == "c.yaml: data: is required (the file)"


def test_default_lists_are_not_shared() -> None:
    one, other = options.build(Config, {"data": "x"}), options.build(Config, {"data": "x"})
    one.names.append("a")
    assert other.names == []


@settings(max_examples=50)
@given(
    beta=st.floats(min_value=1e-300, allow_infinity=False),
    names=st.lists(st.text()),
    limit=st.none() | st.integers(),
    reduction=st.sampled_from(["sum", "mean"]),
    shuffle=st.booleans(),
)
@example(beta=1.0, names=["\x85", "a\u2028b", "\u2029"], limit=None, reduction="sum", shuffle=False)
def test_yaml_reads_back_what_it_wrote(tmp_path_factory: pytest.TempPathFactory, **values: Any) -> None:
    path = tmp_path_factory.mktemp("yaml") / "config.yaml"
    config = Config(data=Path("x y.jsonl"), **values)
    options.save(config, path)
    assert options.build(Config, options.load_file(path)) == config
    assert options.to_dict(options.build(Config, options.load_file(path))) == options.to_dict(config)


def test_keys_of_a_file_may_have_dashes_and_an_empty_one_is_an_empty_mapping(tmp_path: Path) -> None:
    for content, values in (("max-length: 3\n", {"max_length": 3}), ("", {})):
        (tmp_path / "c.yaml").write_text(content)
        assert options.load_file(tmp_path / "c.yaml") == values


BAD = {"not valid YAML": b"a: [", "holds a list": b"- 1\n", "cannot be read|not valid": b"\xff\xfe\x00"}


@pytest.mark.parametrize("message", [*BAD, "no such file"])
def test_bad_and_absent_files_are_named(tmp_path: Path, message: str) -> None:
    if message in BAD:
        (tmp_path / "c.yaml").write_bytes(BAD[message])
    with pytest.raises(ConfigError, match=message) as caught:
        options.load_file(tmp_path / "c.yaml")
    assert "c.yaml" in str(caught.value)


@dataclass(kw_only=True)
class Judged(options.OptionGroup):
    judge: Literal["model", "stored"] = options.option("model", "who")
    form: str = options.option("letter", "how", only_with={"judge": "model"})
    study: bool = options.option(False, "many trainings")
    seeds: int = options.option(3, "of each", only_with="study")


@dataclass(kw_only=True)
class Rewarded(options.OptionGroup):
    low: float = options.option(0.0, "least")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > 1:
            raise ValueError("low is above 1")


@dataclass(kw_only=True)
class Both(Judged, Rewarded):
    form: str = options.option("score", "how", only_with={"judge": "model"})


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"judge": "stored", "form": "letter"}, "form has no effect with judge: stored; leave it out"),
        ({"seeds": 4}, "seeds has no effect without study; leave it out"),
        ({"low": 2.0}, "low is above 1"),
    ],
)
def test_what_has_no_effect_is_refused_however_the_configuration_is_made(
    values: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        options.build(Both, values)
    with pytest.raises(ValueError, match=problem):
        Both(**values)


def test_a_group_out_of_larger_configurations() -> None:
    both = Both(judge="stored", low=0.5)
    assert both.changed(Judged) == ["judge"]
    assert Rewarded.of(both) == Rewarded(low=0.5)
    assert Rewarded.of(Judged(), both, low=0.7) == Rewarded(low=0.7)
    assert Both.of(Judged(study=True), both).study, "the first that has an option gives it"
    assert Both.of(Judged(study=True), both).low == 0.5


@dataclass(kw_only=True)
class Sizes:
    batch_size: options.Count = options.option(1, "records")
    skip: options.CountOrZero = options.option(0, "records")
    seed: options.Seed = options.option(0, "seed")


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("batch_size", 2**31, "of at least 1 and at most 2147483647"),
        ("skip", 10**23, "of at least 0 and at most 2147483647"),
        ("batch_size", 0, "of at least 1$"),
        ("seed", -1, "of at least 0 and at most 4294967295"),
        ("seed", 2**64, "of at least 0 and at most 4294967295"),
    ],
)
def test_numbers_beyond_what_libraries_take_are_refused(
    name: str, value: int, expected: str, as_text: bool
) -> None:
    with pytest.raises(
        ConfigError, match=rf"{name}: '?{value}'? is not usable, expected a whole number {expected}"
    ):
        options.build(Sizes, {name: str(value) if as_text else value})


def test_a_number_of_thousands_of_digits_is_shown_by_its_size() -> None:
    with pytest.raises(ConfigError, match=r"seed: a number of 33220 bits is not usable"):
        options.build(Sizes, {"seed": 10**10_000})


@pytest.mark.parametrize("value", ["a\udcff.jsonl", ["a", "\ud800"], {"path": "\udfff"}])
def test_text_that_cannot_be_written_is_refused(value):
    @dataclass(kw_only=True)
    class Config:
        data: Any = options.option(None, "anything")

    with pytest.raises(ConfigError, match=r"--data: .*\\ud.* is no valid text"):
        options.build(Config, {"data": value}, places={"data": "--data"})


@dataclass(kw_only=True)
class Numbered:
    scale: Literal[1, 2, 4] = options.option(4, "one of several numbers")
    several: list[Literal[1, 2]] = options.option([], "some of them")


@pytest.mark.parametrize("text", ["2", " 2", 2])
def test_a_number_of_a_choice_may_be_text(text: Any) -> None:
    assert options.build(Numbered, {"scale": text}).scale == 2
    with pytest.raises(ConfigError, match="scale: '3' is not usable, expected one of: 1, 2, 4"):
        options.build(Numbered, {"scale": "3"})
    assert options.build(Numbered, {"several": ["2", "1"]}).several == [2, 1]
