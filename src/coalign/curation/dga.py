"""DGA: how much of each domain to learn from, chosen while training, for the sake of a target of which there is little text.

Dynamic Gradient Alignment for Online Data Mixing (arXiv 2410.02498).

    coalign run dga --data web.jsonl --data books.jsonl --data code.jsonl --target manuals.jsonl --model HuggingFaceTB/SmolLM2-135M
    coalign run dga --data corpus/ --clusters 64 --target manuals.jsonl

Training draws each record's domain by its weight. Every `update_every` steps the gradient of the target's loss and that of
each domain's are taken, of a batch each, and a domain whose gradient points where the target's points gains weight:
`alpha_i <- alpha_i exp(eta <g_i, g_target>)`, normalised, then a moving average. The gradients are of what is trained: of
an adapter alone where there is one. They cost `(K + 1) / update_every` plain steps a step. For thousands of domains
`--reference-tasks` gives mixtures, and only their weights are looked for. `--weights importance`, `uniform` and `fixed` train
the baselines on the same records. Records are texts, or demonstrations, whose responses are learnt.

Reconstruction: there is no official code, and the paper was read through reviews and digests. The direction of the moving
average (small is slow), its 0.1, the period of 100 steps, the step size (so that the alignment farthest from the mean counts
as 1 in the widest update so far) and that gradients are taken after the step are ours or from memory; all but the last are options. Ours as well:
`--alignment cosine`, `--floor`, and that no record of a domain comes again before all came. Target records that give
gradients shape the mixture: the held-out ones measure it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from coalign.core.errors import ConfigError
from coalign.core.options import Count, Fraction, Positive, option
from coalign.core.runs import Run, is_main_process
from coalign.curation.mixing.domains import DomainOptions, Domains, read_domains
from coalign.curation.mixing.report import read_weights, write_mixture_report
from coalign.curation.mixing.training import train_mixture
from coalign.training.material import announce
from coalign.training.objective import get_objective

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from coalign.curation.mixing.task import MixtureTask, Told
    from coalign.training.batches import Example

ALIGNED = {"weights": "alignment"}


def updated_weights(
    weights: ArrayLike, alignments: ArrayLike, step_size: float, average: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """([K], [K]) the weights that a step of mirror descent gives, `alpha_i exp(eta a_i) / sum_j alpha_j exp(eta a_j)`, and
    their moving average with the old ones. A weight of 0 stays 0.

    Args:
        weights: [K] not negative, of sum 1.
        alignments: [K] inner products of gradients.
        step_size: eta.
        average: share of the new weights in the average (beta); 1 is none.
    """
    old = np.asarray(weights, dtype=np.float64)
    with np.errstate(divide="ignore"):
        logs = np.log(old) + step_size * np.asarray(alignments, dtype=np.float64)
    exponentials = np.exp(logs - logs.max())
    instant = exponentials / exponentials.sum()
    return instant, (1 - average) * old + average * instant


def usual_step_size(alignments: ArrayLike, before: float | None = None) -> float | None:
    """The step size under which the alignment that is farthest from their mean counts as 1, or the one before where that is
    smaller; None where all alignments of all updates so far are equal.
    """
    values = np.asarray(alignments, dtype=np.float64)
    widest = float(np.abs(values - values.mean()).max())
    if widest == 0:
        return before
    return 1 / widest if before is None else min(before, 1 / widest)


@dataclass(kw_only=True)
class Config(DomainOptions):
    """Options of `coalign run dga`."""

    __group__ = "Method"

    weights: Literal["alignment", "importance", "uniform", "fixed"] = option(
        "alignment",
        "of the domains: by gradient alignment; or constant: the target's shares of the domains, all alike, or those of "
        "weights_from",
        source="paper",
    )
    update_every: Count = option(100, "steps between updates", source="from memory", only_with=ALIGNED)
    step_size: Positive | None = option(
        None,
        "eta; by default the largest under which eta times the alignment farthest from the mean was at most 1 at every update so far",
        only_with=ALIGNED,
    )
    average: Positive = option(
        0.1,
        "share of the new weights in their moving average (beta), at most 1, which is none",
        source="from memory",
        only_with=ALIGNED,
    )
    alignment: Literal["inner", "cosine"] = option(
        "inner",
        "inner product of the gradients, or divided by their norms",
        source="paper",
        only_with=ALIGNED,
    )
    alignment_batch: Count | None = option(
        None, "records of a domain for its gradient; by default batch_size", only_with=ALIGNED
    )
    target_batch: Count | None = option(
        None, "records of the target for its gradient; by default alignment_batch", only_with=ALIGNED
    )
    initial: Literal["uniform", "size", "importance"] = option(
        "uniform",
        "weights to start from: all alike, by the records of each domain, or the target's shares of the domains",
        source="paper",
        only_with=ALIGNED,
    )
    weights_from: Path | None = option(
        None, "run folder of an earlier dga with the same domains, whose last weights are those to start from"
    )
    floor: Fraction = option(0.0, "share of the records that is drawn from all domains alike")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse(["reference_logps"], "here: nothing is compared with a reference")
        if self.average > 1:
            raise ValueError(f"average: {self.average} is not usable, expected at most 1")
        if self.weights == "fixed" and self.weights_from is None:
            raise ValueError("weights: fixed needs weights_from, the run whose last weights are taken")
        if self.weights in ("importance", "uniform"):
            self.refuse(["weights_from"], f"with weights: {self.weights}")
        elif self.weights_from is not None:
            self.refuse(["initial"], "beside weights_from")
        if self.reference_tasks is not None:
            if self.weights != "alignment":
                self.refuse(["reference_tasks"], f"with weights: {self.weights}")
            self.refuse(["initial"], "beside reference_tasks, whose weights start alike")


def run(config: Config, run: Run) -> None:
    """Read the domains, train on their mixture, write its weights, save and report.

    Raises:
        DataError: records that cannot be used, or a domain without any.
        ConfigError: weights of other domains, or parameters that are spread over processes.
    """
    if any(
        os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true")
        for name in ("FSDP", "DEEPSPEED")
    ):
        raise ConfigError(
            "dga takes gradients of whole parameters.", hint="Start it without FSDP and without DeepSpeed."
        )  # fmt: skip
    asks_shares = "importance" in (config.weights, config.initial)
    domains = read_domains(config, run, shares_of_target=asks_shares)
    announce(domains.notes, run)
    result = train_mixture(config, run, domains, lambda *made: mixture_task(config, domains, *made))
    if is_main_process():
        write_mixture_report(run, config, domains, result)


def start_weights(config: Config, domains: Domains) -> NDArray[np.float64]:
    """[N] of the basis mixtures, or [K] of the domains, as the training begins.

    Raises:
        ConfigError: `weights_from` has weights of others.
    """
    names = domains.basis_names or domains.names
    if config.weights_from is not None:
        return read_weights(config.weights_from, domains)
    if "importance" in (config.weights, config.initial) and domains.target_shares is not None:
        return domains.target_shares
    if config.initial == "size":
        counts = [0] * len(names)
        place = {name: number for number, name in enumerate(names)}
        for one in domains.records:
            counts[place[one.source.tag]] += 1
        return np.array(counts) / len(domains.records)
    return np.full(len(names), 1 / len(names))


def mixture_task(
    config: Config, domains: Domains, examples: Sequence[Example], target: Sequence[Example], per_step: int
) -> MixtureTask:
    """What is learnt: the domains' texts by their weights, and how these are updated.

    Args:
        examples, target: token examples of the domains and of the target.
        per_step: examples of an optimizer step.
    """
    from coalign.curation.mixing.pool import Pool
    from coalign.curation.mixing.task import Alignment, MixtureTask

    def update(
        weights: NDArray[np.float64], alignments: NDArray[np.float64], told: Told
    ) -> tuple[NDArray[np.float64], Told]:
        step_size = config.step_size or usual_step_size(alignments, told.get("mixture/step_size"))
        if step_size is None:
            return weights, told
        move = step_size * float(np.abs(alignments - alignments.mean()).max())
        _, new = updated_weights(weights, alignments, step_size, config.average)
        return new, {"mixture/step_size": step_size, "mixture/largest_move": move}

    rows = config.alignment_batch or config.batch_size
    alignment = Alignment(
        Pool(["target"], target), domains.basis, update,
        every=config.update_every, rows=rows, target_rows=config.target_batch or rows,
        batch_size=config.batch_size, cosine=config.alignment == "cosine",
    )  # fmt: skip
    tags = sorted({one.source.tag for one in domains.held_out})
    return MixtureTask(
        get_objective("sft"), Pool(domains.names, examples), start_weights(config, domains),
        alignment if config.weights == "alignment" else None,
        seed=config.seed, per_step=per_step, floor=config.floor, tags=tags if len(tags) > 1 else (),
    )  # fmt: skip
