"""Registry, constraints and the constraint satisfaction rate."""

from __future__ import annotations

import json

import pytest

from coalign.judging.verifiers import constraints as specs
from coalign.judging.verifiers import registry as verifier_registry


def test_nested_and_flat_form_are_the_same_constraint() -> None:
    nested = specs.Constraint.from_json({"verifier": "max_words", "args": {"n": 20}})
    flat = specs.Constraint.from_json({"verifier": "max_words", "n": 20})
    assert nested == flat == specs.Constraint("max_words", {"n": 20})
    assert len({nested, flat}) == 1
    assert nested.to_json() == {"verifier": "max_words", "args": {"n": 20}}
    assert nested.describe() == "at most 20 words"


def test_composites_survive_json() -> None:
    bullets = {"verifier": "bullet_points", "n": 2, "relation": "at_least"}
    parts = [{"verifier": "not", "constraint": {"verifier": "no_commas"}}, bullets]
    one = specs.Constraint.from_json({"verifier": "weighted", "weights": [1.0, 3.0], "constraints": parts})
    assert specs.Constraint.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert one.describe() == "weighted: not: no commas, at least 2 bullet points"
    assert one.verify("", "a, b") == pytest.approx(1 / 4)
    assert one.verify("", "- a\n- b") == pytest.approx(3 / 4)


def test_null_arguments_of_a_columnar_file_are_absent() -> None:
    import pyarrow as pa

    rows = [{"verifier": "max_words", "n": 3}, {"verifier": "must_include", "keywords": ["a"]}]
    for column in (rows, [{"verifier": row.pop("verifier"), "args": row} for row in map(dict, rows)]):
        filled = pa.array([column]).to_pylist()[0]
        assert specs.parse_constraints(filled) == specs.parse_constraints(rows)


def test_constraints_may_come_as_json_text() -> None:
    text = '[{"verifier": "max_words", "n": 3}, {"verifier": "no_commas"}]'
    assert specs.parse_constraints(text) == (
        specs.Constraint("max_words", {"n": 3}),
        specs.Constraint("no_commas"),
    )


WHOLE = "a list of one or more constraints"
IN_COMPOSITES = [
    ({"verifier": "not", "constraint": 3}, "constraint", "expected a mapping"),
    (
        {"verifier": "all_of", "constraints": [{"verifier": "max_words", "n": 0}]},
        "constraints[0].n",
        "0 is not usable",
    ),
    ({"verifier": "all_of", "constraints": []}, "constraints", "one or more constraints"),
    *(
        (
            {"verifier": "weighted", "constraints": [{"verifier": "no_commas"}], "weights": weights},
            "weights",
            message,
        )
        for weights, message in (([1.0, 1.0], "2 for 1 constraints"), ([0.0], "positive, finite sum"))
    ),
]
ALONE = [
    ({"verifier": "max_word", "n": 2}, "verifier", "'max_word' is unknown, expected max_words"),
    ({"verifier": "max_words", "n": 0}, "n", "expected a whole number of at least 1"),
    ({"verifier": "max_words", "n": "2"}, "n", "'2' is not usable"),
    ({"verifier": "max_words", "n": True}, "n", "True is not usable"),
    ({"verifier": "max_words"}, "n", "is missing"),
    ({"verifier": "max_words", "args": {"n": 2}, "n": 2}, "n", "stands beside args"),
    ({"verifier": "max_words", "args": 2}, "args", "expected a mapping"),
    ({"verifier": "words_between", "low": 4, "high": 3}, "low", "4 is above high"),
    ({"verifier": "must_include", "keywords": ["a", " "]}, "keywords", "not blank"),
    ({"verifier": "must_include", "keywords": "a"}, "keywords", "a list of one or more texts"),
    ({"verifier": "letter_case", "case": "small"}, "case", "one of: lower, upper, title"),
]


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        *(
            ([value], f"constraints[0].{field}", message)
            for value, field, message in (*ALONE, *IN_COMPOSITES)
        ),
        ([{"verifier": "no_commas"}, {"verifier": "max_words", "m": 2}], "constraints[1].m", "expected n"),
        ([], "constraints", WHOLE),
        ({"verifier": "no_commas"}, "constraints", WHOLE),
        (None, "constraints", "is None"),
        ("[", "constraints", "is not JSON"),
        (["no_commas"], "constraints[0]", "expected a mapping"),
    ],
)
def test_a_bad_constraint_says_where_and_what(value: object, field: str, message: str) -> None:
    with pytest.raises(specs.ConstraintError) as caught:
        specs.parse_constraints(value)
    assert caught.value.field == field
    assert message in str(caught.value)
    assert str(caught.value) == f"{field}: {caught.value.problem}, expected {caught.value.expected}"


def test_constraint_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="did_not_exist"):
        specs.verify("did_not_exist", "", "x", {})


def test_csr_is_the_mean_of_the_values() -> None:
    colours = {"verifier": "must_include", "keywords": ["red", "blue"]}
    constraints = specs.parse_constraints([{"verifier": "max_words", "n": 2}, colours])
    assert specs.constraint_satisfaction("", "red car", constraints) == (0.75, [1.0, 0.5])
    assert specs.constraint_satisfaction("", "a big red and blue car", constraints) == (0.5, [0.0, 1.0])


def test_a_blank_response_satisfies_nothing() -> None:
    for text in ("", "  \n\t", "\u200b", "\x00\x07"):
        assert specs.verify("max_words", "", text, {"n": 5}) == 0
        assert specs.verify("not", "", text, {"constraint": {"verifier": "max_words", "n": 5}}) == 0


@pytest.mark.parametrize("values", [[[]], [[0.5, float("nan")]], [[1.5]], [[-0.1]]])
def test_aggregate_csr_refuses(values: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="response 0"):
        specs.aggregate_csr(values)


@pytest.mark.parametrize("pairs", [[], [[None]], [[None, 1], [1, None, 0]], [[None, None], [1, None]]])
def test_cross_response_csr_refuses(pairs: list[list[float | None]]) -> None:
    with pytest.raises(ValueError, match="expected"):
        specs.cross_response_csr(pairs)


def test_group_value_is_the_mean_over_the_others_and_equals_the_pairwise_form() -> None:
    answers = ["yes", "no", "Yes, it is."]
    constraint = specs.Constraint("consistent_options", {"options": ["yes", "no"]})
    turns = [(f"question {i}", answer) for i, answer in enumerate(answers)]
    values = [
        constraint.verify(*turns[i], group=[turn for j, turn in enumerate(turns) if j != i]) for i in range(3)
    ]
    assert values == specs.cross_response_csr([[None, 0, 1], [0, None, 0], [1, 0, None]]) == [0.5, 0.0, 0.5]


def test_a_group_verifier_needs_a_group() -> None:
    constraint = specs.Constraint("all_of", {"constraints": [specs.Constraint("same_answer")]})
    assert constraint.needs_group
    assert not specs.Constraint("no_commas").needs_group
    for group in (None, []):
        with pytest.raises(ValueError, match="other responses of a group"):
            constraint.verify("p", "yes", group)
    assert constraint.verify("p", "yes", [("q", "Yes!")]) == 1
    assert constraint.verify("p", "yes", [("q", "")]) == 0


def test_own_verifiers_register_and_are_held_to_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_registry, "_REGISTRY", specs.verifiers())

    @specs.verifier("test_length", classification="response", describe="length {n}")
    def length(response: str, *, n: int = 1) -> float:
        """Length."""
        return len(response) / n

    assert list(specs.verifiers())[-1] == "test_length"
    assert specs.get_verifier("test_length").defaults == {"n": 1}
    assert specs.verify("test_length", "", "ab", {"n": 4}) == 0.5
    with pytest.raises(ValueError, match=r"returned 2\.0"):
        specs.verify("test_length", "", "ab", {})

    with pytest.raises(ValueError, match="already registered"):

        @specs.verifier("test_length", classification="response", describe="")
        def other(response: str) -> float:
            return 1.0

    with pytest.raises(ValueError, match="reserved"):

        @specs.verifier("test_reserved", classification="response", describe="")
        def reserved(response: str, *, args: int) -> float:
            return 1.0


def test_every_verifier_is_documented() -> None:
    table = specs.verifier_table()
    assert {row["name"] for row in table} == set(specs.verifiers())
    assert {"response", "prompt", "group", "composite"} == {row["class"] for row in table}
    assert all(row["description"].endswith((".", "each")) for row in table)
