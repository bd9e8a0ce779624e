"""LN-DPO: DPO on length-normalised log-ratios, so that long responses do not dominate and answers do not grow.

The Hitchhiker's Guide to Human Alignment with *PO (arXiv 2407.15229).

    coalign run ln-dpo --data pairs.jsonl --model default
    coalign run ln-dpo --data pairs.jsonl --study --objectives ln_dpo,dpo,simpo --grid learning_rate=5e-5,1e-4

Each log-ratio to the reference is divided by the length of its own response; nothing else differs from DPO. Averages
are tens to hundreds of times smaller than sums, so beta is larger than DPO's, and losses of the two at equal beta do
not compare. The length is that of the response after truncation, end-of-turn token included.

`--study` repeats the paper's question, which objective survives a poor choice of hyper-parameters: every objective is
trained over its grid under several seeds, and the report shows best, mean, worst and spread, KL from the start model
and response lengths. Start it from your fine-tuned model.

Reconstruction: the paper has no public code, and its grid of betas could not be confirmed; the default is ours.
Where the labels themselves reward length, averaging magnifies the early end of short rejected answers, and the gain in
length shrinks or turns: the check's second panel shows how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from coalign.core.options import Count, Positive, groups_of, option, options_of
from coalign.core.runs import Run
from coalign.models.options import ModelOptions
from coalign.preference.studies.cells import Cell, StudyOptions, assert_possible, read_study
from coalign.preference.studies.compared import any_constants, chosen_constants
from coalign.preference.studies.figures import sensitivity_findings
from coalign.preference.studies.grids import combinations, parse_grid
from coalign.preference.studies.report import run_study, sensitivity_sections
from coalign.training.distributed.leading import led
from coalign.training.learning import learn
from coalign.training.losses.numerics import mean_logps
from coalign.training.losses.pairs import (
    implicit_rewards,
    pair_lengths,
    pair_metrics,
    policy_pairs,
    reference_pairs,
)
from coalign.training.losses.pairwise import logistic_loss
from coalign.training.material import ObjectiveOptions, announce
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective

if TYPE_CHECKING:
    from torch import Tensor


def ln_dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
) -> Tensor:
    """`-log sig( beta / |y_w| (S(y_w) - S_ref(y_w)) - beta / |y_l| (S(y_l) - S_ref(y_l)) )`.

    Args:
        policy_chosen_logps, policy_rejected_logps: [R] log-probabilities S summed over response tokens, in nats.
        reference_chosen_logps, reference_rejected_logps: [R] the same under the reference; constants.
        chosen_lengths, rejected_lengths: [R] counted response tokens; 0 counts as 1.
        beta: inverse temperature of the reward per token.

    Returns:
        [R] losses, not reduced; log 2 where policy and reference agree. The gradient by a token of a response of
        length |y| is `beta sig(-z) / |y|`.
    """
    chosen = mean_logps(policy_chosen_logps - reference_chosen_logps, chosen_lengths)
    rejected = mean_logps(policy_rejected_logps - reference_rejected_logps, rejected_lengths)
    return logistic_loss(beta * (chosen - rejected))


@dataclass(kw_only=True)
class Constants:
    """Constants of LN-DPO."""

    __group__ = "Objective"

    beta: Positive = option(1.0, "inverse temperature of the reward per token; try 0.5 to 2.5")


@objective(
    "ln_dpo",
    data="preference",
    reference=True,
    constants=Constants,
    equation=r"-\log \sigma\left(\frac{\beta}{|y_w|} \log\frac{\pi_\theta(y_w|x)}{\pi_{ref}(y_w|x)} - \frac{\beta}{|y_l|} \log\frac{\pi_\theta(y_l|x)}{\pi_{ref}(y_l|x)}\right)",
    when="DPO makes answers longer, or its beta is hard to choose.",
)
def ln_dpo(batch: ScoredBatch, constants: Constants) -> Losses:
    """LN-DPO (arXiv 2407.15229); `sigmoid_norm` in TRL."""
    pairs = (*policy_pairs(batch), *reference_pairs(batch), *pair_lengths(batch))
    rewards = implicit_rewards(batch, constants.beta, length_normalised=True)
    return Losses(ln_dpo_loss(*pairs, beta=constants.beta), pair_metrics(batch, *rewards))


GRIDS: dict[str, dict[str, list[float]]] = {
    "ln_dpo": {"beta": [0.5, 1.0, 2.0]},
    "dpo": {"beta": [0.01, 0.1, 0.5]},
    "simpo": {"beta": [1.0, 2.0, 4.0], "gamma": [0.5, 1.2]},
    "ipo": {"tau": [0.01, 0.1, 0.5]},
    "cpo": {"beta": [0.05, 0.1, 0.5]},
    "orpo": {"odds_weight": [0.1, 0.5, 1.0]},
    "rrhf": {},
    "slic_hf": {"delta": [0.5, 1.0, 5.0]},
    "kto": {"beta": [0.05, 0.1, 0.5]},
}
"""What the study varies by default (our choice; the paper's grids could not be confirmed). RRHF has no constant."""
Compared = Literal["ln_dpo", "dpo", "simpo", "ipo", "cpo", "orpo", "rrhf", "slic_hf", "kto"]
COMPARED = get_args(Compared)
"""LN-DPO and the objectives that the paper compares it with."""
AnyConstants = any_constants(COMPARED)


@dataclass(kw_only=True)
class Config(AnyConstants, StudyOptions, ObjectiveOptions):
    """Options of `coalign run ln-dpo`."""

    __group__ = "Method"

    objective: Compared = option("ln_dpo", "what to train: LN-DPO, or an objective that it is compared with")
    study: bool = option(
        False, "sweep hyper-parameters of several objectives instead of one training", group="Study"
    )
    objectives: list[Compared] = option(["ln_dpo", "dpo", "simpo"], "what the study compares", group="Study")
    grid: list[str] = option(
        [],
        "what it varies in place of its own grid: `dpo.beta=0.05,0.1`, `learning_rate=5e-5,1e-4`",
        group="Study",
    )
    size: Count | None = option(None, "pairs of each training; by default all", group="Study")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.study:
            study = groups_of(type(self))["Study"]
            self.refuse([one.name for one in study], "without study")
            chosen_constants(self, self.objective, COMPARED)
            return
        self.refuse(["show_answers"], "in a study")
        if self.objective != "ln_dpo":
            raise ValueError("a study trains --objectives; leave --objective out")
        given = [one.name for one in options_of(AnyConstants) if getattr(self, one.name) is not None]
        if given:
            raise ValueError(f"a study takes {given[0]} from its grid: --grid {given[0]}=...")
        if not self.objectives or len({*self.objectives}) < len(self.objectives):
            raise ValueError("objectives: name each once, at least one")
        self.settings()

    def settings(self) -> dict[str, list[dict[str, Any]]]:
        """Objective to the combinations of settings that are trained; a setting that is given replaces the default's.

        Raises:
            ConfigError: a setting that no objective has.
        """
        given = parse_grid(self.grid, self.objectives, where="grid")
        return {name: combinations({**GRIDS[name], **given[name]}) for name in self.objectives}


def run(config: Config, run: Run) -> None:
    """Train LN-DPO, or another objective with its own constants, on pairs; or sweep over several."""
    if config.study:
        sweep(config, run)
    else:
        learn(config, get_objective(config.objective), run)


@led
def sweep(config: Config, run: Run) -> None:
    """Train every objective with every setting under every seed, and report how much depends on the choice.

    Raises:
        DataError: pairs or files to measure on that cannot be used.
        ConfigError: more pairs asked for than there are or settings out of range.
    """
    study, notes = read_study(config, run, {"start": ModelOptions.of(config)})
    size = config.size or len(study.pairs)
    cells = [
        Cell(name, "start", size, config.seed + seed, settings)
        for name, grid in config.settings().items()
        for settings in grid
        for seed in range(config.seeds)
    ]
    assert_possible(study, cells)
    announce(notes, run)
    title = f"Sensitivity of {', '.join(config.objectives)}"
    run_study(
        run, study, cells, notes, title=title, findings=sensitivity_findings, sections=sensitivity_sections
    )
