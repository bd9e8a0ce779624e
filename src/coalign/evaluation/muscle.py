"""MUSCLE: move a fine-tuned model to a new base without breaking the answers that its users rely on.

MUSCLE: A Model Update Strategy for Compatible LLM Evolution (arXiv 2407.09435). Compares an old and a new version on a
task: which items flip from right to wrong. With training data of the task it then trains a compatibility adapter on
the new version: token by token the adapter is held to the new version where it predicts the right token, and pulled to
the old version where it does not.

    coalign run muscle --old runs/v1 --model runs/v2 --data test.jsonl --train-data train.jsonl

Without --train-data it only reports. Old and new version need the same tokenizer and vocabulary.

An adapter folder as --model is trained further, as in the paper; a whole model gets a new adapter, which starts as the
identity and so as the new version. Texts are rendered with the chat template where there is one. Ours, since the paper
does not say: the optimizer (AdamW), the weight of the cross-entropy where it is mixed in, and the reading of the
sequence mask (every trained token of the sequence).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.core.options import Count, Fraction, Positive, option, required
from coalign.core.runs import Run, is_main_process
from coalign.evaluation.regressions.report import write_compatibility_report
from coalign.evaluation.regressions.tasks import Metric, answer_task, read_task
from coalign.evaluation.regressions.training import CompatibilityOptions, train_compatible, version_options
from coalign.training.distillation import TokenLoss
from coalign.training.material import announce

if TYPE_CHECKING:
    from torch import Tensor

Mask = Literal["student_wrong", "old_right", "all_old", "token_likelihood", "sequence_likelihood"]


def old_version_mask(kind: Mask, student: Tensor, old: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """[N] bool, true where a token is pulled to the old version, false where it is held to the new one.

    Args:
        kind: `student_wrong` (equation 1): the student's most probable token is not the label. `old_right`: the old
            version's is. `all_old`: everywhere. `token_likelihood`: the student gives the label a lower probability
            than the old version does. `sequence_likelihood`: it does so at every token of the row. Ties of the most
            probable token go to the lowest index.
        student, old: [N, V] logits at the trained tokens; no gradient flows through the mask.
        labels: [N] the tokens to predict.
        rows: [N] the sequence of each token.
    """
    student, old = student.detach(), old.detach()
    if kind == "student_wrong":
        return student.argmax(-1) != labels
    if kind == "old_right":
        return old.argmax(-1) == labels
    if kind == "all_old":
        return torch.ones_like(labels, dtype=torch.bool)
    lower = _logp_of(student, labels) < _logp_of(old, labels)
    if kind == "token_likelihood":
        return lower
    others = torch.zeros(int(rows.max()) + 1 if len(rows) else 0, dtype=torch.long, device=rows.device)
    return others.index_add(0, rows, (~lower).long())[rows] == 0


def compatibility_losses(
    student: Tensor,
    old: Tensor,
    new: Tensor,
    labels: Tensor,
    rows: Tensor,
    *,
    temperature: float,
    mask: Mask = "student_wrong",
    distillation_weight: float = 1.0,
) -> Tensor:
    """`lambda (m KL(p_old || p) + (1 - m) KL(p_new || p)) - (1 - lambda) log p(y)` a token: equations 1 and 2.

    Both divergences are between softmaxes at the temperature, without the factor of its square; the cross-entropy is
    at temperature 1. Teachers come first in the divergence and get no gradient.

    Args:
        student, old, new: [N, V] logits at the trained tokens.
        labels, rows: [N] the token to predict and its sequence.
        temperature: tau.
        mask: which tokens are pulled to the old version (`old_version_mask`).
        distillation_weight: lambda; 1 leaves the cross-entropy out.

    Returns:
        [N] losses, not reduced; the paper takes their mean over the trained tokens of a batch.
    """
    pulled = old_version_mask(mask, student, old, labels, rows)
    teacher = torch.where(pulled[:, None], old, new).detach() / temperature
    log_teacher = teacher.log_softmax(-1)
    log_student = (student / temperature).log_softmax(-1)
    # Terms of probability 0 are 0, also where the logarithms are infinite or huge.
    terms = torch.where(log_teacher.exp() > 0, log_teacher.exp() * (log_teacher - log_student), 0.0)
    losses = terms.sum(-1)
    if distillation_weight == 1:
        return losses
    return distillation_weight * losses - (1 - distillation_weight) * _logp_of(student, labels)


def _logp_of(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)


@dataclass(kw_only=True)
class Config(CompatibilityOptions):
    """Options of `coalign run muscle`; --model is the new version."""

    __group__ = "Method"

    data: str = required("test items: question, choices, answer; or prompts with the right completion")
    metric: Literal["auto"] | Metric = option(
        "auto", "how an answer is compared; auto: choices where there are such, else numbers, else ROUGE-1"
    )
    margin: Fraction = option(
        0.0,
        "differences of ROUGE-1 up to this size count as none",
        only_with={"metric": ("auto", "rouge1")},
    )
    limit: Count | None = option(None, "only so many test items")
    max_new_tokens: Count = option(128, "most tokens of a free answer; decoding is greedy")
    mask: Mask = option(
        "student_wrong", "tokens that are pulled to the old version", source="paper, equation 1"
    )
    temperature: Positive = option(2.0, "tau of both divergences", source="paper, appendix A.1")
    distillation_weight: Fraction = option(
        1.0,
        "lambda; below 1 the cross-entropy is mixed in, for an old version that is much worse",
        source="paper, section 5.3",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask == "token_likelihood" and self.distillation_weight == 1 and self.train_data:
            raise ValueError(
                "mask: token_likelihood needs the cross-entropy: give a distillation_weight below 1"
            )


def run(config: Config, run: Run) -> None:
    """Answer the task with the old and the new version, train the compatibility adapter, answer again, report.

    Raises:
        DataError: test or training records that cannot be used.
        ModelError: versions whose tokenizers or vocabularies differ.
    """
    task = read_task(config.data, config.metric, config.limit)
    announce([task.guessed] if task.guessed else [], run)
    versions = {"old": config.old, "new": config.model}
    if config.train_data is not None:
        train_compatible(config, run, _loss_of(config), task.items)
        versions["compatible"] = str(run.model)
    if not is_main_process():
        return
    answers = {
        name: answer_task(
            task,
            version_options(config, model),
            run.artefacts / f"answers-{name}.jsonl",
            max_new_tokens=config.max_new_tokens,
            label=f"Answering, {name} version",
        )
        for name, model in versions.items()
    }
    write_compatibility_report(run, config, task, answers, margin=config.margin)
    if config.train_data is not None:
        shutil.rmtree(run.checkpoints, ignore_errors=True)


def _loss_of(config: Config) -> TokenLoss:
    options: Any = {name: getattr(config, name) for name in ("temperature", "mask", "distillation_weight")}

    def loss(student: Tensor, taught: Sequence[Tensor], labels: Tensor, rows: Tensor) -> Tensor:
        old, new = (one.float() for one in taught)
        return compatibility_losses(student.float(), old, new, labels, rows, **options)

    return loss
