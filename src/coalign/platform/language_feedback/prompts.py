"""What is asked for: a critique of a response, and the response written anew after it."""

from __future__ import annotations

import re
from typing import Literal, cast

from coalign.data.media.conversations import MARK
from coalign.data.records import Message, Messages

RefineOn = Literal["x,y,c", "x,c"]
"""What a refinement is written from: prompt, response and critique, or prompt and critique alone."""
_PLACEHOLDER = re.compile(r"<\|?(?P<what>image|img|audio|video)(?:_?pad|_?\d+)?\|?>", re.IGNORECASE)

CRITICISE = """Below are a request and a response to it. Say point by point what is wrong with the response and what is missing, \
then how to make it better.

## Request
{request}

## Response
{response}

## Critique and refinement
"""
"""In our words; the cue at its end is what a feedback model goes on from."""
REWRITE = """{critique}

Write your answer again, following this critique. Give the new answer alone."""
REWRITE_ALONE = """{request}

Advice on the answer:
{critique}

Follow it, and give the answer alone."""


def neutral(text: str) -> str:
    """A text in which nothing stands for a picture, a sound or a film: `<image>` becomes `image`."""
    return _PLACEHOLDER.sub(lambda found: found["what"].lower(), text.replace(MARK, "image"))


def to_criticise(prompt: Messages, response: str) -> Messages:
    """The request for a critique: one turn of the user with prompt and response under labels.

    Args:
        prompt: whose marks of pictures stay where they are, so that `showing` puts its pictures there.
        response: placeholders of media in it are words.
    """
    return [_user(CRITICISE.format(request=request_text(prompt), response=neutral(response)))]


def to_refine(prompt: Messages, response: str, critique: str, on: RefineOn = "x,y,c") -> Messages:
    """The request for a refinement.

    `x,y,c`: the prompt, the response as the assistant's turn, then the critique and what to do with it, as the official code has
    it. `x,c`: the critique within the last turn of the prompt, as the paper's text has it; the response is not shown.
    """
    critique = neutral(critique)
    if on == "x,y,c":
        said = cast(Message, {"role": "assistant", "content": neutral(response)})
        return [*prompt, said, _user(REWRITE.format(critique=critique))]
    *before, last = prompt
    text = REWRITE_ALONE.format(request=last["content"], critique=critique)
    return [*before, cast(Message, {**last, "content": text})]


def request_text(prompt: Messages) -> str:
    """A prompt as one text: the words of its only turn, or its turns under their roles."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{one['role'].capitalize()}: {one['content']}" for one in prompt)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}
