"""Tiny runs of systems of the guide: (options, files)."""

from __future__ import annotations

import json
from typing import Any

from tests.contract.asked import MODEL, Tiny, text
from tests.preference.tiny_runs import WORDS

VALUES = [
    {
        "id": word,
        "text": f"the sky is {word}",
        "options": ["a", "b"],
        "dimension": "uv"[place % 2],
        "reverse": place > 3,
    }
    for place, word in enumerate(WORDS[:6])
]
INSTRUMENT = text(json.dumps({"name": "small", "axes": {"both": ["u", "v"]}, "items": VALUES}))

SMALL: dict[str, Tiny] = {
    "value-alignment-survey": ({**MODEL, "data": "values.jsonl", "lead": "Say."}, {"values.jsonl": VALUES}),
}

VARIANTS: dict[str, tuple[str, Tiny]] = {
    "value-alignment-survey in writing": (
        "value-alignment-survey",
        ({**MODEL, "data": "values.yaml", "readout": "text", "samples": 4}, {"values.yaml": INSTRUMENT}),
    ),
}

REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "aligning-llms-survey": [
        ({"data": "x", "author_columns": ["a", "b"]}, "author_columns has no effect without own"),
        ({"data": "x", "own": "y", "author_columns": ["a"]}, "expected two"),
        ({"data": "x", "answers": "y"}, "answers has no effect without sheet"),
        ({"data": "x", "judge": "reward"}, "nothing to probe"),
    ],
    "value-alignment-survey": [
        ({"samples": 3}, "samples has no effect with readout: logprobs"),
        ({"epochs": 1}, "epochs"),
        ({"adapter_rank": 4}, "adapter_rank has no effect here"),
    ],
}
