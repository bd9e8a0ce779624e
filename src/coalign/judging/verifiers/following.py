"""Rules by the ids of IFEval and FollowRAG, and whether a response follows them: strictly, and in one of eight forms.

The columns of these benchmarks are `instruction_id_list` and `kwargs`, one mapping an id::

    rules = parse_instructions(row["instruction_id_list"], row["kwargs"])
    followed = follow(rules, prompt, response)
    followed.strict, followed.loose
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coalign.judging.verifiers.constraints import Constraint, ConstraintError, parse_constraints
from coalign.measures.texts.text_units import is_blank

IFEVAL: dict[str, str] = {
    "keywords:existence": "keywords_inclusion",
    "keywords:forbidden_words": "keywords_exclusion",
    "keywords:frequency": "keywords_frequency",
    "keywords:letter_frequency": "keywords_letter_frequency",
    "language:response_language": "format_language",
    "length_constraints:number_sentences": "length_sentence",
    "length_constraints:number_paragraphs": "length_paragraph",
    "length_constraints:number_words": "length_words",
    "length_constraints:nth_paragraph_first_word": "position_first_word",
    "detectable_content:number_placeholders": "structure_placeholder",
    "detectable_content:postscript": "position_postscript",
    "detectable_format:number_bullet_lists": "structure_bullets",
    "detectable_format:constrained_response": "format_constrained_response",
    "detectable_format:number_highlighted_sections": "structure_highlights",
    "detectable_format:multiple_sections": "structure_sections",
    "detectable_format:json_format": "format_json",
    "detectable_format:title": "structure_title",
    "combination:two_responses": "format_two_responses",
    "combination:repeat_prompt": "format_repeat_question",
    "startend:end_checker": "position_end_with",
    "startend:quotation": "format_quotation",
    "change_case:capital_word_frequency": "cases_capital_words",
    "change_case:english_capital": "cases_uppercase",
    "change_case:english_lowercase": "cases_lowercase",
    "punctuation:no_comma": "format_no_commas",
}
"""IFEval's id to the verifier. All but letter frequency, constrained response and two responses are FollowRAG's too."""
RULES = frozenset(IFEVAL.values())


@dataclass(frozen=True)
class Followed:
    """Which of the rules a response follows.

    Attributes:
        strict: [rules] as it is.
        loose: [rules] as it is or in another form of `loose_forms`; true wherever `strict` is.
    """

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def parse_instruction(name: str, kwargs: Mapping[str, Any] | None = None) -> Constraint:
    """The rule of an id of IFEval or FollowRAG.

    Args:
        kwargs: its arguments; None stands for an argument that is absent, a whole float for an integer, as columnar
            files write them.

    Raises:
        ConstraintError: an id that is in neither, a missing, unknown or unusable argument.
        MissingExtraError: the rule needs an extra that is not installed.
    """
    known = IFEVAL.get(name, name)
    if known not in RULES:
        near = difflib.get_close_matches(name, [*IFEVAL, *RULES], n=2, cutoff=0.6)
        wanted = " or ".join(near) or "an id of IFEval or FollowRAG"
        raise ConstraintError("", f"{name!r} is no known rule", wanted)
    return Constraint(known, {key: _plain(one) for key, one in (kwargs or {}).items() if one is not None})


def parse_instructions(names: Any, kwargs: Any) -> tuple[Constraint, ...]:
    """The rules of the columns `instruction_id_list` and `kwargs`.

    Raises:
        ConstraintError: as `parse_instruction`, with its place in the columns; columns of another shape.
    """
    if not isinstance(names, list | tuple) or not names or not all(isinstance(one, str) for one in names):
        raise ConstraintError("instruction_id_list", f"is {names!r:.60}", "a list of one or more ids")
    if not isinstance(kwargs, list | tuple) or len(kwargs) != len(names):
        raise ConstraintError("kwargs", f"is {kwargs!r:.60}", f"a list of {len(names)} mappings, one an id")
    rules = []
    for place, (name, given) in enumerate(zip(names, kwargs, strict=True)):
        if given is not None and not isinstance(given, Mapping):
            raise ConstraintError(f"kwargs[{place}]", f"is {given!r:.60}", "a mapping of arguments")
        try:
            rules.append(parse_instruction(name, given))
        except ConstraintError as error:
            where = f"kwargs[{place}].{error.field}" if error.field else f"instruction_id_list[{place}]"
            raise ConstraintError(where, error.problem, error.expected) from error
    return tuple(rules)


def has_constraints(columns: Mapping[str, Any]) -> bool:
    """Whether a record brings constraints, in either form that `constraints_of` reads."""
    return "constraints" in columns or "instruction_id_list" in columns


def constraints_of(columns: Mapping[str, Any]) -> tuple[Constraint, ...]:
    """The constraints of a record: its column `constraints`, else IFEval's `instruction_id_list` and `kwargs`.

    Raises:
        ConstraintError: neither is there, or what is there cannot be used.
    """
    if columns.get("constraints") is None and "instruction_id_list" in columns:
        return parse_instructions(columns["instruction_id_list"], columns.get("kwargs"))
    if "constraints" not in columns:
        raise ConstraintError(
            "constraints", "is missing", "a list of constraints, or instruction_id_list and kwargs"
        )
    return parse_constraints(columns["constraints"])


def loose_forms(response: str) -> list[str]:
    """The forms of a response under which a rule counts as loosely followed, without blank ones: as it is, without its
    first line, its last, or both, and each of the four without `*` (IFEval, section 3).
    """
    lines = response.split("\n")
    cut = [response, *("\n".join(one).strip() for one in (lines[1:], lines[:-1], lines[1:-1]))]
    forms = [*cut, *(one.replace("*", "") for one in cut)]
    return [one for one in dict.fromkeys(forms) if not is_blank(one)]


def follow(rules: Sequence[Constraint], prompt: str, response: str) -> Followed:
    """Which rules a response follows: value 1 under the same verifier, of the response and of its loose forms. A blank
    response follows none.
    """
    strict = tuple(one.verify(prompt, response) >= 1 for one in rules)
    forms = loose_forms(response)[1:]
    loose = (
        done or any(one.verify(prompt, form) >= 1 for form in forms)
        for one, done in zip(rules, strict, strict=True)
    )
    return Followed(strict, tuple(loose))


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
