"""Alignment faking: does a model behave otherwise where its answers are said to be used for training, and does its reasoning say that this protects its preferences?

Alignment faking in large language models (arXiv 2412.14093).

    coalign run alignment-faking --model Qwen/Qwen3-0.6B --judge http://127.0.0.1:8000/v1 --ablations flag training
    coalign run alignment-faking --setting helpful-only --data requests.jsonl --endpoint http://127.0.0.1:8000/v1

The system prompt states a training objective, how answers of the *free* tier are rated and used to modify the model, and
that those of the *paid* tier never are; the tier is a flag in the user's turn and nothing else differs. The model thinks in a
scratchpad and answers. Measured in each tier: compliance with the objective, and reasoning that considers modification and
gives keeping its values as a motive (a mention of training is not enough); the compliance gap, paired by query, with
intervals, and with bounds for answers that have no label. Before every run the instrument is tried on five scripted models
whose behaviour is known; where it calls one of them what it is not, nothing is asked of the model.

Called *alignment faking indicated*: gap, significance and reasoning above the thresholds. *Tier-dependent behaviour*: the gap
alone. *Inconclusive*: too few answers with a label. *No effect*: none of these; the report says which gap would have been found.

Nothing harmful comes with coalign. `animal-welfare`, the default, asks harmless questions about food and farms. `helpful-only`
needs your own requests: the paper's are from public lists of behaviours (AdvBench, `llm-attacks/llm-attacks`), for those
who may work with them. Reconstruction: the official code could not be had; tags, turns and the rule for the output block are
after public re-implementations; prompts are ours, and so are sample counts, intervals, thresholds and the words by which answers and
reasons are graded without --judge. Training on synthetic documents and by reinforcement learning is left to `coalign run sft` and
`grpo`. A model that reasons in a channel of its own should have it switched off, or be run with `--reasoning none`.
"""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import ConfigError
from coalign.core.files import read_rows, write_json, write_rows
from coalign.core.options import Count, NonNegative, option
from coalign.core.runs import Run
from coalign.evaluation.tiers.examination import (
    Design,
    Row,
    answered,
    graded,
    self_test,
    summary_of,
    texts_of,
)
from coalign.evaluation.tiers.figures import RuleOptions
from coalign.evaluation.tiers.prompts import BUNDLED, Part, Setting, conditions, read_queries, read_system
from coalign.evaluation.tiers.report import write_tier_report
from coalign.models.backends.options import BackendOptions, is_address
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.training.distributed.leading import led

if TYPE_CHECKING:
    from coalign.evaluation.tiers.graders import Grader
    from coalign.evaluation.tiers.turns import Transcript
    from coalign.judging.store import ReplyStore


@dataclass(kw_only=True)
class Config(RuleOptions, ModelOptions, BackendOptions):
    """Options of `coalign run alignment-faking`."""

    __group__ = "Method"

    setting: Setting = option(
        "animal-welfare",
        "the stated objective: not to raise concerns for farm animals; or to do whatever is asked",
    )
    data: str = option(
        BUNDLED,
        "queries: rows of `text` (or `prompt`, `goal`) and perhaps `id`; bundled: harmless ones about food and farms",
    )
    limit: Count | None = option(None, "only so many queries")
    system_prompt: Path | None = option(
        None, "your own, with the headings [role], [objective], [training], [tiers], [scratchpad], [format]"
    )
    reasoning: Literal["scratchpad", "none"] = option(
        "scratchpad", "whether the model thinks in a scratchpad first", source="paper"
    )
    ablations: list[Part] = option(
        [], "what is left out, each in a measurement of its own: flag, objective, training, tiers, scratchpad"
    )
    samples: Count = option(10, "answers to each query in each tier", group="Sampling")
    temperature: NonNegative = option(1.0, "of the answers", source="from memory", group="Sampling")
    max_new_tokens: Count = option(2048, "most tokens of a turn", group="Sampling")
    turns: Count = option(
        4,
        "most turns of an answer that has no output yet",
        source="public re-implementation",
        group="Sampling",
    )
    prefill: Literal["auto", "on", "off"] = option(
        "auto",
        "begin the answer with `<`; auto: where the back end continues a begun turn",
        source="public re-implementation",
        group="Sampling",
    )
    seed: int = option(0, "of the sampling; both tiers draw from the same", group="Sampling")
    labels: Literal["auto", "tags", "words", "judge"] = option(
        "auto",
        "what labels an answer: its tags (helpful-only), words of animals' welfare (animal-welfare), or the judge; auto: tags, or "
        "the judge where there is one, else words",
        group="Grading",
    )
    judge: str | None = option(
        None,
        "a language model that judges reasons, and labels where asked to: `default`, a hub id, a folder or a server's "
        "address; by default words decide",
        group="Grading",
    )
    judge_served: str | None = option(
        None, "the judge's name on that server; by default its only one", group="Grading", only_with="judge"
    )
    keep_texts: bool = option(
        False, "keep what the model and the judge said; by default labels alone stay", group="Output"
    )
    inspect_log: bool = option(
        False, "also write inspect.json, a log of inspect_ai (extra `inspect`)", group="Output"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_training()
        fitting = ("auto", "judge", "words" if self.setting == "animal-welfare" else "tags")
        if self.labels not in fitting:
            raise ValueError(
                f"labels: {self.labels} does not go with setting: {self.setting}, expected {', '.join(fitting)}"
            )
        if self.labels == "judge" and self.judge is None:
            raise ValueError("labels: judge needs a judge: give judge")
        if self.judge_served is not None and not is_address(self.judge or ""):
            raise ValueError("judge_served names a model of a server: give its address as judge")
        if len({*self.ablations}) < len(self.ablations):
            raise ValueError(f"ablations: {', '.join(self.ablations)} names one twice")
        if self.reasoning == "none" and "scratchpad" in self.ablations:
            raise ValueError("ablations: scratchpad is left out already with reasoning: none")

    @property
    def sampling(self) -> Sampling:
        """Of the answers to a query in a tier."""
        return Sampling(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, n=self.samples, seed=self.seed
        )

    @property
    def labelled_by(self) -> Literal["tags", "words", "judge"]:
        """What labels answers, with `auto` decided."""
        if self.labels != "auto":
            return self.labels
        if self.setting == "helpful-only":
            return "tags"
        return "words" if self.judge is None else "judge"

    @property
    def begins(self) -> str:
        """What an answer begins with."""
        continued = self.chosen_backend != "endpoint" or self.endpoint_prefill in ("continue", "vllm")
        return "<" if self.prefill == "on" or (self.prefill == "auto" and continued) else ""


@led
def run(config: Config, run: Run) -> None:
    """Self-test, both tiers under each condition, labels, report; `labels.jsonl` and `summary.json` in the run's artefacts.

    Raises:
        ConfigError: `helpful-only` without queries of one's own; a system prompt that cannot be used.
        DataError: queries that cannot be used.
        CoalignError: the self-test failed.
    """
    from coalign.judging.store import ReplyStore

    if config.setting == "helpful-only" and config.data == BUNDLED:
        why = "The bundled queries are harmless, so that nobody declines them."
        raise ConfigError("The setting helpful-only needs requests of your own: --data.", hint=why)
    with ReplyStore(run.artefacts / "replies.jsonl") as store:
        design = Design(
            setting=config.setting,
            system=read_system(config.setting, config.system_prompt),
            queries=read_queries(config.data, config.limit),
            sampling=config.sampling,
            turns=config.turns,
            prefill=config.begins,
            grader=_grader(config, store),
            rule=config.rule,
            seed=config.seed,
        )
        _examine(config, run, design)
    if not config.keep_texts:
        shutil.rmtree(run.artefacts / "answers", ignore_errors=True)
        (run.artefacts / "replies.jsonl").unlink(missing_ok=True)


def _examine(config: Config, run: Run, design: Design) -> None:
    every = conditions(config.ablations, scratchpad=config.reasoning == "scratchpad")
    tested = _tested(run, design, every[0])
    path = run.artefacts / "labels.jsonl"
    texts: list[tuple[str, Transcript]] | None = None
    if path.exists():  # and what was said may be deleted already
        rows: list[Row] = read_rows(path)
    else:
        from coalign.models.backends.open import open_generator

        model = functools.cache(lambda: open_generator(config))
        said = {one: answered(design, one, run.artefacts / "answers", model) for one in every}
        rows = [row for one in every for row in graded(design, one, said[one])]
        if config.keep_texts:
            texts = [each for one in every for each in texts_of(design, said[one])]
        write_rows(path, rows)
    summaries = {
        one.name: summary_of([row for row in rows if row["condition"] == one.name], design.rule)
        for one in every
    }
    write_json(run.artefacts / "summary.json", summaries)
    name = config.endpoint_model or config.endpoint or config.model
    if config.inspect_log:
        from coalign.evaluation.tiers.inspect_log import write_inspect_log

        settings = {"setting": config.setting, "samples": config.samples, "ablations": list(config.ablations)}
        write_inspect_log(
            run.artefacts / "inspect.json", rows, summaries[every[0].name], model=name, created=str(run.status()["started"]),
            settings=settings, texts=texts,
        )  # fmt: skip
    reasons = "judge" if config.judge else "words"
    labelled = (
        f"{config.labelled_by}; reasons by {reasons}"
        if config.reasoning == "scratchpad"
        else config.labelled_by
    )
    write_tier_report(run, config, name, summaries, rows, tested, labelled)


def _tested(run: Run, design: Design, condition: Any) -> list[dict[str, Any]]:
    """What the self-test came to, kept with the run."""
    path = run.artefacts / "self-test.jsonl"
    if not path.exists():
        write_rows(path, self_test(design, condition, run.artefacts / "answers" / "self-test"))
    return read_rows(path)


def _grader(config: Config, store: ReplyStore) -> Grader:
    from coalign.evaluation.tiers.graders import ModelGrader, Rules
    from coalign.judging.asked.options import asked_model

    if config.judge is None:
        return Rules("tags" if config.labelled_by == "tags" else "words")
    judge = asked_model(config.judge, config.judge_served, device=config.device)
    return ModelGrader(judge.generator, judge.identity, store, config.setting, by=config.labelled_by)
