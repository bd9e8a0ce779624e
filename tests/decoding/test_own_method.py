"""Decoding methods of the user: a function around a generator, a Method with options, and what is neither."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coalign.core.errors import ConfigError
from coalign.models.methods import Method, get_method, method_options
from coalign.models.types import Generation, Sampling

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "decoding.md"
OWN = """
from dataclasses import dataclass
from coalign.core.options import option
from coalign.models.methods import Method

@dataclass(kw_only=True)
class Options:
    times: int = option(2, "how often")

METHOD = Method("again", "Asks again", Options, wrap=lambda options, inner: inner)
number = 3

def nothing(inner):
    return None
"""


class Inner:
    def __init__(self) -> None:
        self.asked = []

    def generate(self, prompts, sampling, **how):
        self.asked += prompts
        return [[Generation(text="Yes.", token_ids=[], finish_reason="stop", n_tokens=0)] for _ in prompts]


def test_the_example_of_the_page_goes_around_a_generator(tmp_path, monkeypatch):
    ((name, source),) = re.findall(r"```python title=\"(.+?)\"\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / name).write_text(source)
    monkeypatch.chdir(tmp_path)
    method = get_method(f"{name}:brief")
    assert method_options([method], {})[0] is not None
    inner = Inner()
    found = method.wrap(method_options([method], {})[0], inner).generate(
        [[{"role": "user", "content": "Why?"}], "plain"], Sampling()
    )
    assert found[0][0].text == "Yes."
    assert inner.asked[0][0]["role"] == "system"
    assert inner.asked[1] == "plain"


def test_a_method_of_a_file_has_its_options(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    method = get_method("own.py:METHOD")
    assert isinstance(method, Method)
    assert method_options([method], {"times": "5"})[0].times == 5
    with pytest.raises(ConfigError, match="neither a Method nor a function"):
        get_method("own.py:number")
    with pytest.raises(ConfigError, match="gave NoneType, expected a generator"):
        get_method("own.py:nothing").wrap(None, Inner())
    with pytest.raises(ConfigError, match=r"own\.py"):
        get_method("own.py:absent")
