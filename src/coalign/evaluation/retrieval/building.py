"""Building pairs: options, passages for questions, judges and models by name, and the steps in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import write_rows
from coalign.core.options import Count, NonNegative, OptionGroup, Seed, option
from coalign.core.runs import Run
from coalign.data.passages import Passage, read_passages
from coalign.data.questions import Question, read_questions
from coalign.evaluation.retrieval.labelling import answered, drawn_pairs, scored
from coalign.evaluation.retrieval.pairs import CATEGORIES, Category, pair_row
from coalign.evaluation.retrieval.report import write_building_report
from coalign.evaluation.retrieval.scenarios import make_tasks
from coalign.judging.options import JudgeOptions, language_judge, open_store
from coalign.models.types import Sampling

if TYPE_CHECKING:
    from coalign.judging.protocol import Judge
    from coalign.judging.store import ReplyStore
    from coalign.models.types import Generator

_BUILD: Any = {"mode": "build"}


@dataclass(kw_only=True)
class BuildingOptions(OptionGroup):
    """How pairs are built."""

    __group__ = "Building"

    mode: Literal["rank", "build"] = option(
        "rank", "rank rewards and judges on pairs, or build pairs of questions", group="Method"
    )
    generators: list[str] = option(
        [], "models that answer, besides the answers in the data", only_with=_BUILD
    )
    samples: Count = option(1, "answers of each model to a prompt", only_with=_BUILD)
    temperature: NonNegative = option(0.7, "of the answers", source="reconstruction", only_with=_BUILD)
    max_new_tokens: Count = option(512, "most tokens of an answer", only_with=_BUILD)
    seed: Seed = option(0, "of the answers and of the passages that are drawn", only_with=_BUILD)
    scenarios: list[Category] = option(
        ["helpful", "citation", "abstain", "conflict"],
        "categories made of questions that state none",
        only_with=_BUILD,
    )
    corpus: str | None = option(
        None, "passages for questions that bring none: a folder of texts or a file", only_with=_BUILD
    )
    retriever: Literal["bm25", "dense"] = option(
        "bm25", "by words, or by the nearness of embeddings", only_with=_BUILD
    )
    passages: Count = option(5, "passages of a prompt", source="reconstruction", only_with=_BUILD)
    max_spread: NonNegative = option(
        1.0, "judges' scores of a response may differ by this", source="reconstruction", only_with=_BUILD
    )
    min_mean_gap: NonNegative = option(
        1.0, "least difference of the mean scores of a pair", source="reconstruction", only_with=_BUILD
    )


def build(config: Any, run: Run) -> None:
    """Make pairs: `pairs.jsonl` with the published columns and `references`, `category`, `judge_scores`."""
    questions = read_questions(config.data, limit=config.limit, need_answers=False)
    questions, retrieve = retrieved(config, questions)
    order: list[Category] = [one for one in CATEGORIES if one in config.scenarios]
    tasks, dropped = make_tasks(
        questions, order, passages=config.passages, retrieve=retrieve, seed=config.seed
    )
    if not tasks:
        raise DataError(
            f"{config.data}: no prompt could be made ({dropped}).",
            hint="Give questions with passages, or --corpus.",
        )
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        n=config.samples,
        seed=config.seed,
    )
    models: dict[str, Callable[[], Generator]] = {
        name: partial(_open, config, name) for name in config.generators
    }
    responses = answered(run.artefacts, tasks, models, sampling)
    judges = [*map(judge_opener(config, run), config.judges)]
    scores, cost = scored(tasks, responses, judges, max_failures=config.max_failures)
    pairs, without = drawn_pairs(
        tasks, responses, scores, max_spread=config.max_spread, min_mean_gap=config.min_mean_gap
    )
    if not pairs:
        raise DataError(
            f"{config.data}: no pair is left ({without}).",
            hint="Give more --generators or --samples, or wider --max-spread.",
        )
    by_id = {one.id: one for one in tasks}
    rows = [
        pair_row(pair, question=by_id[pair.id].question, chosen_model=chosen, rejected_model=rejected)
        for pair, chosen, rejected in pairs
    ]
    write_rows(run.artefacts / "pairs.jsonl", rows)
    run.publish_records(run.artefacts / "pairs.jsonl")
    write_building_report(run, config, tasks, responses, pairs, {**dropped, **without}, cost)


def retrieved(
    config: Any, questions: Sequence[Question]
) -> tuple[list[Question], Callable[[str, int], Sequence[Passage]]]:
    """The questions, those without passages given the nearest of the corpus, and the search over the corpus, or over the
    passages of all questions without one.

    Raises:
        DataError: a question without passages and no corpus.
    """
    from coalign.models.retrieval import open_index

    missing = [one.id for one in questions if not one.passages]
    if missing and config.corpus is None:
        raise DataError(
            f"{config.data}: {len(missing)} of {len(questions)} questions have no passages, first {missing[0]!r}.",
            hint="Add a column `passages`, or give passages to search with --corpus.",
        )
    own = [each for one in questions for each in one.passages]
    texts = list(
        {each.text: each for each in (read_passages(config.corpus) if config.corpus else own)}.values()
    )
    searches = bool(missing) or "abstain" in config.scenarios
    index = (
        open_index(config.retriever, [str(one) for one in texts], device=config.device) if searches else None
    )

    def nearest(query: str, k: int) -> list[Passage]:
        return [texts[place] for place in index.top(query, k)] if index else []

    filled = [
        one if one.passages else replace(one, passages=tuple(nearest(one.question, config.passages)))
        for one in questions
    ]
    return filled, nearest


def judge_opener(config: Any, run: Run) -> Callable[[str | None], Judge]:
    """Opens the language model of a name as judge, by default the first of `judges`; all keep their replies together.

    Raises:
        ConfigError: when it is called without a name, and `judges` is empty.
    """
    stores: list[ReplyStore] = []

    def opened(name: str | None) -> Judge:
        if name is None and not config.judges:
            raise ConfigError("reward: judge: needs a model: name it with --judges.")
        if not stores:
            stores.append(open_store(config, run))
        return language_judge(_with(config, name or config.judges[0]), stores[0])

    return opened


def _open(config: Any, name: str) -> Generator:
    from coalign.models.backends.open import open_generator
    from coalign.models.options import ModelOptions

    named = _with(config, name)
    return open_generator(ModelOptions.of(named), named)


def _with(config: Any, name: str) -> JudgeOptions:
    """The options of one judge or generator."""
    named: dict[str, Any] = (
        {"endpoint_model": name} if config.chosen_backend == "endpoint" else {"model": name}
    )
    if config.judge_readout == "logprobs":
        named["judge_explain"] = True  # there are no reasons anyway
    return JudgeOptions.of(config, **named)
