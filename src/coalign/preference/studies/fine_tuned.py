"""A start model that is fine-tuned first, kept whole, so that adapters can be trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coalign.core.runs import Run
from coalign.data.records import Record
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.files.saving import save_model
from coalign.models.options import ModelOptions
from coalign.preference.studies.cells import CellOptions
from coalign.training.job import Job
from coalign.training.learning import train
from coalign.training.objective import get_objective


def fine_tune(config: Any, records: Sequence[Record], run: Run, folder: Path, **changes: Any) -> None:
    """Fine-tune the model of `config` on demonstrations and save it whole in `folder`, unless it is there.

    Args:
        config: has model and training options.
        changes: of the training options.
    """
    if folder.exists():
        return
    options = CellOptions.of(config, max_steps=None, reference_logps="precomputed", **changes)
    adapted = run.artefacts / "fine-tuning" / "model"
    job = Job(
        objective=get_objective("sft"), options=options, run=run, records=records, name="fine-tuning/train"
    )
    train(job, adapted)
    save_model(
        load_model(ModelOptions.of(config).at(adapted), training=True), load_tokenizer(str(adapted)), folder
    )
