"""The arena's page with 10,000 matches, in a browser."""

from __future__ import annotations

import random
from pathlib import Path

from coalign.core.options import build
from coalign.core.runs import Run
from coalign.evaluation.arena.matches import Arena
from coalign.evaluation.arena.outputs import Outputs
from coalign.evaluation.arena.report import write_arena_report
from coalign.evaluation.varco_arena import Config, arena_results
from coalign.judging.scoring_judges import ScoringJudge
from tests.browser import browser as browser
from tests.browser import js, wait

MODELS, PROMPTS = 20, 527
TEXT = "the council said that its winter report about old engines would be late because several people asked"
WORDS = TEXT.split()


def outputs() -> Outputs:
    """Texts of up to 120 words; later models write more of them."""
    draw = random.Random(0)
    return Outputs(
        models=tuple(f"model-{k:02d}" for k in range(MODELS)),
        ids=tuple(f"p{x}" for x in range(PROMPTS)),
        prompts=tuple([{"role": "user", "content": f"Question {x}?"}] for x in range(PROMPTS)),  # type: ignore[misc]
        texts=tuple(
            tuple(" ".join(draw.choices(WORDS, k=draw.randint(20, 80 + 2 * k))) for k in range(MODELS))
            for _ in range(PROMPTS)
        ),
    )


def test_ten_thousand_matches_stay_usable(browser, tmp_path: Path) -> None:
    made = outputs()
    judge = ScoringJudge(lambda items: [len(one.responses[0]) for one in items], name="length")
    played = Arena(made, judge).tournaments()
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
    browser.execute_script(
        "const text = document.querySelector('[name=text]'); text.value = 'Question 526?';"
        "text.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    wait(browser, "/of \\d samples/.test(document.querySelector('.status').textContent)")
    sorts = js(browser, "[...document.querySelectorAll('[name=sort] option')].map((one) => one.value)")
    assert sorts == ["", "long"]
    assert browser.get_log("browser") == []
