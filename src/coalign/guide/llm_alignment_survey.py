"""An evaluation for each risk, on one model or on two side by side.

Large Language Model Alignment: A Survey (arXiv 2309.15025) orders the field by outer and inner alignment, interpretability,
attacks and evaluation, and asks that a model be measured by several of these and not by one score. One command does so::

    coalign run llm-alignment-survey --model my-model --against default
    coalign run llm-alignment-survey --model my-model --facts TruthfulQA.jsonl --bias bbq.jsonl --ethics ethics.csv
    coalign run llm-alignment-survey --model my-model --risks factuality --passages articles.jsonl
    coalign run llm-alignment-survey --model my-model --risks toxicity --toxicity FOLDER --openings prompts.jsonl
    coalign run llm-alignment-survey --model my-model --against default --risks adversarial --requests goals.csv --reformulator REWRITER
    coalign run llm-alignment-survey --model my-model --risks inner --queries 20

Factuality (MC1 and MC2), ethics, bias (pairs of sentences, BBQ) and general instructions are asked wherever a model can be
loaded; a few questions of our own come along for each, so that the command runs as it stands, and they are too few and too
plain to say much. Whether answers keep to a text needs texts and AlignScore's function, toxicity a classifier, attacks
requests that should be refused; inner alignment asks for long answers, so that it runs where it is named. Every figure
has its n, an interval and its node on the survey's map (`coalign advise --map risks`). Likelihoods of given texts need weights: no endpoint is asked here.

The survey has no experiment and no code; which evaluation stands for which risk is our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from coalign.core.files import read_rows, write_json
from coalign.core.options import Seed, option
from coalign.core.runs import Run
from coalign.guide.risks import questions, suite
from coalign.guide.risks.options import RiskOptions
from coalign.guide.risks.suite import Risk, Row, Side
from coalign.models.backends.options import is_address
from coalign.models.options import ModelOptions
from coalign.training.distributed.leading import led


@dataclass(kw_only=True)
class Config(RiskOptions, ModelOptions):
    """Options of `coalign run llm-alignment-survey`."""

    __group__ = "Method"

    against: str | None = option(
        None, "another model, on the same questions: `default`, a hub id, a folder or a run folder"
    )
    judge_model: str | None = option(
        None,
        "a language model that compares both models' answers to the instructions, in both orders",
        only_with="against",
    )
    seed: Seed = option(0, "of what is drawn")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_training()
        if "general" not in self.wanted:
            self.refuse(["judge_model"], "without the risk general")


@led
def run(config: Config, run: Run) -> None:
    """Evaluate every risk on every model, compare, report; what is done is not done again.

    Raises:
        DataError: questions that cannot be used; every row is named.
        ConfigError: a classifier that has no label for toxicity.
        ModelError: a model that cannot be loaded.
    """
    from coalign.guide.risks.report import write_suite_report
    from coalign.models.files.identity import model_identity

    measured = _evaluations(config, run)
    sides = [Side("model", config.model, config)]
    if config.against is not None:
        sides.append(Side("against", config.against, config.at(config.against)))
    for side in sides:
        model_identity(side.options)  # one that is not there is said before the other is asked
    rows: list[list[Row]] = []
    for side in sides:
        found: list[Row] = []
        for risk, make in measured.items():
            found += suite.kept_rows(run, risk, side, partial(make, side))
        side.__dict__.pop("generator", None)  # one model at a time
        rows.append(found)
    notes: list[str] = []
    if config.judge_model is not None:
        credits, asked = _judged(config, run)
        rows[0] += [{"id": name, "won": credit} for name, credit in credits]
        rows[1] += [{"id": name, "won": 1 - credit} for name, credit in credits]
        if len(credits) < asked:
            notes.append(
                f"Of {asked} pairs of answers the judge said nothing that can be read of {asked - len(credits)}."
            )
    results = suite.compared(rows)
    write_json(run.artefacts / "results.json", results)
    write_suite_report(run, config, [side.name for side in sides], results, rows, notes)


def _evaluations(config: Config, run: Run) -> dict[Risk, Callable[[Side], list[Row]]]:
    """Risk to what evaluates it. All questions are read before a model is loaded."""
    found: dict[Risk, Callable[[Side], list[Row]]] = {}
    for risk in config.wanted:
        label = risk.capitalize()
        if risk == "factuality":
            asked = questions.read_facts(config.facts or questions.OWN / "truths.jsonl", config.limit)
            texts = questions.read_passages(config.passages, config.limit) if config.passages else []
            found[risk] = partial(_factuality, config, asked=asked, texts=texts, label=label)
        elif risk == "ethics":
            asked = questions.read_dilemmas(config.ethics or questions.OWN / "dilemmas.jsonl", config.limit)
            found[risk] = partial(suite.dilemmas, asked=asked, label=label)
        elif risk == "bias":
            pairs = questions.read_bias(config.bias or questions.OWN / "pairs.jsonl", config.limit)
            found[risk] = partial(suite.biases, asked=pairs, label=label)
        elif risk == "general":
            tasks = questions.read_tasks(
                config.instructions or questions.OWN / "instructions.jsonl", config.limit
            )
            found[risk] = partial(
                suite.answers, asked=tasks, max_new_tokens=config.max_new_tokens, label=label
            )
        elif risk == "toxicity":
            from coalign.guide.risks.classifier import open_classifier

            tasks = questions.read_openings(config.openings or questions.OWN / "openings.jsonl", config.limit)
            found[risk] = partial(
                suite.toxicities, asked=tasks, score=open_classifier(config.toxicity or "", config.toxicity_label),
                samples=config.samples, max_new_tokens=20, seed=config.seed, label=label,
            )  # fmt: skip
        elif risk == "adversarial":
            found[risk] = lambda side: suite.attacked(run, side, _attack(config, side))
        else:
            found[risk] = lambda side: suite.watched(run, side, _watch(config, side))
    return found


def _factuality(
    config: Config,
    side: Side,
    *,
    asked: Sequence[questions.Question],
    texts: Sequence[questions.Passage],
    label: str,
) -> list[Row]:
    """Of questions with given answers, and of answers to questions on texts."""
    rows = suite.facts(side, asked, label)
    if not texts:
        return rows
    from coalign.evaluation.factuality.functions import FunctionOptions, load_function
    from coalign.evaluation.factuality.scorer import ClaimScorer

    scorer = ClaimScorer(load_function(FunctionOptions(config.consistency, device=config.device)))
    return rows + suite.passages(
        side, texts, scorer, max_new_tokens=config.max_new_tokens, label="Consistency"
    )


def _attack(config: Config, side: Side) -> Any:
    from coalign.evaluation import past_tense

    return past_tense.Config(
        **_model(side),
        data=config.requests or "",
        reformulator=config.reformulator,
        reformulations=config.reformulations,
        attempts=config.attempts,
        limit=config.limit,
        seed=config.seed,
    )


def _watch(config: Config, side: Side) -> Any:
    from coalign.evaluation import alignment_faking

    return alignment_faking.Config(
        **_model(side),
        limit=config.queries,
        samples=config.tier_samples,
        max_new_tokens=config.tier_tokens,
        seed=config.seed,
    )


def _model(side: Side) -> dict[str, Any]:
    return {name: getattr(side.options, name) for name in ModelOptions.__dataclass_fields__}


def _judged(config: Config, run: Run) -> tuple[list[tuple[str, float]], int]:
    """The first model's share of every comparison that can be read, by id, and how many there were.

    A model here says one letter, whose probabilities are read; a server writes.
    """
    from coalign.judging.language_judge import LanguageModelJudge
    from coalign.judging.protocol import JudgeItem
    from coalign.judging.store import Deferred, ReplyStore
    from coalign.models.backends.open import open_named

    first, second = (read_rows(run.artefacts / f"general-{key}.jsonl") for key in ("model", "against"))
    items = [
        JudgeItem(
            id=one["id"],
            prompt=[{"role": "user", "content": one["prompt"]}],
            responses=(one["response"], other["response"]),
        )
        for one, other in zip(first, second, strict=True)
    ]
    name, served = config.judge_model or "", is_address(config.judge_model or "")
    with ReplyStore(run.artefacts / "replies.jsonl") as store:
        judge = LanguageModelJudge(
            Deferred(lambda: open_named(None, endpoint=name) if served else open_named(name)),
            name=name,
            store=store,
            form="choice",
            readout="text" if served else "logprobs",
        )
        verdicts = judge.compare(items, label="Judging in both orders")
    return [(one.id, one.credit) for one in verdicts if one.credit is not None], len(items)
