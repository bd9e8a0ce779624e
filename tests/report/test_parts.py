"""What reports share: the rule of the outcome, estimates, rows of a comparison, training curves, counts."""

import ast
import math
from pathlib import Path

import pytest

from coalign.measures.statistics import bootstrap_mean, paired_bootstrap
from coalign.report import parts
from coalign.report.model import ComparisonRow, Estimate
from tests.report.build import sample, samples

UP, DOWN, AROUND = Estimate(0.2, 0.1, 0.3), Estimate(-0.2, -0.3, -0.1), Estimate(0.2, -0.1, 0.5)


@pytest.mark.parametrize(
    ("change", "better", "said", "outcome", "guarded"),
    [
        (UP, "higher", "better", "improved", "mixed"),
        (UP, "lower", "worse", "worse", "worse"),
        (DOWN, "lower", "better", "improved", "mixed"),
        (DOWN, "higher", "worse", "worse", "worse"),
        (AROUND, "higher", "unclear", "neutral", "neutral"),
        (Estimate(0.2, 0.0, 0.5), "higher", "unclear", "neutral", "neutral"),
        (Estimate(0.2), "higher", "unknown", "neutral", "neutral"),
        (UP, "neither", "unknown", "neutral", "neutral"),
        (None, "higher", "unknown", "neutral", "neutral"),
    ],
)
def test_only_an_interval_without_zero_decides(change, better, said, outcome, guarded) -> None:
    assert parts.effect(change, better) == said
    assert parts.outcome_of(change, better, n=20) == outcome
    assert parts.outcome_of(change, better, n=20, guard=False) == guarded
    assert parts.outcome_of(change, better, n=19) == "neutral"


def test_the_outcome_of_an_interval_and_of_the_same_from_json() -> None:
    gain = paired_bootstrap([0.0] * 20, [1.0] * 20)
    assert parts.outcome_of(gain, n=20) == parts.outcome_of(gain.to_dict(), n=20) == "improved"
    assert parts.outcome_of(paired_bootstrap([0.0], [1.0]), n=None) == "neutral"  # one pair has no interval


def test_a_verdict_of_few_records_says_so() -> None:
    few, many = (parts.judged(UP, "It rose.", n=n) for n in (19, 20))
    assert (few.outcome, few.text) == (
        "neutral",
        "It rose. Too few to tell: 19 held out, of at least 20.",
    )
    assert (many.outcome, many.text) == ("improved", "It rose.")
    assert parts.judged(None, "Nothing was measured.", n=None).text == "Nothing was measured."


def test_the_row_with_the_median_gain_comes_first() -> None:
    rows = [sample(("a", 0.0), ("b", gain)) for gain in (3.0, -1.0, 1.0, 2.0, 0.5)]
    section = samples(*rows)
    assert parts.median_row(section) == 2
    assert parts.median_first(section).rows == [rows[2], *rows[:2], *rows[3:]]
    unscored = samples(sample("a", "b"))
    assert parts.median_first(unscored) == unscored


def test_a_history_begins_with_what_was_before() -> None:
    assert parts.with_start({"loss": 2.0}, [{"step": 3, "loss": 1.0}]) == [
        {"step": 0, "loss": 2.0},
        {"step": 3, "loss": 1.0},
    ]
    assert parts.with_start({}, [{"step": 3}]) == [{"step": 3}]


def test_estimates_have_no_infinite_ends() -> None:
    one = bootstrap_mean([0.5])
    assert one.high == math.inf
    assert parts.estimate(one) == parts.estimate(one.to_dict()) == parts.estimate(0.5) == Estimate(0.5)
    assert parts.estimate(None) == Estimate(None)
    many = bootstrap_mean([0.0, 1.0, 1.0])
    assert parts.estimate(many) == Estimate(many.mean, many.low, many.high)


def test_rows_of_a_comparison() -> None:
    assert parts.compared("loss", 2.0, 1.5, unit="number", better="lower") == ComparisonRow(
        "loss", Estimate(2.0), Estimate(1.5), Estimate(-0.5), unit="number", better="lower"
    )
    assert parts.compared("x", None, 1.5).difference is None
    assert parts.compared("x", {"mean": 1.0, "low": 0.0, "high": 2.0}, 1.5).difference is None
    before, after = [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]
    row = parts.paired("right", before, after, emphasis=True)
    means = bootstrap_mean(before), bootstrap_mean(after)
    assert row == parts.compared("right", *means, paired_bootstrap(before, after), n=3, emphasis=True)
    shown = parts.figure_of(row, "3 items")
    assert (shown.label, shown.value, shown.before, shown.unit) == ("right", 2 / 3, 1 / 3, "percent")
    assert (shown.difference, shown.note) == (row.difference, "3 items")
    assert parts.paired("nothing", [], []) == ComparisonRow("nothing", Estimate(None), Estimate(None), n=0)


def test_curves_have_a_line_for_every_history_with_the_quantity() -> None:
    history = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.0, "margin": 0.5},
        {"step": 2, "eval_loss": 1.5, "epoch": 1.0},
    ]
    histories = {"training": history, "held out": parts.held_out(history)}
    (section,) = parts.curves([("loss", "Loss"), ("margin", "Margin"), ("none", "None")], histories, note="n")
    loss, margin = section.charts
    assert (section.title, section.note, loss.title, margin.title) == ("Training", "n", "Loss", "Margin")
    assert [(one.name, one.steps, one.values) for one in loss.series] == [
        ("training", [1.0, 2.0], [2.0, 1.0]),
        ("held out", [2.0], [1.5]),
    ]
    assert [one.name for one in margin.series] == ["training"]
    assert parts.curves([("none", "None")], histories) == []


def test_counts() -> None:
    section = parts.counted("Ends", ("reason", "answers"), {"length": 2, "stop": 1})
    assert section.rows == [["length", 2], ["stop", 1]]
    assert section.units == {"answers": "integer"}


@pytest.mark.parametrize(
    ("n", "outcome"), [(None, "improved"), (20, "improved"), (19, "neutral"), (1, "neutral")]
)
def test_few_records_are_too_few_to_tell(n, outcome) -> None:
    assert parts.outcome_of(UP, n=n) == outcome
    assert parts.too_few(n or 20) == (
        f" Too few to tell: {n} held out, of at least 20." if outcome == "neutral" else ""
    )


def test_every_report_with_an_outcome_says_when_its_records_are_too_few() -> None:
    root = Path(parts.__file__).parents[1]
    using = [path for path in root.rglob("*.py") if "outcome_of(" in path.read_text(encoding="utf-8")]
    assert len(using) > 5
    silent = [path.name for path in using if "too_few(" not in path.read_text(encoding="utf-8")]
    assert silent == []


BY_EFFECTS = {"coalign/evaluation/benchmarks/report.py"}
"""Count the intervals of many rows that exclude zero."""
NO_MEASURE = {"coalign/data/media/check_view.py", "coalign/report/page.py"}
"""Say whether data are usable, or pass a verdict on."""


def test_no_verdict_without_an_interval() -> None:
    """A headline is neutral by name, or its outcome comes from the one rule."""
    root, unruled = Path(parts.__file__).parents[1], []
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "Headline(" not in text:
            continue
        free = [
            node.lineno
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
            and ast.unparse(node.func).rpartition(".")[2] == "Headline"
            and not any(isinstance(one, ast.Constant) and one.value == "neutral" for one in _outcome(node))
        ]
        place = path.relative_to(root.parent).as_posix()
        ruled = "outcome_of(" in text or (place in BY_EFFECTS and "effect(one.difference" in text)
        unruled += [f"{place}:{line}" for line in free if not ruled and place not in NO_MEASURE]
    assert unruled == []


def _outcome(call: ast.Call) -> list[ast.expr]:
    return [*call.args[:1], *(one.value for one in call.keywords if one.arg == "outcome")]
