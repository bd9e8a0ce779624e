"""`response_format` of requests: answers that are JSON, or an instance of a JSON schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coalign.core.errors import ConfigError, MissingExtraError
from coalign.models.generation.endings import special_ids
from coalign.models.grammars.schemas import Grammar, json_object_grammar, json_schema_grammar
from coalign.web.openai_format import ApiError

if TYPE_CHECKING:
    from coalign.models.tools.asking import ToolPrompts
    from coalign.web.tool_calls import Offer

_NAME = "response_format"
_FIELDS = {"name", "schema", "strict", "description"}


def grammar_of(asked: Any, offer: Offer | None = None, prompts: ToolPrompts | None = None) -> Grammar | None:
    """What the answers to a request must be; None where any text will do.

    Args:
        asked: the request.
        offer: the tools of a chat that knows some: an answer is then a call or what the format says.
        prompts: how the model is shown them.

    Raises:
        ApiError: a format or a schema that cannot be followed, or that does not go with the rest of the request.
    """
    if asked.response_format is None or asked.response_format == {"type": "text"}:
        return None
    if getattr(asked, "messages", None) and asked.messages[-1].role == "assistant":
        raise _refused(f"{_NAME}: a begun answer is not continued in it.")
    try:
        grammar = _grammar(asked.response_format)
        return grammar if offer is None or not offer.tools else _or_call(grammar, offer, prompts)
    except MissingExtraError as error:
        raise ApiError(501, f"{error.message} {error.hint}", param=_NAME) from error
    except ConfigError as error:
        raise _refused(error.message) from error


def _grammar(given: dict[str, Any]) -> Grammar:
    kind = given.get("type")
    if kind == "json_object" and len(given) == 1:
        return json_object_grammar()
    if kind != "json_schema" or given.keys() != {"type", "json_schema"}:
        raise ConfigError(
            f'{_NAME}: expected {{"type": "json_schema", "json_schema": {{"name": ..., "schema": ...}}}}, '
            '{"type": "json_object"} or {"type": "text"}.'
        )
    described = given["json_schema"]
    if not isinstance(described, dict) or "schema" not in described or not described.keys() <= _FIELDS:
        raise ConfigError(f"{_NAME}.json_schema: expected name and schema, and at most strict, description.")
    return json_schema_grammar(described["schema"], f"{_NAME}.json_schema.schema")


def _or_call(grammar: Grammar, offer: Offer, prompts: ToolPrompts | None) -> Grammar:
    if offer.begun or prompts is None:
        raise ConfigError(f"{_NAME}: has no effect where tool_choice asks for a call.")
    head = prompts.beginning(None)
    tokenizer: Any = prompts.tokenizer
    if tokenizer is not None:
        ids = tokenizer(head, add_special_tokens=False)["input_ids"]
        if not special_ids(tokenizer).isdisjoint(ids):
            raise ConfigError(
                f"{_NAME}: does not go with tools here: this model begins calls with a special token."
            )
    return grammar.or_begun_by(head)


def _refused(message: str) -> ApiError:
    return ApiError(400, message, param=_NAME, code="unsupported_parameter")
