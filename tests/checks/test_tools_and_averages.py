"""The world in which a model learns to call: what is taught, what the interpreter says, what counts as right."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from coalign.checks.papers.platform.chatglm import (
    CALL,
    END,
    IS,
    STOP,
    TIMES,
    VOCABULARY,
    answered,
    interpreted,
    questions,
    sequences,
    taught,
)
from tests.checks.test_verdicts import plus, rows_of, verdict_of


def test_what_is_taught_of_a_product() -> None:
    (one,) = questions(0, "x", 1, "product")
    a, b = 10 * one.prompt[0] + one.prompt[1], 10 * one.prompt[3] + one.prompt[4]
    assert int("".join(map(str, one.answer))) == a * b
    (direct,) = taught(one, "direct").contexts
    assert direct.response_ids == [[*one.answer, END]]
    (tool,) = taught(one, "tool").contexts
    (ids,), masks = tool.response_ids, tool.trained
    assert ids == [CALL, *one.prompt[:-1], STOP, IS, *one.answer, *one.answer, END]
    assert masks == [[True] * 7 + [False] * 5 + [True] * 5]
    assert interpreted(ids[:7]) == one.answer


@pytest.mark.parametrize(
    "call",
    [
        [],
        [CALL, STOP],
        [CALL, 1, 2, TIMES, 3, CALL, STOP],
        [1, 2, TIMES, 3, 4, IS, STOP],
        [CALL, 1, 2, IS, 3, 4, STOP],
    ],
)
def test_nothing_else_is_worked_out(call: list[int]) -> None:
    assert interpreted(call) is None


class Scripted(torch.nn.Module):
    """Says the next token by a function of all before it."""

    def __init__(self, says: Any) -> None:
        super().__init__()
        self.says, self.seen = says, None

    def forward(self, input_ids: Any, past_key_values: Any = None, **rest: Any) -> Any:
        rows = [
            [*(past or []), *ids]
            for past, ids in zip(past_key_values or [None] * len(input_ids), input_ids.tolist(), strict=True)
        ]
        logits = torch.full((len(rows), 1, VOCABULARY), -100.0)
        for row, ids in enumerate(rows):
            logits[row, 0, self.says(ids)] = 100.0
        return SimpleNamespace(logits=logits, past_key_values=rows)


def test_calls_are_worked_out_and_answers_that_copy_are_right() -> None:
    asked = questions(1, "y", 5, "product")

    def says(ids: list[int]) -> int:
        if IS not in ids[6:]:
            return [CALL, *ids[:5], STOP, END, END, END, END][len(ids) - 6]
        behind = ids[ids.index(IS, 6) + 1 :]
        return behind[len(behind) - 4] if len(behind) < 8 else END

    assert answered(Scripted(says), asked) == (1.0, 1.0)
    assert answered(Scripted(lambda ids: END), asked) == (0.0, 0.0)
    facts = questions(1, "y", 5, "fact")
    known = {one.prompt: one.answer[0] for one in facts}
    assert answered(Scripted(lambda ids: known[tuple(ids[:2])] if len(ids) == 2 else END), facts) == (
        1.0,
        0.0,
    )


def test_a_third_of_the_sequences_is_short_and_turned_round() -> None:
    made = [one.contexts[0] for one in sequences(0, "z", 30)]
    short = [one for one in made if len(one.response_ids[0]) == 4]
    assert len(short) == 10
    assert all(one.response_ids[0] == one.prompt_ids[:0:-1] for one in short)
    assert all(one.response_ids[0][:4] == one.prompt_ids[1:] for one in made if one not in short)


@pytest.mark.parametrize(
    ("changed", "short", "outcome"),
    [
        ({}, [0.5, 0.6, 0.4, 0.5, 0.5], "seen"),
        ({"products": 0.6, "calls, products": 0.95, "calls, facts": 0.05, "facts": 0.96}, [0.5, 0.6], "seen"),
        ({"products": plus(0.9, [0, 0, 0, 0, -0.305])}, [0.5, 0.6, 0.4, 0.5, 0.5], "not seen"),
        ({"calls, products": 0.945}, [0.5, 0.6, 0.4, 0.5, 0.5], "not seen"),
        ({"calls, facts": 0.055}, [0.5, 0.6, 0.4, 0.5, 0.5], "not seen"),
        ({"facts": 0.955}, [0.5, 0.6, 0.4, 0.5, 0.5], "not seen"),
        ({}, [0.5, -0.6, 0.4, -0.5, 0.5], "not seen"),
        ({}, [0.5], "not seen"),
    ],
)
def test_what_is_said_follows_from_the_rows(
    changed: dict[str, Any], short: list[float], outcome: str, tmp_path: Path
) -> None:
    arms: dict[str, Any] = {
        "direct": {"products": 0.1, "calls, products": 0.0, "facts": 0.98, "calls, facts": 0.0},
        "tool": {"products": 0.9, "calls, products": 1.0, "facts": 1.0, "calls, facts": 0.0, **changed},
        "over tokens": {"short": plus(1.0, short), "long": 0.1},
        "over sequences": {"short": 1.0, "long": 0.2},
    }
    assert verdict_of("chatglm", rows_of(arms, len(short)), tmp_path).outcome == outcome
