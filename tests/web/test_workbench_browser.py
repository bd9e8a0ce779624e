"""The workbench in headless Chromium: loads, works by keyboard, shows hostile text and runs none of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("selenium")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from coalign.core.processes import locks
from coalign.web.workbench import workbench
from tests.browser import assert_quiet, click, js, texts, visit, wait
from tests.browser import browser as browser
from tests.web.serving import running
from tests.web.test_workbench import HOSTILE, Echo, make_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("runs")
    make_run(root, "first", headline="30 % to 46 %", model=True)
    make_run(root, "second", headline=HOSTILE + "x" * 3000 + "مرحبا بالعالم", model=True)
    with running(workbench(root, load=lambda name: (Echo(Path(name).name), True))) as address:
        yield address


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/methods",
        "/advise?have=feedback",
        "/map/risks",
        "/play",
        "/start?method=dpo",
        "/runs/second",
        "/runs/first/report",
    ],
)
@pytest.mark.parametrize("width", [360, 1280])
def test_pages_load_without_errors_and_fit(browser, address: str, path: str, width: int) -> None:
    visit(browser, address + path, width)
    assert_quiet(browser, width)


@pytest.mark.parametrize("width", [360, 1280])
def test_the_names_of_runs_are_not_covered(browser, address: str, width: int) -> None:
    visit(browser, address, width)
    uncovered = """[...document.querySelectorAll('tbody th a')].map((one) => {
        const box = one.getBoundingClientRect();
        return document.elementFromPoint(box.left + 4, box.top + box.height / 2) === one; })"""
    assert js(browser, uncovered) == [True, True]


def test_runs_are_searched_and_ticked_by_keyboard(browser, address: str) -> None:
    visit(browser, address)
    visible = "[...document.querySelectorAll('tbody tr')].filter((row) => !row.hidden).length"
    assert js(browser, visible) == 2
    browser.execute_script("document.getElementById('filter').focus()")
    ActionChains(browser).send_keys("first").perform()
    wait(browser, f"{visible} === 1")
    ActionChains(browser).send_keys(Keys.BACKSPACE * 5).perform()
    wait(browser, f"{visible} === 2")
    for _ in range(2):
        assert js(browser, "document.getElementById('compare').disabled")
        while not js(browser, "document.activeElement.name == 'run' && !document.activeElement.checked"):
            ActionChains(browser).send_keys(Keys.TAB).perform()
        ActionChains(browser).send_keys(Keys.SPACE).perform()
    wait(browser, "!document.getElementById('compare').disabled")
    click(browser, "#compare")
    wait(browser, "document.title.includes('2 runs compared')")


def test_runs_are_filtered_by_state_and_deleted_after_a_question(
    browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kept", "gone"):
        make_run(tmp_path, name)
    make_run(tmp_path, "broken").set_status(state="failed")
    monkeypatch.setattr(locks, "_HELD", {})  # this process holds them, as if it worked in them
    with running(workbench(tmp_path)) as address:
        visit(browser, address)
        visible = "[...document.querySelectorAll('tbody tr')].filter((row) => !row.hidden).length"
        choose = "document.getElementById('only').value = '{}'; document.getElementById('only').dispatchEvent(new Event('change'))"
        browser.execute_script(choose.format("failed"))
        wait(browser, f"{visible} === 1")
        browser.execute_script(choose.format(""))
        wait(browser, f"{visible} === 3")
        click(browser, "[name=run][value=gone]")
        click(browser, "#delete")
        browser.switch_to.alert.dismiss()
        assert (tmp_path / "gone").exists()
        click(browser, "#delete")
        browser.switch_to.alert.accept()
        wait(browser, "document.querySelectorAll('tbody tr').length === 2")
        assert not (tmp_path / "gone").exists()
        assert (tmp_path / "kept").exists()


def test_two_models_answer_by_keyboard(browser, address: str) -> None:
    visit(browser, f"{address}/play?a=first&b=second")
    browser.execute_script("document.querySelector('[name=prompt]').value = arguments[0]", HOSTILE)
    browser.execute_script("document.querySelector('[name=prompt]').focus()")
    ActionChains(browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    ended = "[...document.querySelectorAll('.speed')].every((one) => one.textContent.startsWith('5 tokens'))"
    wait(browser, ended)
    assert [one.strip() for one in texts(browser, ".answer")] == [f"first: {HOSTILE}", f"second: {HOSTILE}"]
    assert_quiet(browser)


def test_every_control_has_a_name(browser, address: str) -> None:
    for path in ("/", "/methods", "/advise", "/map/goals", "/play", "/start?method=dpo", "/runs/first"):
        visit(browser, address + path)
        controls = "[...document.querySelectorAll('input:not([type=hidden]), select, button, a, textarea')]"
        name = "(one.labels?.[0]?.textContent || one.textContent || one.ariaLabel || '').trim()"
        assert js(browser, f"{controls}.filter((one) => !{name}).length") == 0, path
