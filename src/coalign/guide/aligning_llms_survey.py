"""A probe of a judge: what its verdicts depend on besides the answers, and a blind sheet for people.

Aligning Large Language Models with Human: A Survey (arXiv 2307.12966) orders the field by its process, from data over
training to evaluation, and says of judges that are language models that they agree with people on average, yet prefer a
place, long answers and their own style. This measures it for the judge that you have, before you trust its verdicts::

    coalign run aligning-llms-survey --data pairs.jsonl --endpoint http://127.0.0.1:8000/v1
    coalign run aligning-llms-survey --data pairs.jsonl --own my-model --sheet 50
    coalign run aligning-llms-survey --data pairs.jsonl --own my-model --sheet 50 --answers sheet.csv

The survey's map and its plan are `coalign advise --map process` and `coalign advise --plan`. It has no experiment and no
code: measures and their form are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.files import write_json, write_rows
from coalign.core.options import CountOrZero, Seed, option
from coalign.core.runs import Run
from coalign.guide.judges.probe import author_probe, error_probe, length_probe, order_probe
from coalign.guide.judges.report import write_probe_report
from coalign.guide.judges.sheet import draw_sheet, read_sheet, write_sheet
from coalign.judging.items import ItemSet
from coalign.judging.options import JudgeOptions, make_judge
from coalign.judging.protocol import Choice, JudgeItem, PairVerdict, check_failures
from coalign.judging.run import ItemOptions, items_of, pair_results, verdict_row
from coalign.training.distributed.leading import led


@dataclass(kw_only=True)
class Config(ItemOptions, JudgeOptions):
    """Options of `coalign run aligning-llms-survey`."""

    __group__ = "Method"

    own: str | None = option(
        None, "the judge's name among the authors, to see whether it prefers its own answers"
    )
    author_columns: list[str] = option(
        ["model_a", "model_b"], "the two columns that say who wrote each response", only_with="own"
    )
    sheet: CountOrZero = option(0, "pairs to write, blind and shuffled, into a sheet for people")
    answers: Path | None = option(
        None, "the sheet as people filled it in (the same --sheet and --seed)", only_with="sheet"
    )
    seed: Seed = option(0, "of the sheet and of the bootstrap intervals")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.author_columns) != 2:
            raise ValueError(f"author_columns: {len(self.author_columns)} columns, expected two")
        if self.judge != "model":
            raise ValueError(f"judge: {self.judge} sees neither order nor length: there is nothing to probe")


@led
def run(config: Config, run: Run) -> None:
    """Judge every pair in both orders, probe the verdicts, write the sheet, compare with what people said, report.

    Raises:
        DataError: the file holds no pairs, or a filled sheet cannot be read.
        ConfigError: no response of the judge itself is among them.
        CoalignError: too many verdicts are missing; the replies are kept.
    """
    found = items_of(config, run)
    if found.kind != "pairs":
        raise ConfigError(f"{config.data}: {found.recognised}, expected pairs of responses.")
    _assert_authors(config, found.items)
    labels = _with_sheet(config, run, found)
    judge = make_judge(config, run)
    comparisons = judge.compare(found.items, rubric=config.rubric, label="Judging in both orders")
    write_rows(run.artefacts / "verdicts.jsonl", map(verdict_row, comparisons, labels))
    check_failures(comparisons, limit=config.max_failures)
    results = probed(found.items, comparisons, labels, config)
    write_json(run.artefacts / "results.json", results)
    write_probe_report(run, config, found, comparisons, labels, results)


def probed(
    items: Sequence[JudgeItem],
    comparisons: Sequence[PairVerdict],
    labels: Sequence[Sequence[Choice]],
    config: Config,
) -> dict[str, Any]:
    """Every probe, and the usual figures of compared pairs."""
    own = None
    if config.own is not None:
        own = author_probe(
            items, comparisons, labels, lambda one: authors(one, config), config.own, seed=config.seed
        )
    return {
        "order": order_probe(comparisons),
        "length": length_probe(items, comparisons, seed=config.seed),
        "own": own,
        "errors": error_probe(comparisons, labels),
        "pairs": pair_results(comparisons, labels, seed=config.seed),
    }


def authors(item: JudgeItem, config: Config) -> tuple[str | None, str | None]:
    """Who wrote the two responses; None where the row does not say."""
    first, second = (item.extra.get(name) for name in config.author_columns)
    return (None if first is None else str(first)), (None if second is None else str(second))


def _assert_authors(config: Config, items: Sequence[JudgeItem]) -> None:
    if config.own is None:
        return
    names = sorted({name for item in items for name in authors(item, config) if name is not None})
    if config.own not in names:
        shown = f"they name {', '.join(names[:10])}" if names else "no row has them"
        raise ConfigError(
            f"--own {config.own}: no response is by it in the columns {', '.join(config.author_columns)}; {shown}."
        )


def _with_sheet(config: Config, run: Run, found: ItemSet) -> Sequence[tuple[Choice, ...]]:
    """The labels of the file, with those of a filled sheet; the sheet is written where one is wanted."""
    if not config.sheet:
        return found.labels
    drawn = draw_sheet(found.items, config.sheet, config.seed)
    write_sheet(drawn, run.artefacts / "sheet.csv", run.artefacts / "sheet-key.json")
    if config.answers is None:
        return found.labels
    said = read_sheet(config.answers, {item.id: swapped for item, swapped in drawn})
    run.log("sheet", pairs=len(drawn), answered=len(said))
    return [
        (*labels, said[item.id]) if item.id in said else labels
        for item, labels in zip(found.items, found.labels, strict=True)
    ]
