"""Final answers: a table of forms, comparisons, and properties over all of them."""

from __future__ import annotations

import os
import signal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.measures import symbolic
from coalign.measures.answers import Answer, final_answer, numbers_in, parse_answer, same_answer

FINAL = [
    # text, kind, what is compared
    ("48/2 = <<48/2=24>>24 clips.\n48 + 24 = 72\n#### 72", "number", "72"),
    ("So 9 * 2 = 18\nA: 18", "number", "18"),
    ("the final ANSWER = -3", "number", "-3"),
    ("answer is −3", "number", "-3"),
    ("First A: 3. No, wait.\nA: 4", "number", "4"),
    ("He has 3 and she has 4.", "number", "4"),
    ("from 3-4 days", "number", "4"),
    ("It cost 1,250, and no more", "number", "1250"),
    ("Version v2 has none", None, None),
    ("It is 3:30 in 2.0.0", None, None),
    ("The answer is", None, None),
    ("I do not know", None, None),
    ("", None, None),
    # a box outranks a phrase, and the last of two counts
    (r"\boxed{42}. So the answer is right.", "number", "42"),
    (r"#### 7, that is \boxed{8}", "number", "8"),
    (r"\boxed{5}, \boxed{6}", "number", "6"),
    (r"\boxed 7", "number", "7"),
    (r"the box \boxed{\text{(C)}}", "letter", "c"),
    # separators, signs, exponents, scales
    ("A: 1,000", "number", "1000"),
    ("A: 1,00,000", "number", "100000"),
    ("A: 1 000 000", "number", "1000000"),
    ("A: 1.000.000", "number", "1000000"),
    (r"\boxed{1{,}000}", "number", "1000"),
    (r"\boxed{1\,000}", "number", "1000"),
    ("the answer is 1e3", "number", "1000"),
    (r"\boxed{2.5\times10^{-3}}", "number", "0.0025"),
    ("A: 10^3", "number", "1000"),
    ("A: 10³", "number", "1000"),
    ("A: +5.00", "number", "5"),
    ("The answer is 1.5 million", "number", "1500000"),
    # fractions
    (r"\boxed{\frac{1}{2}}", "number", "0.5"),
    (r"\boxed{\dfrac12}", "number", "0.5"),
    (r"\boxed{-\frac{1}{3}}", "number", "-1/3"),
    (r"\boxed{1\frac{1}{2}}", "number", "1.5"),
    ("A: 1 1/2", "number", "1.5"),
    ("A: 3½", "number", "3.5"),
    ("A: 2/4", "number", "0.5"),
    # words, units, money, percents around a number
    ("The answer is 18 eggs a day.", "number", "18"),
    ("The answer is: $1,000.00 a day", "number", "1000"),
    ("The answer is 50%.", "number", "50"),
    (r"\boxed{18\text{ eggs}}", "number", "18"),
    (r"\boxed{90^\circ}", "number", "90"),
    ("the answer is **12**.", "number", "12"),
    (r"The answer is $x = \frac{3}{4}$.", "number", "0.75"),
    ("A: 2 + 3 = 5 apples", "number", "5"),
    # letters, booleans, dates, words
    ("The answer is (B).", "letter", "b"),
    ("The answer is B. Paris is the capital.", "letter", "b"),
    ("A: A", "letter", "a"),
    ("The answer is yes, because it is.", "boolean", "yes"),
    ("A: False", "boolean", "no"),
    ("A: 2026-11-28", "date", "2026-11-28"),
    ("A: November 28, 2026", "date", "2026-11-28"),
    ("A: 28th of November 2026", "date", "2026-11-28"),
    ("The answer is  Both of  Them.", "text", "both of them"),
    ("The answer is Paris, France.", "text", "paris, france"),
    ("A: 3:30", "text", "3:30"),
    # lists and formulas keep all they have
    ("The answer is (1, 2)", "list", "(1,2)"),
    (r"\boxed{1,2}", "list", "1,2"),
    (r"\boxed{\{3, 4\}}", "list", "{3,4}"),
    ("#### 2 and 3", "list", "2,3"),
    ("the answer is 3,5", "list", "3,5"),
    (r"\boxed{2\sqrt{3}}", "expression", r"2\sqrt{3}"),
    (r"\boxed{[0,1)}", "expression", "[0,1)"),
    (r"\boxed{2x}", "expression", "2x"),
    ("A: 11/28/2026", "expression", "11/28/2026"),
    ("A: 5/0", "expression", "5/0"),
    ("#### " + "7" * 5000, "text", "7" * 5000),
    # beyond what Python writes out, and texts that were cut off or run away
    ("A: 999999999^999", "expression", "999999999^999"),
    ("A: " + "7" * 3990 + "e999", "text", "7" * 3990 + "e999"),
    ("A: " + "7" * 5000 + " 1/2", "expression", "7" * 5000 + "1/2"),
    (r"so it is \boxed{", None, None),
    (r"so it is \boxed{7", "number", "7"),
    ("A: " + "(" * 2000 + "x,y" + ")" * 2000, "expression", "(" * 2000 + "x,y" + ")" * 2000),
]


@pytest.mark.parametrize(("text", "kind", "shown"), FINAL)
def test_final_answers(text: str, kind: str | None, shown: str | None) -> None:
    found = final_answer(text)
    assert (found and found.kind, found and found.text) == (kind, shown)


SAME = [
    (r"\frac{1}{2}", "0.5", True),
    (r"\frac{1}{2}", r"\frac{1}{3}", False),
    (r"\frac{1}{2}", r"-\frac{1}{2}", False),
    ("1/3", "0.333", False),
    ("123456", "123457", False),
    ("5 km", "5000 m", True),
    ("5 km", "5 m", False),
    ("2 hours", "120 minutes", True),
    ("18 eggs", "18", True),
    ("$18", "18 dollars", True),
    ("50%", "0.5", True),
    ("50%", "50", True),
    ("50%", "0.5%", False),
    ("B", "(b)", True),
    ("B", "C", False),
    ("yes", "True", True),
    ("May 5, 2020", "2020-05-05", True),
    ("(1, 2)", "(2, 1)", False),
    ("(1, 2)", "[1, 2]", False),
    (r"\{1, 2\}", r"\{2, 1\}", True),
    ("1, 2", "2 and 1", True),
    ("1, 2", "1, 2, 3", False),
    ("1/2, 3", "3; 0.5", True),
    ("3,5", "35", None),
    ("3,5", "3.5", None),
    ("3,5", "3, 5", True),
    ("1, 2, 3", "1", False),
    ("Paris", "paris.", True),
    ("Paris", "4", False),
    ("5/0", "5/0", True),
    (r"1.5\mathrm{e}{-3}", "0.0015", True),
    (r"2\text{E}5", "2", False),
]


@pytest.mark.parametrize(("one", "other", "same"), SAME)
def test_answers_are_compared_whole(one: str, other: str, same: bool | None) -> None:
    left, right = parse_answer(one), parse_answer(other)
    assert left
    assert right
    assert same_answer(left, right) is same
    assert same_answer(right, left) is same


@pytest.mark.skipif(not symbolic.is_available(), reason="needs the extra 'math'")
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        (r"2\sqrt{3}", r"2\sqrt{5}", False),
        (r"2\sqrt{3}", "2", False),
        ("2x + 1", "1 + 2x", True),
        ("[0, 1)", "[0, 1]", False),
        ("2*3", "6", True),
        # numbers as programs print them, where math-verify 0.9.0 reads Euler's number (findings/)
        (r"1.5e-3\pi", r"0.0015\pi", True),
        (r"\sqrt{2E4}", r"100\sqrt{2}", True),
        ("x > 2e5", "x > 200000", True),
        (r"6.02e+23\pi", r"6.02\cdot 10^{23}\pi", True),
        ("[0, 1e3)", "[0, 1000)", True),
        (r"2e5\pi", r"10e\pi", False),
        # and where it is Euler's number
        ("3e - 2", "e + 2e - 2", True),
        ("2e^5", r"2\cdot e^{5}", True),
    ],
)
def test_formulas_are_compared_by_value(one: str, other: str, same: bool) -> None:
    left, right = parse_answer(one), parse_answer(other)
    assert left
    assert right
    assert same_answer(left, right) is same


@pytest.mark.skipif(not symbolic.is_available(), reason="needs the extra 'math'")
def test_a_comparison_that_takes_too_long_is_not_scorable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert symbolic.equal("1+1+x", "x+2") is True
    os.kill(symbolic.workers[0].process.pid, signal.SIGSTOP)
    monkeypatch.setattr(symbolic, "SECONDS", 0.2)
    assert symbolic.equal("x+1+2", "x+4") is None
    assert not symbolic.workers[0].ready
    monkeypatch.setattr(symbolic, "SECONDS", 20.0)
    assert symbolic.equal("x+1+2", "x+4+y") is False


def test_formulas_are_not_scorable_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "is_available", lambda: False)
    left, right = parse_answer(r"\sqrt{7}"), parse_answer(r"\sqrt{8}")
    assert left
    assert right
    assert same_answer(left, right) is None
    assert same_answer(left, left) is True


@given(st.integers(-(10**12), 10**12), st.sampled_from(["#### ", "The answer is $", "A: "]))
def test_an_integer_is_read_however_it_is_written(number: int, marker: str) -> None:
    written = [f"{number:,}.00", f"{number:_}".replace("_", " "), f"{number}", f"**{number}**"]
    for one in written:
        found = final_answer(f"3 and 4.\n{marker}{one}.")
        assert found, one
        assert found.value == number, one


@given(st.fractions(max_denominator=10**6))
def test_a_number_reads_as_what_it_shows(value: Fraction) -> None:
    found = parse_answer(str(value))
    assert found
    assert found.value == value
    assert parse_answer(found.text) == found
    assert numbers_in(f"so {found.text} it is")[0].value == value


@given(st.text(max_size=60))
def test_no_text_is_too_strange(text: str) -> None:
    found = final_answer(text)
    assert found is None or isinstance(found, Answer)
    written = parse_answer(text)
    assert written is None or isinstance(written, Answer)
    assert written is None or written.kind == "expression" or same_answer(written, written)
    after = final_answer(text + "\n#### 42")
    assert after
    assert after.value == 42
