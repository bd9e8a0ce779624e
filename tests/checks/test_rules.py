"""Margin rules on rows made by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.checks import rules
from coalign.checks.arms import Measured

ROWS = [
    {"arm": "base", "seed": 0, "gold": 0.5},
    {"arm": "ours", "seed": 0, "gold": 0.7},
    {"arm": "base", "seed": 1, "gold": 0.6},
    {"arm": "ours", "seed": 1, "gold": 0.5},
    {"arm": "other", "seed": 1, "gold": 0.9},
    {"arm": "other", "seed": 0, "gold": 0.3},
]


def measured(n: int = len(ROWS)) -> Measured:
    return Measured(None, ROWS[:n])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("seen", "not_seen", "outcome"),
    [
        (True, None, "seen"),
        (False, None, "not seen"),
        (True, False, "seen"),
        (False, True, "not seen"),
        (False, False, "mixed"),
    ],
)
def test_decide(seen: bool, not_seen: bool | None, outcome: str) -> None:
    assert rules.decide(seen=seen, not_seen=not_seen) == outcome


def test_a_rule_that_contradicts_itself_is_an_error() -> None:
    with pytest.raises(ValueError, match="both"):
        rules.decide(seen=True, not_seen=True)


def test_gaps_are_paired_by_seed() -> None:
    assert measured().gaps("gold", "ours", "base") == pytest.approx({0: 0.2, 1: -0.1})
    assert rules.mean_of(measured().gaps("gold", "ours", "base")) == pytest.approx(0.05)


def counted(ours: list[int], theirs: list[int], of: int) -> Measured:
    """Rows as `measure_arms` keeps them of so many right answers under each seed."""
    rows = [
        {"arm": arm, "seed": seed, "right": round(count / of, 6)}
        for arm, counts in (("ours", ours), ("theirs", theirs))
        for seed, count in enumerate(counts)
    ]
    return Measured(None, rows)  # pyright: ignore[reportArgumentType]


def test_a_loss_at_the_limit_is_not_above_it() -> None:
    """9 answers of 180 are 5 points; sums of binary numbers make 5.000000000000001 of them."""
    assert (0.933333 - 1.0 + 0.866667 - 0.95 + 0.983333 - 0.983333) / 3 < -0.05
    assert counted([56, 52, 59], [60, 57, 59], 60).gap("right", "ours", "theirs") == -0.05
    assert counted([55, 52, 59], [60, 57, 59], 60).gap("right", "ours", "theirs") < -0.05
    assert counted([57, 52, 59], [60, 57, 59], 60).gap("right", "ours", "theirs") > -0.05


@given(
    st.sampled_from([7, 30, 48, 60, 96, 384]).flatmap(
        lambda of: st.tuples(
            st.just(of), st.lists(st.tuples(st.integers(0, of), st.integers(0, of)), min_size=1, max_size=5)
        )
    ),
    st.integers(-20, 20),
)
def test_means_and_gaps_of_counts_stand_to_a_limit_as_fractions_do(
    given_counts: tuple[int, list[tuple[int, int]]], hundredths: int
) -> None:
    of, counts = given_counts
    rows = counted([one for one, _ in counts], [other for _, other in counts], of)
    limit, exact = hundredths / 100, Fraction(sum(a - b for a, b in counts), of * len(counts))
    mean = rows.gap("right", "ours", "theirs")
    assert (mean >= limit, mean <= limit) == (exact * 100 >= hundredths, exact * 100 <= hundredths)
    for (ours, theirs), gap in zip(counts, rows.gaps("right", "ours", "theirs").values(), strict=True):
        alone = Fraction(ours - theirs, of)
        assert (gap >= limit, gap <= limit) == (alone * 100 >= hundredths, alone * 100 <= hundredths)


def test_figures_away_from_short_numbers_stay() -> None:
    for figure in (0.0500021, -0.123456, 1 / 3, 2e-5, 123.45678):
        assert rules.settled(figure) == figure
    assert rules.settled(0.0500009) == 0.05


def test_the_best_of_several_arms_is_taken_seed_by_seed() -> None:
    assert rules.best_of([{0: 0.2, 1: 0.9}, {0: 0.5, 1: 0.1}]) == {0: 0.5, 1: 0.9}
    assert rules.gaps_between({0: 0.3}, {0: 0.1, 1: 0.7}) == {0: 0.2}


def test_a_grid_is_averaged_within_a_seed() -> None:
    assert measured().values("gold", ["ours", "other"]) == pytest.approx({0: 0.5, 1: 0.7})


def test_missing_rows_are_named() -> None:
    with pytest.raises(ValueError, match="'ours' lacks the seeds \\[1\\]"):
        measured(3).values("gold", ["base", "ours"])
    with pytest.raises(ValueError, match="'theirs' lacks"):
        measured().values("gold", "theirs")
    with pytest.raises(ValueError, match="expected the same"):
        measured(3).gaps("gold", "base", "ours")


@pytest.mark.parametrize(("seeds", "needed"), [(1, 1), (3, 3), (4, 4), (5, 4), (6, 5), (10, 8)])
def test_most_seeds(seeds: int, needed: int) -> None:
    assert rules.most_seeds({seed: seed < needed for seed in range(seeds)})
    assert not rules.most_seeds({seed: seed < needed - 1 for seed in range(seeds)})


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_one_more_hit_never_hurts(hits: list[bool]) -> None:
    before = rules.most_seeds(dict(enumerate(hits)))
    after = rules.most_seeds(dict(enumerate([*hits[1:], True])))
    assert after or not before or hits[0]


def test_by_arm_gives_mean_and_sample_deviation() -> None:
    table = rules.by_arm(ROWS)
    assert list(table) == ["base", "ours", "other"]
    assert table["base"]["gold"] == pytest.approx((0.55, 0.05 * 2**0.5))
    assert rules.by_arm(ROWS[:1])["base"]["gold"] == (0.5, 0.0)


def test_standard_errors_by_hand() -> None:
    gaps = {0: 1.0, 1: 2.0, 2: 3.0, 3: 2.0}
    assert rules.standard_error(gaps) == pytest.approx((2 / 3) ** 0.5 / 2)
    assert rules.exceeds(gaps)
    assert rules.exceeds(gaps, errors=4.8)
    assert not rules.exceeds(gaps, errors=5.0)
    assert rules.standard_error({0: 1.0}) == 0.0
    assert rules.exceeds({0: 0.1})
    assert not rules.exceeds({0: 0.0, 1: 0.0})
    assert not rules.exceeds({0: -1.0, 1: -1.0})


def test_clearly_above_by_hand() -> None:
    sure, between, none = {0: 1.0, 1: 2.0, 2: 1.5}, {0: 1.0, 1: 3.0, 2: -0.5}, {0: 1.0, 1: -1.0}
    assert [rules.clearly_above(one) for one in (sure, between, none)] == ["seen", "mixed", "not seen"]
    assert rules.clearly_above(sure, between) == "mixed"
    assert rules.clearly_above(sure, none) == "not seen"


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(0, 5))
def test_not_both_a_gap_and_its_opposite_exceed(gaps: list[float], errors: float) -> None:
    by_seed = dict(enumerate(gaps))
    opposite = {seed: -gap for seed, gap in by_seed.items()}
    assert not (rules.exceeds(by_seed, errors) and rules.exceeds(opposite, errors))


def test_paired_t_is_students() -> None:
    assert rules.paired_t({0: 1.0, 1: 2.0, 2: 3.0}) == pytest.approx(2 / (1 / 3**0.5))
    assert rules.paired_t({0: 1.0, 1: 1.0}) == float("inf")
    assert rules.paired_t({0: -1.0, 1: -1.0}) == float("-inf")


def test_what_is_significant_by_hand() -> None:
    gaps = {0: 1.0, 1: 2.0, 2: 3.0}  # t is 3.46, the limits are 2.92 and 4.30
    assert rules.significant(gaps)
    assert not rules.significant(gaps, two_sided=True)
    assert not rules.significant({seed: -gap for seed, gap in gaps.items()})
    assert not rules.significant({0: 1.0}), "one seed says nothing"
    many = {seed: float(seed % 2) for seed in range(14)}  # t is 3.6
    assert rules.significant(many)
    assert rules.significant(many, two_sided=True)
    assert not rules.significant({seed: gap - 0.5 for seed, gap in many.items()})
