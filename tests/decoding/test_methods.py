"""Methods by name: options, composition, and what is said where they do not fit."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from coalign.core.errors import ConfigError
from coalign.core.options import Count, option
from coalign.models import methods as module
from coalign.models.backends import open as backends
from coalign.models.backends.options import BackendOptions
from coalign.models.methods import Method, MethodModels, available_methods, get_method, open_methods
from coalign.models.options import ModelOptions


@dataclass(kw_only=True)
class Louder:
    times: Count = option(1, "how much louder")
    words: list[str] = option([], "which")
    limit: int | None = option(3, "at most")


@dataclass(kw_only=True)
class Pair:
    times: Count = option(2, "how often")
    partner: str = option("none", "the other model")


class Said:
    def __init__(self, *story: Any) -> None:
        self.story = story


def louder(name: str) -> Method:
    return Method(name, "louder", Louder, wrap=lambda own, inner: Said(name, own.times, *inner.story))


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    source = Method("pair", "two models", Pair, build=lambda own, models: Said("pair", own.partner, models))
    made = {"loud": louder("loud"), "louder": louder("louder"), "pair": source}
    for slug, method in made.items():
        name = f"coalign.decoding.test_{slug}"
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(METHOD=method, __spec__=object()))
    monkeypatch.setattr(module, "MODULES", {slug: f"coalign.decoding.test_{slug}" for slug in made})
    monkeypatch.setattr(backends, "open_generator", lambda *args, **more: Said("base", args[0].model))


def test_wrappers_go_around_each_other_and_the_base():
    models = ModelOptions(model="m")
    made: Any = open_methods(["loud", "louder"], {"loud.times": "4", "louder.times": 2}, models)
    assert made.story == ("loud", 4, "louder", 2, "base", "m")
    assert open_methods([], {}, models).story == ("base", "m")


def test_a_source_gets_model_and_back_end_and_stands_innermost():
    backend = BackendOptions(endpoint="http://127.0.0.1:1/v1")
    made: Any = open_methods(["loud", "pair"], {"partner": "p"}, ModelOptions(model="m"), backend)
    assert made.story[:4] == ("loud", 1, "pair", "p")
    models = made.story[4]
    assert isinstance(models, MethodModels)
    assert (models.model, models.endpoint, models.chosen_backend) == (
        "m",
        "http://127.0.0.1:1/v1",
        "endpoint",
    )
    with pytest.raises(ConfigError, match="stands last"):
        open_methods(["pair", "loud"], {}, ModelOptions())
    with pytest.raises(ConfigError, match="do not go together"):
        open_methods(["pair", "pair"], {}, ModelOptions())


@pytest.mark.parametrize(
    ("slugs", "values", "message"),
    [
        (["quiet"], {}, "not a decoding method"),
        (["lod"], {}, "Did you mean loud"),
        (["loud"], {"tims": "1"}, "tims: is not an option of loud.*times"),
        (["loud"], {"times": "0"}, "times.*'0' is not usable"),
        (["loud", "pair"], {"times": "2"}, r"loud and pair have it; write loud\.times"),
        (["loud", "pair"], {"pair.words": "2"}, "is not an option"),
        ([], {"times": "2"}, "is not an option of any method"),
    ],
)
def test_what_does_not_fit_is_named(slugs, values, message):
    with pytest.raises(ConfigError, match=message):
        open_methods(slugs, values, ModelOptions())


def test_texts_of_the_command_line_become_values():
    (own,) = module.method_options([get_method("loud")], {"words": "a,b", "limit": "none"})
    assert own == Louder(words=["a", "b"], limit=None)
    (own,) = module.method_options([get_method("loud")], {"words": ["a", "b"], "times": 3})
    assert own == Louder(words=["a", "b"], times=3)


def test_a_method_is_a_source_or_a_wrapper():
    with pytest.raises(ValueError, match="either"):
        Method("x", "", Louder)
    assert available_methods() == ["loud", "louder", "pair"]
