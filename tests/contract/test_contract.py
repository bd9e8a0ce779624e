"""What every system keeps, asserted of the tiny runs of `small.py`.

Which assertions hold for a system follows from its catalogue entry: one that fits publishes a model, one whose data
are records names the line of a bad one.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from coalign.cli.running.run import execute
from coalign.core.catalogue import entries, get
from coalign.core.errors import CoalignError, ConfigError
from coalign.core.options import Option, OptionGroup, build, options_of, to_dict
from coalign.core.runs import Run
from coalign.core.system import load_system
from coalign.evaluation.factuality import scorer
from coalign.loops import scoring
from coalign.models.diffusion.files import load_pipeline
from coalign.models.files.loading import load_model
from coalign.models.generation import generator
from coalign.models.reward_model import load_reward_model
from coalign.platform.pipeline import chain
from coalign.preference.data import aligned_scores
from coalign.report.html import read_report
from coalign.vision.search.towers import TwoTowers
from coalign.vision.tuning.prompted import PromptedEncoder
from tests.cli.commands import unknown_in
from tests.cli.conftest import coalign as coalign
from tests.contract.artefacts import artefacts, assert_close
from tests.contract.killing import Killed, watched
from tests.contract.small import SMALL, VARIANTS, Small, furnish

AVAILABLE = [entry for entry in entries() if entry.available]
PUBLISHES = [entry.slug for entry in AVAILABLE if "fit" in entry.verbs and entry.slug != "alignscore"]
"""The tiny run of `alignscore` scores; its own tests train."""
WITH_CARD = {entry.slug for entry in AVAILABLE if entry.room in ("preference", "selfalign")} - {
    "dpo-insights"
} | {"coprompt", "ict", "spright", "unipt"}
REWARD_MODELS = {"dmoerm", "more"}
"""What these fit gives rewards, not text."""
NO_LANGUAGE_MODELS = {"recogniser", "encoder", "network", "generator", "vlm"}
"""Systems whose models are all among these fit no language model."""
BESIDE_THE_RUN = {"coalign.core.options", "coalign.core.runs", "dataclasses"}
"""Modules that read every option to write it down, to check it or to copy it."""


class Whole(NamedTuple):
    """An undisturbed run, the options that it read, its files, each with the number of rows appended to it, and its moments
    (`moment_of`).
    """

    run: Run
    read: set[str]
    rows: Counter[str]
    moments: set[str]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(params=[entry.slug for entry in AVAILABLE])
def slug(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system; the test runs in a folder with its data and models."""
    return ready(request.param, root, monkeypatch)


def ready(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Furnish the folder of the runs for `name` and work in it, with batches so small that rows come in several."""
    slug, small = row_of(name)
    if "audio" in get(slug).data:
        pytest.importorskip("soundfile")
        pytest.importorskip("numba")
    monkeypatch.chdir(root)
    monkeypatch.setattr(generator, "CPU_ROWS", 2)
    monkeypatch.setattr(scorer, "WINDOW", 2)
    monkeypatch.setattr(aligned_scores, "CHUNK", 2)
    monkeypatch.setattr(scoring, "CHUNK", 2)
    furnish(root, small)
    return name


def row_of(name: str) -> tuple[str, Small]:
    """The system and the tiny run of a row or of a variant."""
    return VARIANTS[name] if name in VARIANTS else (name, SMALL[name])


@pytest.fixture(scope="session")
def whole() -> Callable[[str], Whole]:
    """One undisturbed run of a system, made when it is first asked for."""
    made: dict[str, Whole] = {}

    def of(slug: str) -> Whole:
        if slug not in made:
            read: set[str] = set()
            rows: Counter[str] = Counter()
            writes: Counter[Path] = Counter()
            moments: set[str] = set()
            folder = Path("whole") / slug

            def count(path: Path, data: bytes) -> None:
                moments.add(moment_of(path, data, folder, writes))
                rows[place_of(path, folder)] += data.count(b"\n")

            with watched(count):
                run = tiny_run(slug, folder, read)
            made[slug] = Whole(run, read, rows, moments - {""})
        return made[slug]

    return of


def inner_runs(run: Run) -> list[Run]:
    """The stages of a system that is a pipeline, which have the options of the whole that their methods have."""
    return [Run(one.parent) for one in sorted(run.path.glob("stages/*/config.yaml"))]


def tiny_run(name: str, folder: Path, read: set[str] | None = None, **changes: Any) -> Run:
    slug, small = row_of(name)
    system = load_system(slug)
    config = build(system.Config, {**small.options, **changes})
    of = OptionGroup.of.__func__
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        pytest.MonkeyPatch.context() as patch,
    ):
        if read is not None:
            config = noting(config, read)
            noted = lambda cls, *given, **changes: noting(of(cls, *given, **changes), read, copied=True)  # noqa: E731
            patch.setattr(OptionGroup, "of", classmethod(noted))
            staged = chain._config
            patch.setattr(chain, "_config", lambda *given: noting(staged(*given), read, copied=True))
        return execute(slug, system, config, folder)


def noting(config: Any, read: set[str], *, copied: bool = False) -> Any:
    """`config`, of a class that notes which options are read for their effect."""

    def note(self: Any, name: str) -> Any:
        caller = sys._getframe(1)
        beside = not copied and caller.f_globals.get("__name__") in BESIDE_THE_RUN
        if not beside and caller.f_code.co_name != "__post_init__":
            read.add(name)
        return object.__getattribute__(self, name)

    kind = type(config)
    config.__class__ = type(kind.__name__, (kind,), {"__getattribute__": note, "__module__": kind.__module__})
    return config


def place_of(path: Path, run: Path) -> str:
    """Where a file lies in the run folder; empty outside, for files of the folder itself, and for the events of runs within,
    which grow with every start.
    """
    path, run = path.resolve(), run.resolve()
    inside = path.relative_to(run).as_posix() if path.is_relative_to(run) else ""
    return inside if "/" in inside and ".tmp/" not in inside and path.name != "events.jsonl" else ""


def moment_of(path: Path, data: bytes, run: Path, writes: Counter[Path]) -> str:
    """Before the first and the second writing of a file of the run, and before the second step of a training is told."""
    if path.name == "events.jsonl" and b'"step": 2' in data and b'"loss"' in data:
        return f"step 2 of {json.loads(data).get('stage')}"
    place = place_of(path, run)
    writes[path] += 1
    return place and f"{place} {min(writes[path], 2)}"


def test_every_available_system_has_a_row() -> None:
    assert SMALL.keys() == {entry.slug for entry in AVAILABLE}


def test_a_complete_run(slug: str, whole: Callable[[str], Whole]) -> None:
    run, entry = whole(slug).run, get(slug)
    assert run.state == "done"
    assert run.config() == to_dict(build(load_system(slug).Config, run.config()))
    assert run.environment()["seed"] == run.config().get("seed")
    assert run.status()["headline"]
    assert artefacts(run.path), "what was measured is there for programs"
    report = read_report(run.report)
    assert (report.method, report.arxiv) == (slug, entry.arxiv)
    assert report.title
    assert report.verdict.text.endswith(".")
    titles = [one.title for one in report.sections]
    assert {"Configuration", "Environment"} <= {*titles}
    assert len(titles) > 2
    assert len({*titles}) == len(titles), "every section has a name of its own"
    assert [
        (one.command, unknown_in(one.command)) for one in report.next_commands if unknown_in(one.command)
    ] == []


@pytest.mark.parametrize("name", PUBLISHES)
def test_a_model_that_was_fitted_is_published(
    name: str, root: Path, whole: Callable[[str], Whole], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = whole(ready(name, root, monkeypatch)).run
    if name in WITH_CARD:
        card = (run.model / "README.md").read_text(encoding="utf-8")
        assert card.startswith("---\n")
        assert get(name).arxiv in card
        assert "## Data" in card
    assert any(run.model.rglob("*.safetensors"))
    assert any("loss" in event for one in [run, *inner_runs(run)] for event in one.events("train"))
    if name in REWARD_MODELS:
        load_reward_model(str(run.path), device="cpu")
    elif (run.model / "model_index.json").exists():
        load_pipeline(str(run.path), device="cpu")
    elif (run.model / "prompts.json").exists():
        PromptedEncoder.load(run.path, device="cpu")
    elif (run.model / "towers.json").exists():
        TwoTowers.load(run.path)
    elif name != "align2llava" and not NO_LANGUAGE_MODELS.issuperset(get(name).models):
        load_model(str(run.path), training=False)


def one_of_each_kind(moments: set[str]) -> set[str]:
    """Of moments that differ in numbers alone (rounds, checkpoints, files of rows) one: of some kinds an early one, of others a
    late one.
    """
    kinds: dict[str, list[str]] = {}
    for one in sorted(moments):
        kinds.setdefault(re.sub(r"(?<=[-/])\d+", "#", one), []).append(one)
    return {alike[zlib.crc32(kind.encode()) % len(alike)] for kind, alike in kinds.items()}


@pytest.mark.parametrize("name", [*SMALL, *VARIANTS])
def test_killed_at_every_kind_of_moment_it_ends_like_the_undisturbed_run(
    name: str, root: Path, whole: Callable[[str], Whole], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = whole(ready(name, root, monkeypatch))
    kill_and_compare(name, undisturbed, one_of_each_kind(undisturbed.moments))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL, *VARIANTS])
def test_killed_at_every_moment_it_ends_like_the_undisturbed_run(
    name: str, root: Path, whole: Callable[[str], Whole], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = whole(ready(name, root, monkeypatch))
    kill_and_compare(name, undisturbed, None)


def kill_and_compare(name: str, undisturbed: Whole, moments: set[str] | None) -> None:
    """One run, killed at each of `moments` in turn, or at every moment, and started again."""
    folder = Path("killed" if moments else "killed at all") / name
    killed: set[str] = set()
    rows: Counter[str] = Counter()

    def kill(path: Path, data: bytes) -> None:
        moment = moment_of(path, data, folder, writes)
        if moment and moment not in killed and (moments is None or moment in moments):
            killed.add(moment)
            raise Killed
        rows[place_of(path, folder)] += data.count(b"\n")

    for _ in range(3 * len(undisturbed.rows)):
        writes: Counter[Path] = Counter()
        with contextlib.suppress(Killed), watched(kill):
            run = tiny_run(name, folder)
            break
    else:
        pytest.fail(f"not finished; killed at {sorted(killed)}")
    assert len(run.events("resumed")) == len(killed)
    due = moments or undisturbed.moments
    assert killed >= {one for one in due if one.startswith("artefacts/") and one.endswith(" 1")}
    again = {place: n for place, n in rows.items() if place and n > undisturbed.rows[place]}
    assert not again, "rows that were made twice"
    assert run.status().get("figures") == undisturbed.run.status().get("figures")
    assert_close(artefacts(run.path), artefacts(undisturbed.run.path), rtol=0, atol=0)
    for file in undisturbed.run.model.rglob("*.safetensors"):
        name_in_model = file.relative_to(undisturbed.run.model)
        assert (run.model / name_in_model).read_bytes() == file.read_bytes(), name_in_model


def test_an_option_is_read_or_refused(slug: str, whole: Callable[[str], Whole], tmp_path: Path) -> None:
    config_class, given = load_system(slug).Config, SMALL[slug].options
    read = whole(slug).read.union(*(one.config() for one in inner_runs(whole(slug).run)))
    unread = [one for one in options_of(config_class) if one.name not in read]
    ignored = []
    for one in unread:
        with contextlib.suppress(ConfigError):
            value = another(one, getattr(build(config_class, given), one.name))
            tiny_run(slug, tmp_path / one.name, **{one.name: value})
            ignored.append(one.name)
    assert ignored == []


def another(one: Option, value: Any) -> Any:
    """A value that the option takes and does not have."""
    if one.choices:
        chosen = next(choice for choice in one.choices if choice != value and [choice] != value)
        return [chosen] if one.is_list else chosen
    if one.is_flag:
        return not value
    numeric = "number" in one.type_name
    if one.is_list:
        return [1, 2] if numeric else ["x"]
    if not numeric:
        return "x"
    if "whole" in one.type_name or (value or 0) >= 1:
        return (value or 0) + 1
    return 0.75 if (value or 0) < 0.5 else 0.25


def test_a_bad_record_is_named_with_its_line(slug: str, tmp_path: Path) -> None:
    name, file = data_of(slug)
    path = tmp_path / file.name
    path.write_text(file.read_text(encoding="utf-8") + '{"odd": 1}\n', encoding="utf-8")
    line = len(path.read_text(encoding="utf-8").splitlines())
    value = [str(path)] if isinstance(SMALL[slug].options[name], list) else str(path)
    with pytest.raises(CoalignError, match=rf"{path.name}:{line}"):
        tiny_run(slug, tmp_path / "run", **{name: value})


def data_of(slug: str) -> tuple[str, Path]:
    """The option that names the system's main data, and its file."""
    options = SMALL[slug].options
    name = next(one for one in ("data", "prompts", "facts") if one in options)
    value = options[name]
    return name, Path(value[0] if isinstance(value, list) else value)


def test_help_and_configuration_are_for_people_and_for_programs(
    slug: str, coalign: Callable[..., Any], tmp_path: Path
) -> None:
    config_class, entry = load_system(slug).Config, get(slug)
    text = " ".join(coalign("run", slug, "--help").out.split())
    assert entry.arxiv in text
    assert entry.claim.replace("- ", "-") in text.replace("- ", "-")
    for one in options_of(config_class):
        assert f"{one.flag} " in text
    config = build(config_class, SMALL[slug].options)
    (tmp_path / "given.yaml").write_text(json.dumps(to_dict(config)))
    printed = coalign("run", slug, "--config", str(tmp_path / "given.yaml"), "--print-config")
    assert printed.code == 0, printed.err
    (tmp_path / "printed.yaml").write_text(printed.out)
    again = coalign("run", slug, "--config", str(tmp_path / "printed.yaml"), "--print-config")
    assert again.out == printed.out
