"""The catalogue, the files and the command line agree."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
import re

import pytest

import coalign
from coalign.checks.arms import stated
from coalign.cli.running.run import Methods, run
from coalign.core.built_in import BUILT_IN
from coalign.core.catalogue import CONFIDENCE, DATA, MODELS, ROOMS, VERBS, Entry, entries, get, select
from coalign.core.errors import ConfigError
from coalign.core.options import build, options_of
from coalign.core.system import check_module_name, load_check, load_system, module_name

AVAILABLE = [entry for entry in entries() if entry.available]


def test_there_are_63_systems_with_unique_names_and_papers() -> None:
    assert len(entries()) == 63
    assert len({entry.slug for entry in entries()}) == 63
    assert len({entry.arxiv for entry in entries()}) == 63


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.slug)
def test_entry_is_well_formed(entry: Entry) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.slug)
    assert re.fullmatch(r"2[0-9](0[1-9]|1[0-2])\.\d{5}", entry.arxiv)
    assert entry.room in ROOMS
    assert entry.status in ("available", "preview", "planned")
    assert entry.confidence in CONFIDENCE
    assert set(entry.verbs) <= set(VERBS)
    assert set(entry.data) <= set(DATA)
    assert set(entry.models) <= set(MODELS)
    assert entry.verbs or entry.room == "guide"
    assert entry.data or entry.room == "guide"
    assert entry.claim.endswith(".")
    assert entry.claim.count(". ") == 0, "one sentence"
    assert bool(entry.reconstruction) == (entry.confidence != "high")


def test_rooms_are_packages() -> None:
    packages = {module.name for module in pkgutil.iter_modules(coalign.__path__) if module.ispkg}
    assert set(ROOMS) <= packages


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.slug)
def test_status_says_what_the_module_has(entry: Entry) -> None:
    name = module_name(entry.room, entry.slug)
    module = importlib.import_module(name) if importlib.util.find_spec(name) else None
    runs = hasattr(module, "Config") and hasattr(module, "run")
    checked = importlib.util.find_spec(check_module_name(entry.room, entry.slug)) is not None
    status = "available" if runs and checked else "preview" if runs else "planned"
    assert entry.status == status


@pytest.mark.parametrize("entry", AVAILABLE, ids=lambda entry: entry.slug)
def test_available_system_keeps_the_contract(entry: Entry) -> None:
    system = load_system(entry.slug)
    assert dataclasses.is_dataclass(system.Config)
    assert callable(system.run)
    assert not hasattr(system, "check"), "checks stand in coalign.checks.papers"
    assert system.__doc__
    assert entry.arxiv in system.__doc__, "the docstring names its paper"
    for one in options_of(system.Config):
        assert one.help, f"{one.name} has no help"
        assert one.source, f"{one.name} has no source"
        assert not re.search(r"(^|_)(token|key|secret|password)$", one.name), (
            "secrets do not belong in a run folder"
        )


@pytest.mark.parametrize(
    "entry", [entry for entry in AVAILABLE if entry.checked], ids=lambda entry: entry.slug
)
def test_a_check_stands_apart_from_its_system_and_says_its_rule(entry: Entry) -> None:
    assert stated(load_check(entry.slug).check).keys() == {"rule", "setting"}


@pytest.mark.parametrize("entry", AVAILABLE, ids=lambda entry: entry.slug)
def test_defaults_pass_their_own_validation(entry: Entry) -> None:
    config_class = load_system(entry.slug).Config
    optional = {one.name: one.default for one in options_of(config_class) if not one.required}
    required = {one.name: ["x"] if one.is_list else "x" for one in options_of(config_class) if one.required}
    if "reward" in required:
        required["reward"] = ["max_words:3"]
    build(config_class, {**optional, **required})


def test_every_file_that_looks_like_a_system_has_an_entry() -> None:
    files = {module_name(entry.room, entry.slug) for entry in entries()}
    for room in ROOMS:
        package = importlib.import_module(f"coalign.{room}")
        for module in pkgutil.iter_modules(package.__path__, prefix=f"coalign.{room}."):
            loaded = importlib.import_module(module.name)
            if hasattr(loaded, "Config") and hasattr(loaded, "run"):
                assert module.name in files


def test_the_command_line_lists_what_the_catalogue_calls_available() -> None:
    assert isinstance(run, Methods)
    listed = run.list_commands(None)  # pyright: ignore[reportArgumentType]
    slugs = {entry.slug for entry in entries()}
    assert [one for one in listed if one in slugs] == [entry.slug for entry in AVAILABLE]
    assert {"sft", "dpo", *BUILT_IN} <= {*listed}


def test_get_forgives_case_and_underscores() -> None:
    assert get("LN_DPO").slug == "ln-dpo"


def test_get_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean .*cream"):
        get("crem")


def test_planned_systems_say_so(planned: str) -> None:
    with pytest.raises(ConfigError, match="planned"):
        load_system(planned)


def test_year_comes_from_the_identifier() -> None:
    assert get("pseudo-forced-alignment").year == 2022
    assert get("t-prompter").year == 2025


def test_select_by_room_and_status() -> None:
    assert {entry.slug for entry in select(room="speech")} == {"awp", "pseudo-forced-alignment"}
    assert list(select(available=True)) == AVAILABLE
    with pytest.raises(ConfigError, match="expected one of"):
        select(room="spech")


def test_select_by_data() -> None:
    slugs = [entry.slug for entry in select(have=["preferences"])]
    assert "ln-dpo" in slugs
    assert "bco" in slugs, "pairs hold thumbs"
    assert "act" in slugs, "pairs hold prompts"
    assert "pro" not in slugs
    assert slugs.index("ln-dpo") < slugs.index("bco"), "what needs the pairs themselves comes first"
    assert "pro" in [entry.slug for entry in select(have=["ranking"])], "the singular is understood"
    assert "ln-dpo" not in [entry.slug for entry in select(have=["prompts"])]
    with pytest.raises(ConfigError, match="not a kind of data"):
        select(have=["pairs"])
