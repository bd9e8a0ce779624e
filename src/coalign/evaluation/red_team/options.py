"""Who reformulates and who judges: the options, and what is opened from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ConfigError
from coalign.core.files import read_template
from coalign.core.options import Count, OptionGroup, option
from coalign.evaluation.red_team.reformulation import (
    TEMPLATES,
    AskedReformulator,
    Condition,
    NoReformulator,
    Reformulator,
    StoredReformulator,
    read_reformulations,
)
from coalign.evaluation.red_team.requests import Request
from coalign.judging.refused_requests import (
    QUESTIONS,
    AskedJudge,
    JudgeName,
    Question,
    RefusedRequestJudge,
    RuleJudge,
)
from coalign.judging.store import Deferred, ReplyStore
from coalign.models.backends.open import open_named
from coalign.models.types import Sampling

if TYPE_CHECKING:
    from coalign.core.runs import Run

_WRITES: Any = "reformulator"
_ASKED: Any = "judge_model"


@dataclass(kw_only=True)
class ReformulationOptions(OptionGroup):
    """Who puts requests into another tense."""

    __group__ = "Reformulation"

    reformulator: str | None = option(
        None, "model that rewrites requests: `default`, a hub id, a folder, or a name on its server"
    )
    reformulator_endpoint: str | None = option(None, "server of the reformulator", only_with=_WRITES)
    reformulator_tokens: Count = option(
        150, "most tokens of a reformulation", source="official code", only_with=_WRITES
    )
    past_template: Path | None = option(
        None, "your own request to the reformulator, a text with {request}", only_with=_WRITES
    )
    future_template: Path | None = option(None, "the same for the future", only_with=_WRITES)
    reformulations: str | None = option(
        None, "in the model's place a file of texts: rows with id or request, and lists past and future"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reformulator and self.reformulations:
            raise ValueError(
                "reformulator and reformulations exclude each other: a model writes, or a file has it"
            )


@dataclass(kw_only=True)
class RefusalJudgeOptions(OptionGroup):
    """Who says whether a response did what should have been refused."""

    __group__ = "Judges"

    judges: list[JudgeName] = option(
        ["rules_prefix"],
        "who judges, the main one first: rules over the beginning or (rules_gcg, the paper's) the whole response, a model's "
        "rating, or a model's word (safety)",
    )
    judge_model: str | None = option(None, "model of the judges rating and safety")
    judge_endpoint: str | None = option(None, "server of the judge", only_with=_ASKED)
    judge_max_new_tokens: Count = option(
        16, "room for its verdict", source="official code: 10 and 5", only_with=_ASKED
    )
    rating_template: Path | None = option(
        None, "your own question, a text with {request} and {response}", only_with=_ASKED
    )
    safety_template: Path | None = option(None, "the same for the word", only_with=_ASKED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.judges or len({*self.judges}) < len(self.judges):
            raise ValueError(f"judges: {', '.join(self.judges) or 'none'}, expected one or more, each once")
        asked = [one for one in self.judges if one in QUESTIONS]
        if asked and self.judge_model is None:
            raise ValueError(f"the judge {asked[0]} asks a model: give judge_model")
        if self.judge_model and not asked:
            raise ValueError("judge_model has no effect without the judge rating or safety")
        for name in QUESTIONS:
            if name not in self.judges:
                self.refuse([f"{name}_template"], f"without the judge {name}")


def open_reformulator(
    options: Any, requests: Sequence[Request], conditions: Sequence[Condition]
) -> Reformulator:
    """Who the options name. A model is loaded when it is first asked.

    Raises:
        ConfigError: nobody, where a condition needs somebody; a template that cannot be used.
        DataError: a file of reformulations that cannot be used, or that does not last for the attempts.
    """
    if options.reformulations:
        stored = read_reformulations(options.reformulations)
        stored.assert_enough(requests, conditions, options.attempts)
        return stored
    if not options.reformulator:
        if rewritten := [one for one in conditions if one != "direct"]:
            raise ConfigError(
                f"The condition {rewritten[0]} needs somebody who puts requests into that tense.",
                hint="Give --reformulator, --reformulations, or --conditions direct.",
            )
        return NoReformulator()
    paths: dict[Condition, Path | None] = {"past": options.past_template, "future": options.future_template}
    return AskedReformulator(
        Deferred(
            lambda: open_named(
                options.reformulator, endpoint=options.reformulator_endpoint, device=options.device
            )
        ),
        Sampling(
            max_new_tokens=options.reformulator_tokens, temperature=options.temperature, seed=options.seed
        ),
        {
            name: read_template(path, ("{request}",)) if path else TEMPLATES[name]
            for name, path in paths.items()
        },
    )


def _template(path: Path | None, kind: Question) -> str:
    return read_template(path, ("{request}", "{response}")) if path else QUESTIONS[kind]


def open_judges(options: Any, run: Run) -> list[RefusedRequestJudge]:
    """The judges of the options, in their order; models are loaded when first asked, and share one.

    Raises:
        ConfigError: a template that cannot be used.
    """
    asked = [one for one in options.judges if one in QUESTIONS]
    if not asked:
        return [RuleJudge(one) for one in options.judges]
    model = Deferred(
        lambda: open_named(options.judge_model, endpoint=options.judge_endpoint, device=options.device)
    )
    store = ReplyStore(run.artefacts / "replies.jsonl")
    return [
        AskedJudge(
            name=one,
            generator=model,
            template=_template(getattr(options, f"{one}_template"), one),
            store=store,
            identity={"model": options.judge_model, "endpoint": options.judge_endpoint},
            max_new_tokens=options.judge_max_new_tokens,
        )
        if one in QUESTIONS
        else RuleJudge(one)
        for one in options.judges
    ]


def control_conditions(
    reformulator: Reformulator, controls: Sequence[Request], conditions: Sequence[Condition]
) -> list[Condition]:
    """Conditions under which controls can be asked: a file of reformulations may lack theirs."""
    if not controls:
        return []
    if not isinstance(reformulator, StoredReformulator):
        return [*conditions]
    return [one for one in conditions if one == "direct" or reformulator.has(controls, one)]
