from __future__ import annotations

from collections.abc import Callable

import pytest

from coalign.cli.running.objectives import method_of
from coalign.core.options import options_of
from coalign.training.objective import all_objectives


def test_objectives_are_listed_with_what_they_need(coalign: Callable) -> None:
    rows = {line.split()[0]: line for line in coalign("objectives").out.splitlines()}
    assert "preference" in rows["dpo"]
    assert "with reference" in rows["dpo"]
    assert "no reference" in rows["simpo"]
    assert "prompts" in rows["grpo"]


def test_one_objective_is_explained_and_an_unknown_one_refused(coalign: Callable) -> None:
    out = coalign("objectives", "dpo").out
    assert "beta" in out
    assert "\\sigma" in out
    assert "coalign run online-dpo" in coalign("objectives", "online_dpo").out
    result = coalign("objectives", "dpoo")
    assert result.code == 2
    assert "expected one of" in result.err


@pytest.mark.parametrize("one", all_objectives().values(), ids=lambda one: one.name)
def test_every_objective_says_what_it_is_for(one) -> None:
    assert one.equation
    assert one.when[0].isupper()
    assert one.when.endswith(".")
    assert one.loss.__doc__
    assert all(constant.help and constant.source for constant in options_of(one.constants))


def test_an_objective_of_a_system_names_its_command() -> None:
    known = all_objectives()
    methods = {"ln_dpo": "ln-dpo", "bco_matched": "bco", "constraint_ranking": "act", "slic_hf": "slic-hf"}
    assert {name: method_of(known[name]) for name in methods} == methods
