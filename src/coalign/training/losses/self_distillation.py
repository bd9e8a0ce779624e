"""A model that learns from itself: what it says with more in its prompt teaches what it says with less."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def self_distillation_terms(
    teacher: Tensor, student: Tensor, labels: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of both views of the same targets, and `KL(teacher || student)` where the target is not an end token.

    `KL_t = sum_v p_T(v) (log p_T(v) - log p_S(v))`, over the whole vocabulary at temperature 1; the teacher is a constant in it. In
    the cross-entropies both views have their gradient (official code of arXiv 2409.00935).

    Args:
        teacher, student: [N, V] logits at the target tokens of the view with more and of the view with less, paired.
        labels: [N] the target tokens.
        ends: [N] whether the target ends the response; such a token has no part in the divergence.

    Returns:
        [N] cross-entropy of the teacher, [N] of the student, [N - ends] divergences; not reduced.
    """
    log_teacher, log_student = teacher.log_softmax(-1), student.log_softmax(-1)
    cross_entropies = [-one.gather(-1, labels[:, None]).squeeze(-1) for one in (log_teacher, log_student)]
    fixed, given = log_teacher.detach()[~ends], log_student[~ends]
    # Terms of probability 0 are 0, also where the logarithms are infinite.
    terms = torch.where(fixed.exp() > 0, fixed.exp() * (fixed - given), 0.0)
    return cross_entropies[0], cross_entropies[1], terms.sum(-1)
