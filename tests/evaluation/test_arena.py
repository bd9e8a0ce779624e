"""Varco Arena: brackets, ratings, simulation, whole runs, the page, trials on verdicts that are there, errors."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.checks.papers.evaluation.varco_arena import check_on_data
from coalign.cli.running.reproduce import CheckOptions
from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.evaluation import varco_arena
from coalign.evaluation.arena.matches import Arena, tables_of
from coalign.evaluation.arena.outputs import Outputs, read_outputs
from coalign.evaluation.arena.report import write_arena_report
from coalign.evaluation.arena.tournament import bracket, play_bracket, simulate, simulate_tables
from coalign.evaluation.arena.trials import read_judged_pairs, trial
from coalign.evaluation.varco_arena import Config, arena_results
from coalign.judging.items import read_items
from coalign.judging.scoring_judges import FunctionJudge, ScoringJudge
from coalign.measures import ratings
from coalign.report.html import read_report
from coalign.report.model import Samples
from tests.browser import browser as browser
from tests.browser import js, wait
from tests.evaluation.judge_files import write_rows
from tests.evaluation.scripted import ScriptedGenerator, longer_is_better

LENGTH = ScoringJudge(lambda items: [len(one.responses[0]) for one in items], name="length")


def outputs_of(texts: list[list[str]], name: str = "m{}") -> Outputs:
    """For each prompt the text of every model."""
    prompts: Any = [[{"role": "user", "content": f"Prompt {x}?"}] for x in range(len(texts))]
    ids, models = (f"p{x}" for x in range(len(texts))), map(name.format, range(len(texts[0])))
    return Outputs(tuple(models), tuple(ids), tuple(prompts), tuple(map(tuple, texts)))


def outputs(models: int = 5, prompts: int = 4) -> Outputs:
    """Model k writes k + 1 letters, so higher names are better for a judge of length."""
    return outputs_of([["x" * (k + 1) + str(x) for k in range(models)] for x in range(prompts)])


def output_rows(models: int = 4, prompts: int = 3) -> list[dict[str, Any]]:
    made = outputs(models, prompts)
    return [
        {"id": made.ids[x], "prompt": f"Prompt {x}?", "model": made.models[k], "output": made.texts[x][k]}
        for x in range(prompts)
        for k in range(models)
    ]


# -- brackets -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_a_bracket_has_one_match_less_than_players_and_the_best_wins(players: int, rng: Any) -> None:
    order = list(range(players))
    rng.shuffle(order)
    matches, champion = play_bracket(order, max)
    assert len(matches) == players - 1
    assert champion == players - 1
    losers = [min(first, second) for first, second, _ in matches]
    assert sorted(losers) == list(range(players - 1)), "everybody else loses exactly once"
    assert all(one.round <= max(1, int(np.ceil(np.log2(players)))) for one in bracket(players))


def test_nobody_plays_alone() -> None:
    assert bracket(1) == ()
    with pytest.raises(ValueError, match="at least 1"):
        bracket(0)


def test_rounds_in_batches_play_the_same_matches_as_one_by_one() -> None:
    made = outputs(7, 3)
    played = Arena(made, LENGTH).tournaments()
    assert len(played) == 6 * 3
    for prompt in range(3):
        mine = [one for one in played if one.match.prompt == prompt]
        assert mine[-1].winner == 6
        losers = {one.match.first + one.match.second - one.winner for one in mine}
        assert losers == set(range(6))
    firsts = {tuple(sorted((one.match.first, one.match.second))) for one in played if one.match.round == 1}
    assert len(firsts) > 3, "prompts have brackets of their own"


def test_what_a_prompt_meets_does_not_depend_on_the_others() -> None:
    few, many = (Arena(outputs(6, n), LENGTH, seed=3).tournaments() for n in (2, 5))
    assert [one.match for one in few] == [one.match for one in many if one.match.prompt < 2]
    other = Arena(outputs(6, 2), LENGTH, seed=4).tournaments()
    assert [one.match for one in few] != [one.match for one in other]


def test_places_are_drawn() -> None:
    judge = FunctionJudge(lambda one: "first", name="first")
    played = Arena(outputs(4, 60), judge).all_pairs()
    rates = tables_of(played, outputs(4, 60)).sum(0)
    assert 0.3 < rates[0, 1] / 60 < 0.7
    both = Arena(outputs(2, 5), judge, orders="both").tournaments()
    assert {one.share for one in both} == {0.5}


def test_empty_loses_and_equal_ties_without_a_question() -> None:
    made = Outputs(("a", "b", "c"), ("p",), ([{"role": "user", "content": "?"}],), (("", "x", "x "),))
    judge = FunctionJudge(lambda one: pytest.fail("asked"), name="none")  # type: ignore[arg-type]
    played = Arena(made, judge).all_pairs()
    found = {frozenset((one.match.first, one.match.second)): one for one in played}
    assert found[frozenset((0, 1))].winner == 1
    assert found[frozenset((1, 2))].share == 0.5
    assert {one.how for one in played} == {"empty", "same"}


def test_missing_verdicts_count_for_nobody_and_end_the_run_above_the_limit() -> None:
    judge = FunctionJudge(lambda one: None, name="silent")
    with pytest.raises(CoalignError, match="verdicts are missing"):
        Arena(outputs(3, 2), judge).tournaments()
    played = Arena(outputs(3, 2), judge, max_failures=1).tournaments()
    assert {one.share for one in played} == {None}
    assert tables_of(played, outputs(3, 2)).sum() == 0


# -- ratings ------------------------------------------------------------------------------------------------------


def test_ratings_are_found_again() -> None:
    truth = np.array([1300.0, 1100, 1000, 900, 700])
    table = ratings.match_probabilities(truth) * 1000
    np.fill_diagonal(table, 0)
    assert ratings.bradley_terry(table).values == pytest.approx(truth, abs=1e-6)
    batch = ratings.bradley_terry(np.stack([table, table.T])).values
    assert batch[0] == pytest.approx(truth)
    assert batch[1] == pytest.approx(2000 - truth)


def test_what_is_not_connected_needs_a_penalty() -> None:
    table = ratings.wins_table([(0, 1, 1.0), (0, 1, 1.0)], 2)
    assert not ratings.is_connected(table)
    with pytest.raises(ValueError, match="run away"):
        ratings.bradley_terry(table)
    assert np.isfinite(ratings.bradley_terry(table, l2=1.0).values).all()
    assert ratings.is_connected(ratings.wins_table([(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0)], 3))


def test_intervals_are_wider_for_fewer_prompts() -> None:
    rng = np.random.default_rng(0)
    tables = simulate_tables(ratings.match_probabilities([1100, 1000, 900, 1000]), 1, 200, rng)
    low, high, penalised = ratings.bootstrap_ratings(tables, resamples=200)
    few_low, few_high, _ = ratings.bootstrap_ratings(tables[:20], resamples=200)
    assert penalised == 0
    assert np.all(high > low)
    assert (few_high - few_low).mean() > 2 * (high - low).mean()
    assert low[0] < 1100 < high[0]


def test_cycles() -> None:
    ring = ratings.wins_table([(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0)], 3)
    line = ratings.wins_table([(0, 1, 1.0), (1, 2, 1.0), (0, 2, 1.0)], 3)
    assert ratings.cyclic_share(ring) == (1, 1)
    assert ratings.cyclic_share(line) == (0, 1)
    assert ratings.cyclic_share(ratings.wins_table([(0, 1, 1.0)], 3)) == (0, 0)


def test_simulated_matches_follow_the_ratings() -> None:
    chances = ratings.match_probabilities([1200, 1000, 1100], 0.8)
    tables = simulate_tables(chances, 400, 50, np.random.default_rng(1))
    assert tables.shape == (50, 3, 3)
    assert (tables.sum((1, 2)) == 800).all()
    total = tables.sum(0)
    assert total[0, 1] / (total[0, 1] + total[1, 0]) == pytest.approx(chances[0, 1], abs=0.02)
    with pytest.raises(ValueError, match="from 0 to 1"):
        ratings.match_probabilities([1, 2], 1.5)


def test_a_perfect_judge_and_many_prompts_find_the_order() -> None:
    found = simulate([1400, 1200, 1000, 800], reference=1100, precision=1, prompts=2000, trials=4)
    assert found.tournament == pytest.approx(np.ones(4))
    again = simulate([1400, 1200, 1000, 800], reference=1100, precision=1, prompts=2000, trials=4)
    assert np.array_equal(found.anchored, again.anchored)


# -- files and runs -----------------------------------------------------------------------------------------------


def test_outputs_from_one_file_and_from_many(tmp_path: Path) -> None:
    rows = output_rows()
    one = read_outputs([write_rows(tmp_path / "all.jsonl", rows)])
    assert one.models == ("m0", "m1", "m2", "m3")
    files = []
    for k in range(2):
        mine = [{"id": f"p{x}", "prompt": f"Prompt {x}?", "responses": ["x" * (k + 1)]} for x in range(3 - k)]
        files.append(write_rows(tmp_path / f"model-{k}.jsonl", mine))
    many = read_outputs(files)
    assert many.models == ("model-0", "model-1")
    assert (many.ids, many.incomplete) == (("p0", "p1"), ("p2",))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "?", "output": "x"}], "no column that names the model"),
        ([{"prompt": "?", "model": "a", "output": "x"}], "needs two models"),
        ([{"prompt": "?", "model": "a", "output": "x"}] * 2, "a answers '\\?' twice"),
        ([{"prompt": "?", "model": 3, "output": "x"}], "model: the number 3"),
        ([{"prompt": "?", "model": "a", "output": True}], "output: the boolean true"),
        ([{"prompt": p, "model": m, "output": "x"} for p, m in ("?a", "!b")], "No prompt"),
    ],
)
def test_outputs_that_cannot_be_used(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_outputs([write_rows(tmp_path / "o.jsonl", rows)])


@pytest.fixture
def arena(judge_by: Any, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], Run]]:
    """A run where longer outputs win, which gives its results too."""
    judge_by(ScriptedGenerator(longer_is_better))

    def start(rows: list[dict[str, Any]] | None = None, name: str = "run", **values: Any) -> tuple[Any, Run]:
        if rows is not None:
            values["data"] = [write_rows(tmp_path / "o.jsonl", rows)]
        config = build(Config, {"resamples": 50, **values})
        made = Run.start(tmp_path / name, "varco-arena", config)
        varco_arena.run(config, made)
        return json.loads((made.artefacts / "results.json").read_text()), made

    return start


def test_a_run_ranks_and_shows_every_match(arena: Any, tmp_path: Path) -> None:
    rows = output_rows()
    rows[3]["output"] = "<img src=x onerror=alert(1)>" * 3
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"m0": 1, "m1": 2, "m2": 3, "m3": 4}))
    results, made = arena(rows, reference="m1", ground_truth=truth)
    assert next(row["model"] for row in results["leaderboard"]) == "m3"
    assert results["matches"] == 9
    assert results["penalty"] == 1
    assert results["anchored"]["win_rates"]["m3"] == 1
    assert results["ground_truth"]["models"] == 4
    matches = read_rows(made.artefacts / "matches.jsonl")
    assert {one["decided_by"] for one in matches} == {"judge"}
    assert read_items(str(made.artefacts / "matches.jsonl")).kind == "pairs"
    report = read_report(made.report)
    samples = next(one for one in report.sections if isinstance(one, Samples))
    assert len(samples.rows) == 9
    assert "round 1" in samples.rows[0].tags
    assert "<img src=x" not in made.report.read_text()


def test_stored_verdicts_rate_models(arena: Any, tmp_path: Path) -> None:
    said = [(0, "x0", "xx0", "second"), (0, "xxx0", "xx0", "first"), (1, "xx1", "x1", "tie")]
    verdicts = [
        {"prompt": f"Prompt {x}?", "response_a": a, "response_b": b, "label": label}
        for x, a, b, label in said
    ]
    stored = {"judge": "stored", "stored_verdicts": write_rows(tmp_path / "v.jsonl", verdicts)}
    results, _ = arena(output_rows(3, 2), schedule="all", **stored)
    assert [row["model"] for row in results["leaderboard"]] == ["m2", "m1", "m0"]
    assert results["without_verdict"] == 3
    with pytest.raises(CoalignError, match="missing"):
        arena(output_rows(3, 2), "bracket", **stored)


def test_verifiers_judge_an_arena(arena: Any) -> None:
    rows = [{**row, "constraints": [{"verifier": "max_characters", "n": 2}]} for row in output_rows(3, 2)]
    board = arena(rows, judge="verifiers")[0]["leaderboard"]
    assert board[0]["model"] == "m0", "the only one that keeps to two characters"


def test_simulation_mode(arena: Any) -> None:
    results, made = arena(mode="simulation", sim_trials=20, sim_prompts=[30], sim_precision=[1.0])
    assert results["settings"][0]["tournament"] > 0.5
    assert "nearer" in made.report.read_text()


def test_what_cannot_be_run(arena: Any) -> None:
    for rows, values, message in (
        (None, {}, "data is needed"),
        (output_rows(), {"reference": "m9"}, "reference: 'm9' is none of m0"),
    ):
        with pytest.raises(ConfigError, match=message):
            arena(rows, f"{len(values)} options", **values)


def test_a_penalty_of_nothing_must_be_possible() -> None:
    made = outputs(3, 2)
    config = build(Config, {"data": ["x"], "penalty": 0, "resamples": 10})
    with pytest.raises(ConfigError, match="no finite ratings"):
        arena_results(Arena(made, LENGTH).tournaments(), made, config)


NAMES = ("d", "a", "c", "b")


def match(prompt: str, first: str, second: str, share: float | None) -> dict[str, Any]:
    return {"prompt": prompt, "model_a": first, "model_b": second, "share_a": share}


def verdict_rows(prompts: int = 30, noise: float = 0.0) -> list[dict[str, Any]]:
    """Earlier letters are better; verdicts are turned round with probability `noise`."""
    draw = random.Random(0)
    made = []
    for x, (first, second) in itertools.product(range(prompts), itertools.combinations(NAMES, 2)):
        better = float((first < second) != (draw.random() < noise))
        made.append(match(f"p{x}", first, second, better))
    return made


def test_verdicts_are_read_in_both_directions_and_repeats_count_by_their_mean(tmp_path: Path) -> None:
    more = [match("p0", "a", "d", 0), match("p1", "a", "d", None), match("lone", "a", "b", 0.5)]
    write_rows(tmp_path / "m.jsonl", [*verdict_rows(3), *more])
    found = read_judged_pairs(tmp_path / "m.jsonl")
    assert found.models == ("a", "b", "c", "d")
    assert found.complete() == [0, 1, 2]
    assert found.shares[0][0, 3] == found.shares[0][3, 0] == 0.5
    assert found.shares[1][0, 3] == 1.0
    assert found.shares[3] == {(0, 1): 0.5, (1, 0): 0.5}
    assert list(found.ratings([1, 2]).argsort()) == [3, 2, 1, 0]


def test_sure_verdicts_give_the_true_order_and_trials_repeat(tmp_path: Path) -> None:
    write_rows(tmp_path / "m.jsonl", verdict_rows())
    found = read_judged_pairs(tmp_path / "m.jsonl")
    tournament, anchored = trial(found, list(range(20)), [4, 3, 2, 1], random.Random(1))
    assert tournament == pytest.approx(1)
    assert 0.5 < anchored < 1, "a fixed reference cannot order the models that all beat it"
    assert trial(found, list(range(20)), [4, 3, 2, 1], random.Random(1)) == (tournament, anchored)


def test_bad_rows_are_named_and_a_file_without_whole_prompts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_rows(path, [*verdict_rows(1), match("p", "a", "b", 2), {"prompt": "p"}])
    with pytest.raises(DataError, match="2 rows are no judged pairs") as error:
        read_judged_pairs(path)
    assert f"{path}:7: share_a: is 2, expected as in matches.jsonl" in str(error.value)
    assert f"{path}:8: model_a: missing" in str(error.value)
    write_rows(path, verdict_rows(1)[:5])
    with pytest.raises(DataError, match="0 prompts on which every pair"):
        read_judged_pairs(path)


def test_the_check_reads_verdicts(tmp_path: Path) -> None:
    write_rows(tmp_path / "m.jsonl", verdict_rows(12, noise=0.2))
    run = Run.start(tmp_path / "run", "varco-arena", CheckOptions(), seed=0)
    verdict = check_on_data(run, seeds=1, data=tmp_path / "m.jsonl")
    assert {row["arm"] for row in verdict.measures} == {"5 prompts", "10 prompts"}
    assert "4 models, 12 prompts" in verdict.setting
    assert verdict.outcome in ("seen", "not seen", "mixed")


MODELS, PROMPTS = 20, 527
TEXT = "the council said that its winter report about old engines would be late because several people asked"
WORDS = TEXT.split()


def page_outputs() -> Outputs:
    """Texts of up to 120 words; later models write more of them."""
    draw = random.Random(0)
    lengths = [[draw.randint(20, 80 + 2 * k) for k in range(MODELS)] for _ in range(PROMPTS)]
    return outputs_of([[" ".join(draw.choices(WORDS, k=n)) for n in row] for row in lengths], "model-{:02d}")


def test_ten_thousand_matches_stay_usable(browser, tmp_path: Path) -> None:
    made = page_outputs()
    played = Arena(made, LENGTH).tournaments()
    assert len(played) == (MODELS - 1) * PROMPTS == 10_013
    config = build(Config, {"data": ["outputs.jsonl"], "judge": "verifiers", "resamples": 20})
    run = Run.start(tmp_path / "run", "varco-arena", config, seed=0)
    results = arena_results(played, made, config)
    write_arena_report(run, config, made, played, results)
    assert run.report.stat().st_size < 25e6
    browser.set_window_size(1280, 1000)
    browser.get(run.report.as_uri())
    wait(browser, "document.querySelector('.status').textContent.startsWith('1 to 20 of 10,013')")
    assert js(browser, "document.querySelectorAll('*').length") < 5000, "a page of matches at a time"
    assert js(browser, "document.documentElement.scrollWidth <= window.innerWidth")
    wins = "[...document.querySelectorAll('table')].find((one) => one.rows.length === 21 && one.rows[0].cells.length === 21)"
    assert js(browser, f"{wins}.rows[1].offsetHeight") < 60, "names of models are not broken into letters"
    scroll = f"{wins}.parentElement"
    browser.execute_script(f"{scroll}.scrollLeft = {scroll}.scrollWidth")
    left = f"{wins}.rows[1].cells[0].getBoundingClientRect().left - {scroll}.getBoundingClientRect().left"
    assert abs(js(browser, left)) < 2, "they stay in sight while the table scrolls"
    browser.execute_script("document.querySelector('[name=next]').click()")
    assert js(browser, "document.querySelector('.status').textContent").startswith("21 to 40 of ")
    first = results["leaderboard"][0]
    option = f"[...document.querySelectorAll('[name=tag] option')].find((one) => one.text.startsWith('{first['model']} '))"
    browser.execute_script(
        f"const tag = document.querySelector('[name=tag]'); tag.value = {option}.value;"
        "tag.dispatchEvent(new Event('input', {bubbles: true})); tag.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    wait(browser, f"document.querySelector('.status').textContent.includes('{first['matches']:,} samples')")
    shown = re.search(r"Prompt \d+\?", js(browser, "document.querySelector('.samples').textContent"))
    assert shown, "of so many matches the texts of some are in the page"
    browser.execute_script(
        f"const text = document.querySelector('[name=text]'); text.value = '{shown[0]}';"
        "text.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    wait(browser, "/of \\d samples/.test(document.querySelector('.status').textContent)")
    sorts = js(browser, "[...document.querySelectorAll('[name=sort] option')].map((one) => one.value)")
    assert sorts == ["", "long"]
    assert browser.get_log("browser") == []


def test_ids_count_only_where_every_file_has_them(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_text(json.dumps({"id": "1", "prompt": "q", "output": "x"}) + "\n")
    b.write_text(json.dumps({"prompt": "q", "output": "y"}) + "\n")
    for sources in ([str(a), str(b)], [str(b), str(a)]):
        found = read_outputs(sources)
        assert (found.ids, len(found.texts[0])) == (("q",), 2)
