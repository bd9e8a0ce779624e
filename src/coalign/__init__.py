"""Bring a model into line with what people want from it, and prove it.

The names below are there as `coalign.NAME`, each imported when it is first asked for.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "core.options": ["option"],
    "core.runs": ["Run"],
    "data.checking.check": ["check_records"],
    "data.readers": ["read_records"],
    "data.records": ["Record"],
    "judging.language_judge": ["LanguageModelJudge"],
    "judging.rewards.specs": ["RewardOptions", "build_rewards"],
    "judging.verifiers.registry": ["verifier"],
    "models.backends.open": ["open_named"],
    "models.files.loading": ["load_model", "load_tokenizer"],
    "models.files.saving": ["save_model"],
    "models.options": ["ModelOptions"],
    "models.reward_model": ["load_reward_model"],
    "models.scoring.engine": ["score_responses"],
    "models.types": ["Responses", "Sampling"],
    "training.learning": ["learn", "learner"],
    "training.objective": ["Losses", "ScoredBatch", "get_objective", "objective"],
    "training.options": ["TrainingOptions"],
}
_MODULES = {name: f"coalign.{module}" for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
