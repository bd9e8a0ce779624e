"""Feedback whose thumbs down are to be weighted so that their prompts match those of thumbs up: the material of a run."""

from __future__ import annotations

from typing import Any

import torch

from coalign.data.records import Feedback, Record
from coalign.models.embedding import load_encoder
from coalign.training.losses.density_ratio import PROB_DESIRABLE, density_ratios, with_prob_desirable
from coalign.training.material import Material


def with_matched_prompts(material: Material, config: Any) -> Material:
    """The records with the probability that their prompt belongs to thumbs up, by a classifier fitted on the training
    records, and a note on the weights that follow.

    Args:
        config: has `encoder` of the prompts (`default-encoder`, hub id or folder), its `device`, `prompt_sample_size` (records
            a class that the classifier is fitted on), `min_density_ratio` and `max_density_ratio` of a weight (see
            `density_ratios`), and `seed`.

    Raises:
        DataError: the training records are of one class only.
    """
    training = [one for one in material.training if isinstance(one, Feedback)]
    held_out = [one for one in material.held_out if isinstance(one, Feedback)]
    scored = with_prob_desirable(
        [*training, *held_out],
        load_encoder(config.encoder, device=config.device).encode,
        sample_size=config.prompt_sample_size,
        seed=config.seed,
        fitted_on=training,
    )
    ratios = density_ratios(
        torch.tensor([one.extra[PROB_DESIRABLE] for one in scored[: len(training)] if not one.label]),
        minimum=config.min_density_ratio,
        maximum=config.max_density_ratio,
    )
    note = f"Thumbs-down records weigh between {ratios.min():.2f} and {ratios.max():.2f}, {ratios.mean():.2f} on average"
    parts: list[Record] = [*scored]
    return Material(parts[: len(training)], parts[len(training) :], [*material.notes, note])
