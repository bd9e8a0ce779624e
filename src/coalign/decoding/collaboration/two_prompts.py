"""What two models of one conversation are shown: plain text for a base model, the chat template for an aligned one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from coalign.core.errors import DataError
from coalign.core.options import OptionGroup, option
from coalign.data.frame import EncodingError, Frame
from coalign.data.messages import folded_system
from coalign.data.records import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class PromptOptions(OptionGroup):
    """What stands around questions and answers, for both models."""

    __group__ = "Prompts"

    system: str = option(
        "Answer the question.",
        "system text of conversations that bring none; empty: none",
        source="our choice",
    )
    question_start: str = option("Question: ", "what stands before a question", source="official code")
    answer_start: str = option(
        "Answer: ", "what stands before an answer in the base model's prompt", source="official code"
    )
    nudging_answer_start: str = option(
        "",
        "what the aligned model's answer starts with; it is not part of the answer",
        source="official code",
    )


def split_conversation(messages: Messages | str, options: PromptOptions) -> tuple[str, Messages, str]:
    """(system text, turns up to the last question, start of the answer)."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    system = "\n".join(one["content"] for one in messages if one["role"] == "system")
    turns: Messages = [one for one in messages if one["role"] != "system"]
    begun = ""
    if turns and turns[-1]["role"] == "assistant":
        turns, begun = turns[:-1], turns[-1]["content"]
    if not turns:
        raise DataError("a conversation has no question, expected a user's message")
    return system or options.system, turns, begun


def base_prompt(messages: Messages | str, options: PromptOptions) -> str:
    """System text, questions and answers, line by line, up to the open answer."""
    system, turns, begun = split_conversation(messages, options)
    starts = {"user": options.question_start, "assistant": options.answer_start}
    lines = [starts.get(one["role"], options.question_start) + one["content"] for one in turns]
    return "\n".join([*filter(None, [system]), *lines, options.answer_start + begun])


def aligned_messages(messages: Messages | str, options: PromptOptions) -> Messages:
    """The same as messages; an assistant's message at the end is the start of the answer."""
    system, turns, begun = split_conversation(messages, options)
    asked = [
        {**one, "content": options.question_start + one["content"]} if one["role"] == "user" else one
        for one in turns
    ]
    first = [{"role": "system", "content": system}] if system else []
    begun = options.nudging_answer_start + begun
    return cast(Messages, [*first, *asked, *([{"role": "assistant", "content": begun}] if begun else [])])


def aligned_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Messages | str, options: PromptOptions
) -> str:
    """The same through a chat template, up to the open answer. Where the template knows no system role, the system
    text begins the first question.

    Raises:
        DataError: the template refuses the messages.
    """
    made = aligned_messages(messages, options)
    begun = made.pop()["content"] if made[-1]["role"] == "assistant" else ""
    frame = Frame(tokenizer)
    try:
        return frame.prompt(made, plain=False) + begun
    except EncodingError as error:
        if made[0]["role"] != "system":
            raise DataError(str(error)) from error
    try:
        return frame.prompt(folded_system(made), plain=False) + begun
    except EncodingError as error:
        raise DataError(str(error)) from error
