"""Filter a corpus: steps from a command line or a YAML file over records of any size, with a reason for every loss.

    coalign run curate --data corpus.jsonl --steps "exact, near, length min=5 max=400, quality, top by=quality share=0.1"
    coalign run curate --data corpus.jsonl --steps recipe.yaml --model google/gemma-3-270m-it

The steps are `exact`, `near`, `novel`, `template`, `diverse` and `distinct` (duplicates), `length`, `match`, `verify` and
`above` (filters), `quality`, `judge` and `anchors` (scores), `label` (kinds, by votes of a model), `rewrite` (by a model),
`top`, `mix`, `sample` and `take` (selection) and `pair` (preferences). They stream: memory is bounded by a batch, and by a few bytes a record where a step has to see all.
A run that is killed goes on at the batch that is missing, with the same result. In the run folder are then `kept.jsonl`,
which other commands take as `--data RUN`, `rejects.jsonl` with step and reason of every other record, and `manifest.jsonl`
with what each step noted of a kept one. Near duplicates need the extra `overlap`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coalign.core.engines.options import EngineOptions
from coalign.core.errors import CoalignError
from coalign.core.options import Count, option, required
from coalign.core.runs import Run
from coalign.data.records import Kind
from coalign.judging.options import JudgeOptions, assert_judge_spreads
from coalign.loops.curation.named_steps import Context, NamedStep
from coalign.loops.curation.recipe import make_steps, parse_recipe
from coalign.loops.steps.usual import NOT_SCORABLE
from coalign.training.distributed.leading import led

ARTEFACT = "curation"
"""Folder of the artefacts that the pipeline works in."""


@dataclass(kw_only=True)
class Config(JudgeOptions, EngineOptions):
    """Options of `coalign run curate`."""

    __group__ = "Method"

    data: list[str] = required(
        "records: a file, a folder or a glob of files, a hub id, a run folder; given several times they are read one after the "
        "other, with a column `source`",
        split=False,
    )
    steps: list[Any] = required(
        "the steps in order: names with their arguments, separated by commas, or a YAML file of them"
    )
    text_column: str | None = option(
        None, "the column that is the text of a record; by default all that hold prompt, response or text"
    )
    kind: Kind | None = option(None, "what the records are, where their columns allow more than one kind")
    unfold: bool = option(
        False, "read a row with several responses (`coalign generate --samples 5`) as one record a response"
    )
    limit: Count | None = option(None, "read only so many records, of each source")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail", "stop at rows that cannot be read, or reject them and go on"
    )
    examples: Count = option(12, "rejected records shown in the report, one a reason")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(one.asks for one in self.recipe):
            self.refuse(JudgeOptions, "without a step judge, anchors, label or rewrite")
            self.refuse(EngineOptions, "without a step judge, anchors, label or rewrite")
        if self.engine == "ray":
            self.refuse(["worker_rows"], "here: steps have batches of their own")
            assert_judge_spreads(self)

    @property
    def recipe(self) -> list[NamedStep]:
        """The steps as they were asked for."""
        return parse_recipe(self.steps)


@led
def run(config: Config, run: Run) -> None:
    """Send the records through the steps, and report.

    Raises:
        DataError: records that cannot be read.
        CoalignError: a record without a column that a step needs, or a judge that fails too often.
    """
    from coalign.judging.options import make_judge
    from coalign.loops.curation.by_workers import Workers
    from coalign.loops.curation.corpus import Corpus
    from coalign.loops.curation.report import write_curation_report
    from coalign.loops.pipeline import run_pipeline

    corpus = Corpus(
        config.data, config.text_column, config.kind, config.on_bad_record, config.limit, config.unfold
    )
    context = Context(corpus, config, lambda: make_judge(config, run))
    steps = make_steps(config.recipe, context)
    spread = None
    if config.engine == "ray":
        spread = Workers(config.recipe, corpus, JudgeOptions.of(config), EngineOptions.of(config))
        run.log("engine", note=spread.describe(steps))
        print(spread.describe(steps), file=sys.stderr, flush=True)
    if config.on_bad_record == "skip":
        steps = [corpus.readable, *steps]
    _ = corpus.columns  # what is wrong with the data is said before a model is loaded
    done = run_pipeline(run.artefacts / ARTEFACT, corpus, steps, spread=spread)
    _assert_judged(config, done.manifest)
    run.publish_records(done.kept)
    write_curation_report(run, config, done, corpus)


def _assert_judged(config: Config, manifest: Mapping[str, Any]) -> None:
    """Refuse a judge that failed on too many of the records: what it kept is not what it was asked for.

    Raises:
        CoalignError: it did.
    """
    for step in manifest["steps"]:
        failed = sum(count for why, count in step["rejected"].items() if why.startswith(NOT_SCORABLE))
        if failed > config.max_failures * step["in"]:
            raise CoalignError(
                f"{step['name']}: {failed} of {step['in']} records have no score: "
                + ", ".join(f"{why} ({count})" for why, count in step["rejected"].items())
                + ".",
                hint="Every reply is kept. Use a judge that answers in the form, or raise --max-failures and run this again.",
            )
