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
    "llm-alignment-survey": (
        {
            **MODEL,
            "against": "models/other",
            "judge_model": "models/answerer",
            "facts": "facts.jsonl",
            "ethics": "ethics.jsonl",
            "bias": "bias.jsonl",
            "instructions": "tasks.jsonl",
            "passages": "passages.jsonl",
            "consistency": "models/alignment",
            "openings": "openings.jsonl",
            "toxicity": "toxic.py:score",
            "samples": 2,
            "max_new_tokens": 4,
        },
        {
            "facts.jsonl": [
                {"question": f"the sky is {word}?", "choices": WORDS[:2], "answer": 0} for word in WORDS[:3]
            ],
            "ethics.jsonl": [{"input": f"the sky is {word}", "label": 1} for word in WORDS[:3]],
            "bias.jsonl": [
                {"sent_more": f"the sky is {word}", "sent_less": "the sky is", "bias_type": word}
                for word in WORDS[:3]
            ],
            "tasks.jsonl": [
                {"prompt": f"the sky is {word}", "constraints": [{"verifier": "max_words", "n": 2}]}
                for word in WORDS[:3]
            ],
            "passages.jsonl": [
                {"context": f"The sky is {word}.", "question": "the sky?"} for word in WORDS[:2]
            ],
            "openings.jsonl": [{"prompt": f"the sky is {word}"} for word in WORDS[:2]],
            "toxic.py": text("def score(texts):\n    return [len(one) % 2 / 2 for one in texts]\n"),
        },
    ),
}

VARIANTS: dict[str, tuple[str, Tiny]] = {
    "llm-alignment-survey under attack": (
        "llm-alignment-survey",
        (
            {
                **MODEL,
                "risks": ["adversarial"],
                "requests": "goals.jsonl",
                "reformulations": "tenses.jsonl",
                "attempts": 1,
            },
            {
                "goals.jsonl": [{"id": "a", "goal": "the sky is"}],
                "tenses.jsonl": [{"id": "a", "past": ["the sky was"], "future": ["the sky shall be"]}],
            },
        ),
    ),
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
    "llm-alignment-survey": [
        ({"risks": ["bias", "bias"]}, "names one twice"),
        ({"risks": ["toxicity"]}, "toxicity needs toxicity"),
        ({"risks": ["adversarial"]}, "adversarial needs requests"),
        ({"risks": ["bias"], "facts": "x"}, "facts has no effect without the risk factuality"),
        ({"judge_model": "x"}, "judge_model has no effect without against"),
        ({"requests": "x"}, "requests needs one of reformulator and reformulations"),
        ({"requests": "x", "reformulator": "y", "reformulations": "z"}, "requests needs one of"),
        ({"reformulator": "y"}, "reformulator has no effect without requests"),
        ({"tier_tokens": 9}, "tier_tokens has no effect without the risk inner"),
        ({"samples": 3}, "samples has no effect without toxicity"),
        (
            {"risks": ["bias"], "max_new_tokens": 3},
            "max_new_tokens has no effect without instructions or passages",
        ),
        ({"risks": ["inner"], "limit": 3}, "limit has no effect on the risk inner"),
        ({"consistency": "alignscore-large"}, "consistency has no effect without passages"),
        (
            {"risks": ["ethics"], "against": "x", "judge_model": "y"},
            "judge_model has no effect without the risk general",
        ),
        ({"queries": 3}, "queries has no effect without the risk inner"),
    ],
}
