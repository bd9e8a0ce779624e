"""Scores a model on a benchmark of rules and answers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.errors import DataError
from coalign.core.files import write_json, write_rows
from coalign.core.options import Count, OptionGroup, option, options_of
from coalign.core.runs import Run
from coalign.curation.instructions.benchmark import (
    Item,
    Scored,
    benchmark_scores,
    matched,
    rating_request,
    read_rating,
    score_responses,
)
from coalign.curation.instructions.report import write_benchmark_report
from coalign.loops.rows import answer_rows
from coalign.models.backends.options import BackendOptions, is_address
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling

if TYPE_CHECKING:
    from coalign.data.records import Messages

_OF_JUDGE: Any = "judge"


@dataclass(kw_only=True)
class BenchmarkOptions(OptionGroup):
    """What is scored, and how."""

    __group__ = "Benchmark"

    eval_data: str | None = option(
        None, "score a model on this benchmark, and make no data: FollowRAG, IFEval, or prompts with `constraints`",
    )  # fmt: skip
    responses: bool = option(
        False, "score the column `response` of its records, and no model", only_with="eval_data"
    )
    judge: str | None = option(
        None,
        "a language model that rates answers: `default`, a hub id, a folder or a server's address; by default an answer is right "
        "when a reference stands in it",
        only_with="eval_data",
    )
    judge_served: str | None = option(
        None,
        "the judge's name on that server; by default its only one",
        only_with=_OF_JUDGE,
    )
    judge_tries: Count = option(
        10,
        "most requests for a rating that can be read",
        source="official code",
        only_with=_OF_JUDGE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.responses:
            names = [one.name for group in (ModelOptions, BackendOptions) for one in options_of(group)]
            self.refuse([one for one in names if one != "device"], "with responses, which are there already")
        if self.judge_served is not None and not is_address(self.judge or ""):
            raise ValueError("judge_served names a model of a server: give its address as judge")


def score_benchmark(config: Any, run: Run, items: Sequence[Item]) -> None:
    """Answers, which rules they follow, whether they are right; `scored.jsonl` and `scores.json` in the run's artefacts."""
    if not config.responses:
        from coalign.models.backends.open import open_generator

        sampling = Sampling(max_new_tokens=config.max_new_tokens, temperature=0.0, seed=config.seed)
        opened = functools.cache(lambda: open_generator(config))
        rows = answer_rows(run.artefacts / "answers.jsonl", items, opened, sampling, label="Answering")
        responses = [row["responses"][0] for row in rows]
    else:
        if missing := [one.id for one in items if one.response is None]:
            raise DataError(
                f"{config.eval_data}: {len(missing)} records have no response, first {missing[0]!r}."
            )
        responses = [one.response or "" for one in items]
    answers = _answers(config, run, items, responses)
    followed = score_responses(items, responses)
    scored = [Scored(*each) for each in zip((one.kind for one in items), followed, answers, strict=True)]
    scores = benchmark_scores(scored)
    write_rows(
        run.artefacts / "scored.jsonl",
        [
            {"id": item.id, "type": item.kind, "response": text, "rules": [each.to_json() for each in item.rules],
             "strict": list(one.followed.strict), "loose": list(one.followed.loose), "answer": one.answer}
            for item, text, one in zip(items, responses, scored, strict=True)
        ],
    )  # fmt: skip
    write_json(run.artefacts / "scores.json", scores)
    unread = sum(bool(item.gold) and one is None for item, one in zip(items, answers, strict=True))
    write_benchmark_report(run, config, items, responses, scored, scores, unread)


def _answers(config: Any, run: Run, items: Sequence[Item], responses: Sequence[str]) -> list[float | None]:
    """Whether each answer is right; None where there is no reference, or no rating that can be read."""
    known = [place for place, one in enumerate(items) if one.gold]
    found: dict[int, float | None]
    if config.judge is None:
        found = {place: matched(items[place], responses[place]) for place in known}
    else:
        found = _rated(
            config, run, {place: rating_request(items[place], responses[place]) for place in known}
        )
    return [found.get(place) for place in range(len(items))]


def _rated(config: Any, run: Run, requests: Mapping[int, str]) -> dict[int, float | None]:
    """The judge's rating of each request, greedily, and then in new samples where it cannot be read."""
    from coalign.judging.asked.options import asked_model
    from coalign.judging.store import ReplyStore, ask

    judge = asked_model(str(config.judge), config.judge_served, device=config.device)
    found: dict[int, float | None] = dict.fromkeys(requests)
    with ReplyStore(run.artefacts / "ratings.jsonl") as store:
        for number in range(config.judge_tries):
            open_ = [place for place, value in found.items() if value is None]
            if not open_:
                break
            prompts: list[Messages] = [[{"role": "user", "content": requests[place]}] for place in open_]
            sampling = Sampling(max_new_tokens=256, temperature=1.0 if number else 0.0, seed=number)
            replies = ask(
                judge.generator,
                prompts,
                sampling,
                store=store,
                identity=judge.identity,
                label="Rating answers",
            )
            found |= {place: read_rating(one.text) for place, one in zip(open_, replies, strict=True)}
    return found
