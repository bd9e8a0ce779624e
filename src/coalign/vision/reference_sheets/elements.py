"""Key elements of a scene: the phrases of its text that need a picture, asked of a language model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coalign.core.errors import ModelError
from coalign.data.records import Messages
from coalign.judging.asked.options import AskedModel
from coalign.loops.rows import answer_rows
from coalign.models.types import Sampling
from coalign.vision.reference_sheets.scenes import Scene

REQUEST = """You choose reference pictures for an illustrator. Here is the text of a scene:

{prompt}

Name exactly {count} short phrases of the scene that need a reference picture: usually who is shown and how they look, what \
they do, and where. Copy each phrase from the text word for word. Answer with a JSON list of {count} strings and nothing else."""
_LIST = re.compile(r"\[.*?\]", re.DOTALL)
_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*(.+?)\s*$", re.MULTILINE)
_QUOTES = "\"'`“”‘’"


@dataclass(frozen=True)
class Request:
    """A scene as it is put to the model."""

    id: str
    prompt: Messages


def read_elements(reply: str, count: int) -> list[str] | None:
    """The phrases of a reply: a JSON list, else the lines of a list. None unless there are exactly `count`, all with
    text.
    """
    for found in _LIST.findall(reply):
        try:
            values = json.loads(found)
        except ValueError:
            continue
        phrases = [one.strip() for one in values if isinstance(one, str) and one.strip()]
        if len(phrases) == count == len(values):
            return phrases
    lines = [one.strip(_QUOTES + " ,") for one in _ITEM.findall(reply)]
    return lines if len(lines) == count and all(lines) else None


def asked_elements(
    path: Path, scenes: Sequence[Scene], model: AskedModel, *, count: int, tokens: int
) -> dict[str, tuple[str, ...]]:
    """Scene to its elements, for scenes that have none; replies are kept in `path`.

    Raises:
        ModelError: replies without a list of `count` phrases; the scenes are named.
    """
    requests = [
        Request(one.id, [{"role": "user", "content": REQUEST.format(prompt=one.prompt, count=count)}])
        for one in scenes
    ]
    sampling = Sampling(max_new_tokens=tokens, temperature=0.0)
    rows = answer_rows(
        path, requests, lambda: model.generator, sampling, label="Elements", beside={"model": model.name}
    )
    found = {row["id"]: read_elements(row["responses"][0], count) for row in rows}
    failed = [name for name, phrases in found.items() if phrases is None]
    if failed:
        shown = ", ".join(failed[:5]) + (", ..." if len(failed) > 5 else "")
        raise ModelError(
            f"{model.name}: no list of {count} phrases for {len(failed)} of {len(found)} scenes: {shown}.",
            hint=f"Write elements for them into the data, or ask a larger model. The replies lie in {path}.",
        )
    return {name: tuple(phrases) for name, phrases in found.items() if phrases is not None}
