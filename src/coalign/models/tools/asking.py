"""How a model is shown tools: by its own chat template where that writes them, else in the messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coalign.core.errors import ConfigError, DataError
from coalign.data.frame import EncodingError, Frame
from coalign.data.records import Messages
from coalign.data.tools.fallback import CALL, CALL_END, RETURNED, written_into
from coalign.data.tools.written import missing_message, missing_tool, writes_tools
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Generator

_NAME = "coalignprobe"


class ToolPrompts:
    """Prompts that offer tools to what is behind a generator.

    A local model whose chat template writes tools, calls and their results is asked by it. Every other generator (another
    template, a decoding method, an endpoint) gets them as text in the messages, in the format of
    `coalign.data.tools.fallback`.

    Attributes:
        native: whether the model's own template is used.
        tokenizer: of the generator; None where it is not known here.
    """

    def __init__(self, generator: Generator) -> None:
        self.tokenizer = tokenizer = getattr(generator, "tokenizer", None)
        self._frame = Frame(tokenizer) if tokenizer is not None and tokenizer.chat_template else None
        self.native = isinstance(generator, TransformersGenerator) and writes_tools(generator.tokenizer)

    @property
    def description(self) -> str:
        """How tools are written, for people."""
        if self.native:
            return "tools are written by the model's chat template"
        return "tools are written as text into the messages (<tool_call>), since the model's template is not known to write them"

    def stops(self, *, parallel: bool = True) -> tuple[str, ...]:
        """Texts at which decoding ends: where an observation would be invented, or, for one call at a time, at its end."""
        return (RETURNED,) if parallel else (RETURNED, CALL_END)

    def prompt(self, messages: Messages, tools: Sequence[Any], begun: str = "") -> Messages | str:
        """What the generator is given.

        Args:
            begun: how the answer begins; see `beginning`.

        Raises:
            DataError: the chat template refuses the messages, or leaves out a tool or what one returned.
        """
        if not self.native:
            knows_system = self._frame is None or self._frame.knows_system
            found = written_into(messages, tools, knows_system=knows_system)
            return [*found, {"role": "assistant", "content": begun}] if begun else found
        assert self._frame is not None
        try:
            text = self._frame.prompt(messages, plain=False, given={"tools": list(tools)} if tools else {})
        except EncodingError as error:
            raise DataError(str(error)) from error
        missing = missing_tool(text, tools)
        place = missing_message(text, messages)
        if missing is not None or place is not None:
            what = (
                f"the tool {missing!r}"
                if missing is not None
                else f"the result in message {(place or 0) + 1}"
            )
            raise DataError(f"The chat template leaves out {what}.", hint="--chat-template tools writes it.")
        return text + begun

    def beginning(self, name: str | None) -> str:
        """The text with which every answer begins that is a call, of one function or of any.

        Raises:
            ConfigError: the template writes calls in a way of which that is not known.
        """
        head, tail = f'{CALL}\n{{"name": "', '", "arguments":'
        if self.native:
            head, tail = self._around_name()
        return head if name is None else f"{head}{name}{tail}"

    def _around_name(self) -> tuple[str, str]:
        """What the template writes before the name of a call, and between it and the arguments."""
        assert self._frame is not None
        asked: Any = [{"role": "user", "content": "?"}]
        call = {
            "id": "123456789",
            "type": "function",
            "function": {"name": _NAME, "arguments": {"word": "?"}},
        }
        called = [*asked, {"role": "assistant", "content": "", "tool_calls": [call]}]
        try:
            prompt = self._frame.prompt(asked, plain=False)
            full = self._frame.render(called, generation_prompt=False)
        except EncodingError as error:
            raise ConfigError(f"A call cannot be asked for: {error}.") from error
        head, name, rest = full.removeprefix(prompt).partition(_NAME)
        between, brace, _ = rest.partition("{")
        if not full.startswith(prompt) or not name or not brace:
            raise ConfigError(
                "A call cannot be asked for: the model's chat template does not write it as JSON."
            )
        return head, between.rstrip()
