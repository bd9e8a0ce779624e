"""A few steps of real training with an objective: tiny model, byte tokenizer, adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.records import Record
from coalign.models.adapters import add_adapter
from coalign.models.options import ModelOptions
from coalign.training.fit import fit
from coalign.training.job import FitResult, Job
from coalign.training.objective import get_objective
from coalign.training.options import TrainingOptions
from tests.models.tiny import make_model
from tests.preference.tiny_chat import VOCABULARY, tiny_tokenizer


def fit_tiny(
    folder: Path, records: Sequence[Record], name: str, constants: Any = None, **options: Any
) -> FitResult:
    """Train in a run folder under `folder`; calling it again with the same folder continues."""
    objective = get_objective(name)
    given = {"batch_size": 2, "learning_rate": 1e-2, "max_length": 200, **options}
    training = build(TrainingOptions, given)
    model = add_adapter(make_model("llama", vocab_size=VOCABULARY), ModelOptions())  # type: ignore[arg-type]
    run = Run.start(folder / "run", "test", ModelOptions())
    constants = constants if constants is not None else build(objective.constants, {})
    job = Job(objective=objective, options=training, run=run, records=records, constants=constants)
    return fit(job, model, tiny_tokenizer())
