"""How likely answers are to a language model before and after they were said in its words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coalign.core.files import write_json
from coalign.data.values import user
from coalign.loops.rows import Row

Pair = tuple[str, str]


class RewrittenTurn(NamedTuple):
    """A turn, as (question, answer), before and after."""

    id: str
    before: Pair
    after: Pair


def rewritten_turns(rows: Sequence[Row]) -> list[RewrittenTurn]:
    """Every turn that was rewritten."""
    return [
        RewrittenTurn(
            f"{row['id']}#{number}",
            (turn["original"]["question"], turn["original"]["answers"][0]),
            (turn["question"], turn["answers"][0]),
        )
        for row in rows
        for number, turn in enumerate(row["turns"])
        if turn.get("rewritten")
    ]


def token_losses(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], *, label: str = "Likelihoods"
) -> list[float]:
    """[pairs] mean negative log-likelihood a token of each answer, nats, given its question in the chat template. An answer
    without tokens has NaN.
    """
    from coalign.models.fluency import text_logps

    prompts, texts = [user(question) for question, _ in pairs], [[answer] for _, answer in pairs]
    found = text_logps(model, tokenizer, prompts, texts, label=label)
    return [
        -total / count if count else float("nan")
        for total, count in zip(found.sums, found.tokens, strict=True)
    ]


def measure_likelihoods(path: Path, turns: Sequence[RewrittenTurn], name: str, device: str) -> list[Row]:
    """A row a rewritten turn: `id`, `before` and `after`, mean nats a token under the model `name`; kept in `path`."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    rows: list[Row] = []
    if turns:
        from coalign.models.files.loading import load_model, load_tokenizer
        from coalign.models.options import ModelOptions

        options = ModelOptions(model=name, device=device)
        model, tokenizer = load_model(options, training=False), load_tokenizer(options)
        before = token_losses(model, tokenizer, [one.before for one in turns])
        after = token_losses(model, tokenizer, [one.after for one in turns])
        rows = [
            {"id": turn.id, "before": old, "after": new}
            for turn, old, new in zip(turns, before, after, strict=True)
            if old == old and new == new
        ]
    write_json(path, rows)
    return rows
