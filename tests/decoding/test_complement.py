"""Completed prompts: what the models are shown, which complements are left out, and that a run that goes on sees the same."""

from __future__ import annotations

from typing import Any

import pytest

from coalign.core.errors import DataError
from coalign.decoding.in_context import complement
from coalign.decoding.in_context.complement import (
    CompletedPrompts,
    Options,
    complement_request,
    is_usable,
    with_complement,
)
from coalign.models.methods import get_method
from coalign.models.types import Generation, Sampling


class Echo:
    """Answers with what it was asked; complements are the words of `said`."""

    def __init__(self, said: str) -> None:
        self.said, self.asked, self.samplings = said, [], []

    def generate(self, prompts: Any, sampling: Sampling, **how: Any) -> Any:
        self.samplings.append(sampling)
        found = []
        for prompt in prompts:
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            writes = text.startswith("You help people")
            self.asked.append(prompt)
            reply = Generation(
                text=self.said if writes else text, token_ids=[], finish_reason="stop", n_tokens=0
            )
            found.append([reply] * sampling.n)
        return found


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_the_main_model_is_shown_the_completed_prompt():
    inner = Echo("  For a child, in two sentences.  ")
    method = CompletedPrompts(inner, Options())
    turns = [
        {"role": "system", "content": "Be kind."},
        user("Hi"),
        {"role": "assistant", "content": "Hello."},
        user("Why is the sky blue?"),
    ]
    (first, second), (plain, _) = method.generate(
        [turns, "Why do cats purr?"], Sampling(n=2, temperature=0.7)
    )
    assert first.text == second.text == "Why is the sky blue?\n\nFor a child, in two sentences."
    assert plain.text == "Why do cats purr?\nFor a child, in two sentences."
    assert inner.asked[0] == complement_request("Why is the sky blue?")
    assert inner.asked[2][:3] == turns[:3]
    assert (method.completed, method.plain) == (2, 0)
    greedy, answering = inner.samplings
    assert (greedy.n, greedy.temperature) == (1, 0.0)
    assert (answering.n, answering.temperature) == (2, 0.7)


@pytest.mark.parametrize(
    ("said", "usable"),
    [
        ("For a child.", True),
        ("", False),
        (" ... ", False),
        ("word " * 61, False),
        ("word " * 60, True),
        ("Why is the sky blue", False),
        ("Why is the sky blue, for a child who likes to paint", True),
    ],
)
def test_complements_that_add_nothing_or_too_much_are_left_out(said, usable):
    assert is_usable(said, "Why is the sky blue?", Options()) == usable
    method = CompletedPrompts(Echo(said), Options())
    (answer,) = method.generate([[user("Why is the sky blue?")]], Sampling())[0]
    assert (answer.text != "Why is the sky blue?") == usable
    assert (method.completed, method.plain) == ((1, 0) if usable else (0, 1))


def test_a_begun_answer_is_not_completed():
    begun = [user("Why?"), {"role": "assistant", "content": "Because"}]
    method = CompletedPrompts(Echo("For a child."), Options())
    assert method.generate([begun], Sampling())[0][0].text == "Because"
    assert method.completed == method.plain == 0


def test_content_that_is_not_text_is_refused():
    with pytest.raises(DataError, match="not text"):
        CompletedPrompts(Echo(""), Options()).generate(
            [[{"role": "user", "content": [{"type": "image"}]}]], Sampling()
        )


def test_the_complement_stands_behind_the_last_user_turn():
    turns = [user("One"), {"role": "assistant", "content": "Two"}, user("Three ")]
    assert with_complement(turns, "Four")[-1]["content"] == "Three\n\nFour"
    assert turns[-1]["content"] == "Three "


def test_another_model_writes_where_one_is_named(monkeypatch):
    opened: list[str] = []
    writer = Echo("For a child.")

    def open_transformers(options: Any) -> Echo:
        opened.append(options.model)
        return writer

    monkeypatch.setattr("coalign.models.backends.open.open_transformers", open_transformers)
    inner = Echo("never")
    method = get_method("complement")
    assert method is complement.METHOD
    wrapped = method.wrap(Options(complement_model="runs/small"), inner)
    assert wrapped.generate([[user("Why?")]], Sampling())[0][0].text == "Why?\n\nFor a child."
    assert opened == ["runs/small"]
    assert len(writer.asked) == len(inner.asked) == 1
