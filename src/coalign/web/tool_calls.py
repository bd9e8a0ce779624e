"""Tools in chat completions: what a request offers and asks for, and calls in answers, whole and in a stream."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ConfigError
from coalign.data.tools.parsing import Call, may_be_call, parse_calls
from coalign.data.tools.schemas import assert_tools
from coalign.models.types import Generation
from coalign.web.openai_format import ApiError, TextPart

if TYPE_CHECKING:
    from coalign.data.records import Messages
    from coalign.models.tools.asking import ToolPrompts
    from coalign.web.openai_format import ChatRequest, Format

MOST_TOOLS = 128


@dataclass(frozen=True)
class Said:
    """What an answer is, for the client.

    Attributes:
        content: text; None where there are calls alone.
        calls: in the API's form.
        finish_reason: `tool_calls` where there are calls, else that of the sample.
    """

    content: str | None
    calls: list[dict[str, Any]]
    finish_reason: str


@dataclass(frozen=True)
class Offer:
    """The tools of a request.

    Attributes:
        tools: that the model is shown; none where it must not call one.
        begun: the text with which its answer begins, where it must call one.
        names: of which an answer must call one, where it must.
        parallel: several calls an answer.
    """

    tools: Sequence[dict[str, Any]]
    begun: str = ""
    names: tuple[str, ...] = ()
    parallel: bool = True

    def prompt(self, messages: Messages, prompts: ToolPrompts) -> Any:
        """What the generator is given."""
        return prompts.prompt(messages, self.tools, self.begun)

    def message(self, one: Generation) -> tuple[dict[str, Any], str]:
        """The assistant's message of a sample, and why it ended; errors as of `said`."""
        said = self.said(one)
        calls = {"tool_calls": said.calls} if said.calls else {}
        return {"role": "assistant", "content": said.content, **calls}, said.finish_reason

    def said(self, one: Generation) -> Said:
        """What a sample says. A call whose name cannot be read is text, as is all of it where no tool was offered.

        Raises:
            ApiError: a call was asked for and there is none.
        """
        known = [one["function"]["name"] for one in self.tools]
        parsed = parse_calls(self.begun + one.text, known) if known else None
        calls = parsed.calls if parsed else []
        cut = one.finish_reason == "length" and bool(calls) and calls[-1].arguments is None
        calls = calls if self.parallel else calls[:1]
        if self.names and not (calls and all(call.name in self.names for call in calls)):
            if cut or (one.finish_reason == "length" and not calls):
                raise ApiError(
                    400, "The call that was asked for does not fit in max_tokens.", param="max_tokens"
                )
            raise ApiError(
                500,
                "The model was asked to call a tool and named none of those offered.",
                code="no_tool_call",
            )
        if parsed is None or not calls or not all(call.name for call in calls):
            return Said(one.text, [], one.finish_reason)
        wired = [_wired(call) for call in calls]
        return Said(parsed.content or None, wired, "length" if cut else "tool_calls")


def offer_of(asked: ChatRequest, prompts: ToolPrompts) -> Offer | None:
    """What a request offers; None where neither it nor its messages know of tools.

    Raises:
        ApiError: tools or a choice that cannot be used or are not supported, by name.
    """
    choice = asked.tool_choice if asked.tool_choice is not None else "auto" if asked.tools else "none"
    if not asked.tools and choice not in ("none", "auto"):
        raise ApiError(400, "tool_choice: needs tools.", param="tool_choice")
    if not asked.tools and not any(one.tool_calls or one.role == "tool" for one in asked.messages):
        return None
    tools = asked.tools or []
    try:
        names = assert_tools(tools)
    except ConfigError as error:
        raise ApiError(400, error.message, param="tools") from error
    if len(tools) > MOST_TOOLS:
        raise ApiError(400, f"tools: {len(tools)}, expected at most {MOST_TOOLS}.", param="tools")
    if any(one["function"].get("strict") for one in tools):
        raise _unsupported(
            "tools: strict is not supported here: arguments are what the model writes.", "tools"
        )
    if asked.logprobs:
        raise _unsupported("logprobs do not go with tools here.", "logprobs")
    parts = [part for one in asked.messages if not isinstance(one.content, str) for part in one.content]
    if not all(isinstance(one, TextPart) for one in parts):
        raise _unsupported("messages: pictures do not go with tools here.", "messages")
    if asked.messages[-1].role == "assistant":
        raise _unsupported(
            "messages: a last message of the assistant is not continued where there are tools.", "messages"
        )
    if choice == "none" or not tools:
        return Offer(())
    if choice == "auto":
        return Offer(tools, parallel=asked.parallel_tool_calls)
    try:
        if choice == "required":
            only = names[0] if len(names) == 1 else None
            return Offer(tools, prompts.beginning(only), tuple(names), asked.parallel_tool_calls)
        return Offer(tools, prompts.beginning(_named(choice, names)), (_named(choice, names),), False)
    except ConfigError as error:
        raise _unsupported(error.message, "tool_choice") from error


class CallStream:
    """One choice of a stream: text is passed on as long as it cannot be a call, calls come when they are whole."""

    def __init__(self, offer: Offer, form: Format, index: int) -> None:
        self._offer, self._form, self._index = offer, form, index
        self._text = ""
        self._sent = 0

    def piece(self, text: str) -> Iterator[dict[str, Any]]:
        """The events of new text."""
        self._text += text
        held = 0 if self._offer.begun else may_be_call(self._text) if self._offer.tools else None
        ready = self._text[self._sent : held]
        if ready:
            self._sent += len(ready)
            yield self._form.piece(self._index, ready)

    def end(self, text: str, one: Generation) -> Iterator[dict[str, Any]]:
        """The last events of a choice."""
        self._text += text
        said = self._offer.said(one)
        sent = self._text[: self._sent]
        whole = said.content or "" if said.calls else self._text
        before = sent.strip() if said.calls else sent
        rest = whole[len(before) :] if whole.startswith(before) else ""
        if rest:
            yield self._form.piece(self._index, rest)
        for place, call in enumerate(said.calls):
            function = call["function"]
            head = {**call, "function": {"name": function["name"], "arguments": ""}}
            yield self._form.delta(self._index, {"tool_calls": [{"index": place, **head}]})
            given = {"index": place, "function": {"arguments": function["arguments"]}}
            yield self._form.delta(self._index, {"tool_calls": [given]})
        yield self._form.delta(self._index, {}, said.finish_reason)


def _named(choice: Any, names: Sequence[str]) -> str:
    """The function that a choice names."""
    function = (
        choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    )
    name = function.get("name") if isinstance(function, dict) else None
    if name is None:
        raise _unsupported(
            'tool_choice: expected "none", "auto", "required", or {"type": "function", "function": {"name": ...}}.',
            "tool_choice",
        )
    if name not in names:
        raise ApiError(400, f"tool_choice: {name!r} is not among tools.", param="tool_choice")
    return str(name)


def _wired(call: Call) -> dict[str, Any]:
    # nine letters and digits: the templates of Mistral insist on it when the call comes back
    return {
        "id": secrets.token_hex(5)[:9],
        "type": "function",
        "function": {"name": call.name, "arguments": call.written},
    }


def _unsupported(message: str, param: str) -> ApiError:
    return ApiError(400, message, param=param, code="unsupported_parameter")
