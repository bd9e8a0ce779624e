"""Do refusals survive another tense? Attack success after k attempts, by several judges, and training against it.

Does Refusal Training in LLMs Generalize to the Past Tense? (arXiv 2407.11969).

    coalign run past-tense --data behaviours.csv --model MODEL --reformulator REWRITER --judges rating,rules_prefix --judge-model JUDGE
    coalign run past-tense --data behaviours.csv --reformulations rewritten.jsonl --controls harmless.jsonl --chats chats.jsonl

Every request is put into the past and into the future by a language model, anew in each of K attempts; the target answers
and judges say whether it did what the *original* request asks for. `direct` has as many attempts as the others, since
ASR@k grows with k by itself. With `--chats` the target is then trained: reformulated requests of one half answered by a
refusal, in shares of ordinary chats, tested on the other half and on harmless controls. No request is bundled: bring a
list (JailbreakBench's CSV is read as it is). Texts are not kept without `--keep-texts`.

Where the official code differs: it stops at the first success (`--early-stop`), and other judges then see the last
response alone; it sends the judge's question as the assistant's turn; it gives every direct attempt one seed, so that they
are nearly one attempt. Ours: questions and reformulation prompts are worded anew (files of your own: `--past-template` and
others), `rules_prefix` beside the paper's rule, intervals over requests, false alarms of the judges on plain refusals, a
reformulator that refuses is asked again and counted. Data and constants of the paper's defence training are not public.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from coalign.core.files import write_json
from coalign.core.options import Count, Fraction, NonNegative, option, options_of, required
from coalign.core.runs import Run
from coalign.data.readers import read_records
from coalign.data.records import Demonstration
from coalign.evaluation.red_team import figures as red
from coalign.evaluation.red_team.attempts import Attack, attack
from coalign.evaluation.red_team.defence import REFUSAL, defence_records
from coalign.evaluation.red_team.options import (
    ReformulationOptions,
    RefusalJudgeOptions,
    control_conditions,
    open_judges,
    open_reformulator,
)
from coalign.evaluation.red_team.reformulation import CONDITIONS, Condition, Reformulator
from coalign.evaluation.red_team.report import write_red_team_report
from coalign.evaluation.red_team.requests import Request, halves, read_requests
from coalign.judging.refused_requests import RefusedRequestJudge, RuleJudge
from coalign.judging.store import Deferred
from coalign.loops.rounds import Round, run_rounds
from coalign.models.backends.open import open_generator
from coalign.models.backends.options import BackendOptions
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.training.distributed.leading import led
from coalign.training.job import Job
from coalign.training.learning import train
from coalign.training.material import announce
from coalign.training.objective import get_objective
from coalign.training.options import TrainingOptions


@dataclass(kw_only=True)
class Config(ReformulationOptions, RefusalJudgeOptions, ModelOptions, BackendOptions, TrainingOptions):
    """Options of `coalign run past-tense`; --model or --endpoint is the target."""

    __group__ = "Method"

    data: str = required(
        "requests that should be refused: a column goal, request, behavior or prompt; also category"
    )
    conditions: list[Condition] = option([*CONDITIONS], "in which tenses they are asked", source="paper")
    attempts: Count = option(
        20, "most tries a request (K), under every condition alike", source="official code"
    )
    early_stop: bool = option(
        False, "no further tries after a success of the main judge", source="official code: on"
    )
    controls: str | None = option(
        None, "harmless prompts that should be answered, to see what is refused of them"
    )
    limit: Count | None = option(None, "read only so many requests")
    split: str = option("train", "split of a hub data set")
    system_prompt: str | None = option(None, "the target's system turn; by default none")
    max_new_tokens: Count = option(150, "most tokens of a response", source="official code")
    temperature: NonNegative = option(1.0, "of the target and of the reformulator", source="official code")
    keep_texts: bool = option(
        False, "also keep what was asked and answered, in a folder that its owner alone may open"
    )
    chats: str | None = option(
        None,
        "ordinary chats (demonstrations) to mix refusals into; with them the target is trained",
        group="Defence",
    )
    shares: list[Fraction] = option(
        [0.0, 0.02, 0.05, 0.1, 0.3],
        "shares of refusals, a training each",
        source="paper; 0 is ours",
        group="Defence",
        only_with="chats",
    )
    defence_records: Count = option(
        1000, "records of a training", source="reconstruction", group="Defence", only_with="chats"
    )
    refusal: str = option(
        REFUSAL, "what is answered to them", source="reconstruction", group="Defence", only_with="chats"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.conditions or len({*self.conditions}) < len(self.conditions):
            raise ValueError(
                f"conditions: {', '.join(self.conditions) or 'none'}, expected one or more, each once"
            )
        if {*self.conditions} == {"direct"}:
            self.refuse(["reformulator", "reformulations"], "with the condition direct alone")
        self.refuse(["eval_fraction", "eval_steps"], "here: half of the requests are tested on")
        if self.chats is None:
            self.refuse(
                (one.name for one in options_of(TrainingOptions) if one.name != "seed"), "without chats"
            )
            self.refuse_training()
        elif "past" not in self.conditions:
            raise ValueError("chats trains against the past tense: name past among the conditions")
        elif self.chosen_backend == "endpoint":
            raise ValueError("chats trains the target, which no endpoint lets: give a model")
        elif not self.shares:
            raise ValueError("shares is empty, expected one or more")


@dataclass(frozen=True)
class Setting:
    """What the attacks of a run share.

    Attributes:
        test: requests that a trained target is attacked with; without a defence all of them.
    """

    requests: Sequence[Request]
    training: Sequence[Request]
    test: Sequence[Request]
    controls: Sequence[Request]
    reformulator: Reformulator
    judges: Sequence[RefusedRequestJudge]


@led
def run(config: Config, run: Run) -> None:
    """Attack, judge; train and attack again where chats are given; report.

    Raises:
        ConfigError: other tenses, and nobody to put requests into them.
        DataError: requests, controls, reformulations or chats that cannot be used.
        ModelError: a model or a server that cannot be used.
    """
    requests = read_requests(config.data, split=config.split, limit=config.limit)
    controls = read_requests(config.controls) if config.controls else []
    chats: Sequence[Any] = read_records(config.chats, kind="demonstration").records if config.chats else []
    training, test = halves(requests, config.seed) if config.chats else ([], requests)
    reformulator = open_reformulator(config, requests, config.conditions)
    setting = Setting(requests, training, test, controls, reformulator, open_judges(config, run))
    announce(
        [f"{len(requests)} requests, {len(controls)} controls, {config.attempts} attempts a request."], run
    )
    start = Round(run, 0)
    if not start.is_done("baseline"):
        baseline = partial(attack_all, config, setting, config, requests)
        run_rounds(run, {"baseline": baseline}, first=0, rounds=0)
    rounds = train_defences(config, setting, chats, run) if config.chats else []
    found = {
        "start": red.model_figures(start.folder, requests, config.conditions, config),
        "tested": red.model_figures(start.folder, test, config.conditions, config),
        "trained": [
            {"share": share, **red.model_figures(one.folder, test, config.conditions, config)}
            for share, one in zip(config.shares, rounds, strict=False)
        ],
        "false alarms": red.false_alarms(setting.judges, requests, config.attempts),
    }
    write_json(run.artefacts / "results.json", found)
    write_red_team_report(run, config, found, [start, *rounds])


def attack_all(
    config: Config, setting: Setting, model: ModelOptions, requests: Sequence[Request], round: Round
) -> None:
    """Every condition on the requests, and the controls once, under a model; rows lie in the round's folder."""
    how = partial(
        Attack,
        target=Deferred(lambda: open_generator(model)),
        reformulator=setting.reformulator,
        sampling=Sampling(
            max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=config.seed
        ),
        system=config.system_prompt,
        keep_texts=config.keep_texts,
    )
    whole = how(judges=setting.judges, attempts=config.attempts, early_stop=config.early_stop)
    for condition in config.conditions:
        attack(round.folder, condition, requests, condition, whole)
    once = how(judges=[RuleJudge("rules_prefix")], attempts=1)
    for condition in control_conditions(setting.reformulator, setting.controls, config.conditions):
        attack(round.folder, f"controls-{condition}", setting.controls, condition, once)


def train_defences(config: Config, setting: Setting, chats: Sequence[Demonstration], run: Run) -> list[Round]:
    """A training of the start model for each share, a round each, and the attack on what came of it."""

    def records(round: Round) -> list[Demonstration]:
        asked = refused_texts(config, setting, round.state)
        share, size = config.shares[round.number - 1], config.defence_records
        return defence_records(asked, chats, share=share, size=size, refusal=config.refusal, seed=config.seed)

    def build(round: Round) -> None:
        """Counts alone: what is asked for is not written down."""
        made = records(round)
        refusals = sum(one.completion == config.refusal for one in made)
        write_json(round.path("build", ".json"), {"records": len(made), "refusals": refusals})

    def fit(round: Round) -> None:
        name = f"round-{round.number}/train"
        job = Job(objective=get_objective("sft"), options=config, run=run, records=records(round), name=name)
        round.write("history", train(job, round.folder / "model").history)

    def evaluate(round: Round) -> None:
        attack_all(config, setting, config.at(round.folder / "model"), setting.test, round)

    rounds = run_rounds(run, {"build": build, "fit": fit, "evaluate": evaluate}, rounds=len(config.shares))
    run.publish_model(rounds[-1].folder / "model")
    folders = [str(one.folder / "model") for one in rounds]
    write_json(run.artefacts / "checkpoints.json", dict(zip(map(str, config.shares), folders, strict=True)))
    return rounds


def refused_texts(config: Config, setting: Setting, state: dict[str, Any]) -> list[str]:
    """Reformulations into the past of the requests to train on, as many times over as the largest share needs."""
    if "asked" not in state:
        needed = max(config.shares) * config.defence_records
        times = min(config.attempts, math.ceil(needed / len(setting.training)))
        state["asked"] = [
            one.text
            for attempt in range(1, times + 1)
            for one in setting.reformulator.reformulate(setting.training, "past", attempt)
            if one.text is not None
        ]
    return state["asked"]
