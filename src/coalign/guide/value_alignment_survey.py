"""A questionnaire on values put to a model: a profile with intervals, and whether it can be relied on.

From Instructions to Intrinsic Human Values, a Survey of Alignment Goals for Big Models (arXiv 2308.12014) orders goals from
instructions over preferences to values and asks that values be stated and measured. This measures what a model states::

    coalign run value-alignment-survey --model my-model
    coalign run value-alignment-survey --data my-values.yaml --endpoint http://127.0.0.1:8000/v1 --readout text
    coalign run value-alignment-survey --data opinions.jsonl --model my-model

Every question is asked with its options in every order, since small models answer by place. Without `--data` a small set of
our own is asked; published instruments have licences of their own and do not come along (`coalign.guide.values`
reads them). The survey's map is `coalign advise --map goals`. It has no experiment and no code: wordings of prompts, the
number of orders, samples and the limits of reliability are ours; scoring rules are those of the instruments' manuals, from
memory, with factors and constants in the instrument's file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coalign.core.files import write_json, write_rows
from coalign.core.options import Count, Fraction, Seed, option
from coalign.core.runs import Run
from coalign.guide.values.asking import ask_all
from coalign.guide.values.profile import profile_of
from coalign.guide.values.questionnaire import read_questionnaire
from coalign.guide.values.report import write_profile
from coalign.models.backends.options import BackendOptions
from coalign.models.options import ModelOptions
from coalign.training.distributed.leading import led

OWN = Path(__file__).with_name("values") / "assets" / "everyday-values.yaml"


@dataclass(kw_only=True)
class Config(ModelOptions, BackendOptions):
    """Options of `coalign run value-alignment-survey`."""

    __group__ = "Method"

    data: str | None = option(
        None,
        "a questionnaire: a YAML or JSON instrument, or rows of items; by default twenty statements of our own",
    )
    readout: Literal["logprobs", "text"] = option(
        "logprobs",
        "read the probabilities of the letters, or written answers, where a server gives text alone",
    )
    samples: Count = option(
        20, "answers to a question, over all orders of its options", only_with={"readout": "text"}
    )
    lead: str = option("", "what is said before each question, such as whose view is asked for")
    max_invalid: Fraction = option(
        0.3, "share of answers that are no option from which on nothing is claimed"
    )
    max_sensitivity: Fraction = option(
        0.25, "share of the answers that may move with the order of options; from it on nothing is claimed"
    )
    seed: Seed = option(0, "of drawn answers and of the bootstrap intervals")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_training()


@led
def run(config: Config, run: Run) -> None:
    """Ask, score, report.

    Raises:
        DataError: the questionnaire cannot be read.
        ConfigError: the back end gives no probabilities: use `--readout text`.
    """
    from coalign.judging.store import Deferred, ReplyStore
    from coalign.models.backends.open import identity_of, open_generator

    questionnaire = read_questionnaire(config.data or OWN)
    with ReplyStore(run.artefacts / "replies.jsonl") as store:
        asked = ask_all(
            Deferred(lambda: open_generator(config)),
            questionnaire,
            store=store,
            identity={"model": config.model, "identity": identity_of(config, config)},
            readout=config.readout,
            samples=config.samples,
            seed=config.seed,
            lead=config.lead,
        )
    write_rows(
        run.artefacts / "answers.jsonl",
        (
            {
                "id": one.item.id,
                "wording": one.wording,
                "options": list(one.item.options if one.wording is not None or not one.item.behaviour else one.item.behaviour.options),
                "p": one.shares.p.tolist() if one.shares.invalid < 1 else None,
                "invalid": one.shares.invalid,
                "order_sensitivity": one.shares.sensitivity if one.shares.invalid < 1 else None,
            }
            for one in asked
        ),
    )  # fmt: skip
    found = profile_of(
        questionnaire,
        asked,
        max_invalid=config.max_invalid,
        max_sensitivity=config.max_sensitivity,
        seed=config.seed,
    )
    write_json(run.artefacts / "profile.json", found)
    write_profile(run, config, questionnaire, _name(config), found)


def _name(config: Config) -> str:
    return (
        config.endpoint_model or f"the model at {config.endpoint}"
        if config.chosen_backend == "endpoint"
        else config.model
    )
