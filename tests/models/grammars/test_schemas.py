"""What a grammar allows is what its JSON schema means, by jsonschema on texts that only the grammar decides."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coalign.core.errors import ConfigError
from coalign.models.grammars.schemas import json_object_grammar, json_schema_grammar, read_schema
from tests.data.tokenizers import byte_tokenizer

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")

TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
FOLLOWED: dict[str, Any] = {
    "anything": {},
    "true": True,
    "only required": {"type": "object", "required": ["city"]},
    "required without a type": {"required": ["city"]},
    "required beside properties": {
        "type": "object",
        "required": ["b", "a"],
        "properties": {"a": {"type": "integer"}},
    },
    "properties without a type": {"properties": {"a": {"type": "string"}}},
    "other properties": {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a", "z"],
        "additionalProperties": {"type": "boolean"},
    },
    "pattern properties": {
        "type": "object",
        "patternProperties": {"^x": {"type": "integer"}},
        "required": ["xa"],
        "additionalProperties": False,
    },
    "fewest": {"type": "object", "minProperties": 1},
    "most": {"type": "object", "maxProperties": 1},
    "anyOf beside properties": {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "allOf": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ]
    },
    "bounds of two": {"allOf": [{"type": "number", "minimum": 3}, {"maximum": 5}]},
    "oneOf without overlap": {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}]},
    "kinds": {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]},
            {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]},
        ],
        "discriminator": {"propertyName": "kind"},
    },
    "enum": {"enum": ["a", 1, None, {"x": [1]}, "é \\ \""]},
    "enum of a type": {"type": "string", "enum": ["a", 1]},
    "const": {"const": {"b": 1, "a": [None]}},
    "integer": {"type": "integer", "minimum": -5, "exclusiveMaximum": 13},
    "number": {"type": "number", "minimum": 0.5, "maximum": 2.25},
    "multiple": {"type": "integer", "multipleOf": 7},
    "lengths": {"type": "string", "minLength": 2, "maxLength": 3},
    "pattern": {"type": "string", "pattern": "^[a-c]{1,4}$"},
    "pattern and lengths": {"type": "string", "pattern": "^a*$", "minLength": 3, "maxLength": 4},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "number of a format": {"type": "integer", "format": "int32"},
    "types": {"type": ["string", "null"], "maxLength": 2},
    "bound without a type": {"minimum": 5},
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3, "uniqueItems": False},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False},
    "recursive": TREE,
    "keys with marks": {
        "type": "object",
        "properties": {'a"b': {"type": "integer"}, "é\n": {"type": "integer"}},
        "required": ['a"b', "é\n"],
        "additionalProperties": False,
    },
    "annotated": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "T",
        "description": "d",
        "default": True,
        "examples": [1],
        "deprecated": True,
        "type": "boolean",
        "x-order": 3,
    },
}  # fmt: skip
REFUSED: dict[str, tuple[Any, str]] = {
    "unknown": ({"type": "string", "minLenght": 3}, "schema/minLenght: is not supported"),
    "below": (
        {"type": "object", "properties": {"a": {"not": {"type": "null"}}}},
        "schema/properties/a/not: is not supported",
    ),
    "unique": ({"type": "array", "uniqueItems": True}, "schema/uniqueItems: is not supported"),
    "nullable": ({"type": "string", "nullable": True}, "schema/nullable: is not supported"),
    "if": ({"if": {}, "then": {"type": "string"}}, "schema/if: is not supported"),
    "contains": ({"contains": {"type": "integer"}}, "schema/contains: is not supported"),
    "property names": ({"propertyNames": {"pattern": "^x"}}, "schema/propertyNames: is not supported"),
    "dependent": ({"dependentRequired": {"a": ["b"]}}, "schema/dependentRequired: is not supported"),
    "unevaluated": ({"unevaluatedProperties": False}, "schema/unevaluatedProperties: is not supported"),
    "overlap": ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf is not supported where"),
    "two keys": ({"type": "object", "minProperties": 2}, "schema/minProperties: above 1"),
    "format": ({"type": "string", "format": "color"}, "Unknown format: color"),
    "look": ({"type": "string", "pattern": "^(?=a)a"}, "look-around"),
    "large": ({"type": "integer", "minimum": 2**53 + 1}, "schema/minimum: 9007199254740993 is beyond 2\\^53"),
    "large constant": ({"enum": [{"a": 2**60 + 1}]}, "schema/enum: .* is beyond 2\\^53"),
    "control": ({"const": "a\x01"}, "schema/const: .* holds a control character"),
    "control in a key": ({"properties": {"a\x01": {}}}, "schema/properties/a\x01: .* control character"),
    "nothing": ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "Unsatisfiable"),
    "no property": ({"type": "object", "required": ["a"], "additionalProperties": False}, "Unsatisfiable"),
    "lengths": ({"type": "string", "minLength": 5, "maxLength": 3}, "Unsatisfiable"),
    "false": (False, "allows nothing"),
    "elsewhere": ({"$ref": "https://example.com/schema"}, "not present"),
    "type": ({"type": "strin"}, "Invalid type"),
    "list": ([1], "schema: is \\[1\\], expected a schema"),
    "properties": ({"properties": ["a"]}, "schema/properties: is .*, expected an object"),
    "their options": ({"x-guidance": {"lenient": True}, "not": {}}, "schema/not: is not supported"),
}


@pytest.fixture(scope="module")
def grammars() -> Any:
    from coalign.models.grammars.matching import Grammars

    tokenizer = byte_tokenizer()
    return Grammars(tokenizer, [tokenizer.eos_token_id]), tokenizer


def walk(grammars: Any, grammar: Any, seed: int, most: int = 300) -> str | None:
    """A text of random tokens that the grammar allows, those that close something often; None where it does not end."""
    compiled, tokenizer = grammars
    draw, matcher, ids = random.Random(seed), compiled.matcher(grammar), []
    closing = {tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list('"}],'))}
    while len(ids) < most:
        if matcher.is_complete:
            return tokenizer.decode(ids)
        allowed = matcher.allowed(len(tokenizer)).nonzero().squeeze(1).tolist()
        near = [one for one in allowed if one in closing]
        ids.append(draw.choice(near if near and draw.random() < 0.4 else allowed))
        if ids[-1] == tokenizer.eos_token_id:
            return tokenizer.decode(ids[:-1])
        matcher.take(ids[-1])
    return None


def fits(schema: Any, text: str) -> None:
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    checker.validate(json.loads(text))


@pytest.mark.parametrize("name", FOLLOWED)
def test_texts_are_instances_of_the_schema(grammars: Any, name: str) -> None:
    grammar = json_schema_grammar(FOLLOWED[name])
    texts = [text for seed in range(12) if (text := walk(grammars, grammar, seed)) is not None]
    assert texts
    for text in texts:
        fits(FOLLOWED[name], text)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_left_out_is_refused_by_name(name: str) -> None:
    schema, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        json_schema_grammar(schema)


def accepts(grammars: Any, schema: Any, text: str) -> bool:
    compiled, tokenizer = grammars
    matcher = compiled.matcher(json_schema_grammar(schema))
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        if matcher.is_complete or not matcher.allowed(len(tokenizer))[token]:
            return False
        matcher.take(token)
    return matcher.is_complete or bool(matcher.allowed(len(tokenizer))[tokenizer.eos_token_id])


def test_an_object_with_required_alone_is_no_empty_object(grammars: Any) -> None:
    schema = {"type": "object", "required": ["city"]}
    assert not accepts(grammars, schema, "{}")
    assert accepts(grammars, schema, '{"city":[1,{"x":null}]}')


def test_a_declared_property_does_not_come_again_in_another_spelling(grammars: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b\t": {"type": "integer"}}}
    assert accepts(grammars, schema, '{"a":1,"b\\t":2,"c":"x"}')
    for again in ('"a":"x"', '"\\u0061":"x"', '"b\\u0009":"x"'):
        assert not accepts(grammars, schema, f'{{"a":1,"b\\t":2,{again}}}')


def test_json_may_be_compact_or_indented_and_is_not_spun_out(grammars: Any) -> None:
    schema = {"type": "object", "additionalProperties": {"type": "array"}}
    for indent in (None, 2, 4):
        assert accepts(grammars, schema, json.dumps({"a": [1, {"b": []}], "c": []}, indent=indent))
    assert accepts(grammars, schema, '{"a":[1,2]}')
    assert not accepts(grammars, schema, '{   "a":[1,2]}')


def test_any_object() -> None:
    assert json.loads(json_object_grammar().schema) == {"type": "object"}


def test_a_file_that_holds_no_schema_is_named(tmp_path: Any) -> None:
    file = tmp_path / "schema.json"
    for text, message in (
        ('{"type":', "is not JSON"),
        ('{"type": "object", "not": {}}', "schema.json/not: is not supported"),
        ("[]", "expected a schema"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_schema(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_schema(tmp_path / "none.json")


SCALARS = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    st.integers(-9, 9).map(lambda low: {"type": "integer", "minimum": low, "maximum": low + 4}),
    st.integers(0, 3).map(lambda low: {"type": "string", "minLength": low, "maxLength": low + 2}),
    st.lists(st.sampled_from(["a", "b c", 1, None, True, [1], {"k": 0}]), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
)
NAMES = st.sampled_from(["a", "b", "ä", 'q"', "x y", ""])


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda properties, required, other: {
            "type": "object", "properties": properties, "required": required, "additionalProperties": other,
        },
        st.dictionaries(NAMES, inner, max_size=3),
        st.lists(NAMES, unique=True, max_size=2),
        inner,
    )  # fmt: skip


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda items, least: {"type": "array", "items": items, "minItems": least, "maxItems": least + 2},
        inner,
        st.integers(0, 2),
    )


SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        objects(inner),
        arrays(inner),
        st.lists(inner, min_size=1, max_size=2).map(lambda each: {"anyOf": each}),
        st.lists(inner, min_size=2, max_size=2).map(lambda each: {"allOf": each}),
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=SCHEMAS, seed=st.integers(0, 2**16))
def test_random_schemas_are_followed_or_refused(grammars: Any, schema: Any, seed: int) -> None:
    try:
        grammar = json_schema_grammar(schema)
    except ConfigError:
        return
    text = walk(grammars, grammar, seed)
    if text is not None:
        fits(schema, text)
