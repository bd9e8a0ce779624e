"""ACT: align a model with constraints that programs can check, without labels.

From Instructions to Constraints: Language Model Alignment with Automatic Constraint Verification (arXiv 2403.06326).
Verifiers take the place of annotators: several responses are sampled to every prompt, each gets the share of the
prompt's constraints that it satisfies, and a ranking loss teaches the model that order.

    coalign run act --prompts prompts.jsonl --model default
    coalign quickstart

Reconstruction: there is no official code, and the paper's loss constants could not be confirmed. The loss has the
form of RRHF with a margin scaled by the gap in satisfaction; margin, fine-tuning weight, length normalisation and
pair rule are options. Added by us: responses that run out of tokens count as satisfying nothing while ranking
(`--unfinished`), because a model must not learn from replies that never ended.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from coalign.core.errors import DataError
from coalign.core.options import Count, Fraction, NonNegative, option, required
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Ranking
from coalign.models.adapters import add_lora
from coalign.models.loading import load_model, load_tokenizer
from coalign.models.options import ModelOptions
from coalign.models.saving import save_model
from coalign.models.sampling_options import SamplingOptions
from coalign.models.types import Sampling
from coalign.preference.listwise import ranking_hinge_loss
from coalign.selfalign.constraint_report import evaluate_constraints, write_constraint_report
from coalign.selfalign.constraint_tasks import ConstraintTask, measure_responses, read_tasks, split_tasks
from coalign.selfalign.loop import Round, run_rounds
from coalign.selfalign.stages import make_generator, sample_rows
from coalign.training.fit import fit
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective
from coalign.training.options import TrainingOptions
