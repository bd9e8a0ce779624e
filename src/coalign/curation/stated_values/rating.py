"""Answers of several policies under system messages, and how far each thing that the message asks for is met.

An item's score is the mean over its own wishes (their number differs), a policy's the mean over items; with several rounds
of judging the mean over rounds comes first.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import DataError
from coalign.core.files import read_rows, write_rows
from coalign.core.options import Count, NonNegative, option
from coalign.curation.stated_values.collection import Answered, Wish, conversation, grouped
from coalign.data.rows import iter_rows
from coalign.judging.options import RatingJudgeOptions
from coalign.loops.rows import Row, answer_rows

if TYPE_CHECKING:
    from coalign.core.runs import Run
    from coalign.data.records import Messages
    from coalign.judging.language_judge import LanguageModelJudge
    from coalign.models.types import Generator, Sampling

LOW, HIGH = 1, 5
"""Ends of a judge's scale; programs say 0 to 1, which is put on it."""
LEVELS = {1: "not met at all", 2: "hardly met", 3: "met in part", 4: "met, with small lapses", 5: "fully met"}
"""What scores mean where an item does not say it."""
Scores = Sequence[Sequence[float | None]]
"""`[items][wishes]` mean over the rounds of judging, None where nothing could be read."""


@dataclass(kw_only=True)
class RatingOptions(RatingJudgeOptions):
    """Who says how far wishes are met."""

    __group__ = "Judge"

    bench: str | None = option(
        None,
        "items with `system`, `prompt`, `rubric` (criteria, score_descriptions) and maybe `reference_answer`, as of the "
        "Multifaceted Bench, in place of the held-out instructions",
        only_with="judge_model",
    )
    compare: list[str] = option([], "further models that answer the same items: hub ids, folders or runs")
    judge_model: str | None = option(
        None,
        "a model that rates every wish from 1 to 5; without it programs rate the values that have constraints",
    )
    judge_form: Literal["marked", "result"] = option(
        "marked",
        "how it answers: reasons and [[score]], or feedback and [RESULT] score, which graders such as Prometheus learnt",
        source="paper: result",
        only_with="judge_model",
    )
    judge_rounds: Count = option(
        3, "times that a judge is asked; their mean counts", source="official code", only_with="judge_model"
    )
    judge_temperature: NonNegative = option(
        1.0, "of the judge", source="official code", only_with="judge_model"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judge_readout == "logprobs":
            why = "with judge_readout: logprobs, which is the same every time"
            self.refuse(["judge_rounds", "judge_temperature", "judge_form"], why)


@dataclass(frozen=True)
class Item:
    """One thing to answer under one system message.

    Attributes:
        id: distinct among the items.
        turns: without the system message.
        reference: an answer that deserves the highest score.
    """

    id: str
    system: str
    turns: Messages
    wishes: tuple[Wish, ...]
    reference: str | None = None

    def prompt_for(self, fold: bool) -> Messages:
        """As a model is shown it."""
        return conversation(self.system, self.turns, fold=fold)

    @property
    def prompt(self) -> Messages:
        """As a judge is shown it."""
        return self.prompt_for(False)


def held_out_items(rows: Sequence[Answered]) -> list[Item]:
    """The first row of each held-out instruction; its answer is the reference."""
    return [
        Item(one.id, one.system, one.turns, one.wishes, one.output)
        for one in (mine[0] for mine in grouped(rows).values())
    ]


def read_bench(source: str) -> list[Item]:
    """The items of a file.

    Raises:
        DataError: rows without `system`, `prompt` or a usable `rubric`, or with an id that occurs twice; every one is named.
    """
    items, problems = [], []
    names: set[str] = set()
    for row in iter_rows(source):
        if row.value is None:
            problems += [row.problem] if row.problem else []
            continue
        place, value = row.source(source), row.value
        missing = [
            one
            for one in ("system", "prompt")
            if not isinstance(value.get(one), str) or not value[one].strip()
        ]
        wishes, name = _bench_wishes(value.get("rubric")), str(value.get("id", row.index))
        if name in names:
            problems.append(place.problem("id", f"{name!r} occurs twice", "one id a row"))
        names.add(name)
        problems += [place.problem(one, "is missing", "a text") for one in missing]
        if wishes is None:
            wanted = "a list of criteria with score_descriptions of 1 to 5"
            problems.append(place.problem("rubric", "cannot be read", wanted))
        elif not missing:
            turns: Any = [{"role": "user", "content": value["prompt"]}]
            reference = value.get("reference_answer")
            items.append(Item(name, value["system"], turns, wishes, reference))
    if problems or not items:
        raise DataError(f"{source}: {len(problems)} rows cannot be used.", problems)
    return items


def _bench_wishes(rubric: Any) -> tuple[Wish, ...] | None:
    if not isinstance(rubric, list) or not rubric:
        return None
    wishes = []
    for place, one in enumerate(rubric, start=1):
        try:
            levels = {int(score): str(text) for score, text in (one.get("score_descriptions") or {}).items()}
            wishes.append(
                Wish(f"rubric {place}", f"rubric {place}", str(one["criteria"]), (), levels or None)
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
    return tuple(wishes)


def answer_items(
    path: Path,
    items: Sequence[Item],
    model: Callable[[], Generator],
    sampling: Sampling,
    *,
    fold: bool,
    label: str,
) -> list[Row]:
    """Rows of answers (`coalign.loops.rows`), one an item."""
    shown = [one.prompt_for(fold) for one in items]
    return answer_rows(path, items, model, sampling, label=label, asked=shown)


def checkable(items: Sequence[Item]) -> int:
    """Wishes that programs can check."""
    return sum(bool(wish.constraints) for one in items for wish in one.wishes)


def checked_scores(items: Sequence[Item], answers: Sequence[str]) -> list[list[float | None]]:
    """What programs say: 1 where a wish is not met at all, 5 where it is; None of wishes without constraints."""

    def score(item: Item, wish: Wish, answer: str) -> float | None:
        if not wish.constraints:
            return None
        values = [one.verify(item.turns[-1]["content"], answer) for one in wish.constraints]
        return LOW + (HIGH - LOW) * statistics.fmean(values)

    return [
        [score(item, wish, answer) for wish in item.wishes]
        for item, answer in zip(items, answers, strict=True)
    ]


def judged_scores(
    run: Run, config: RatingOptions, items: Sequence[Item], answers: Mapping[str, Sequence[str]], device: str
) -> dict[str, Scores]:
    """What the judge says of every policy's answers. `artefacts/ratings.jsonl` has a row a policy, item, wish and round.

    Raises:
        CoalignError: more ratings are missing than `max_failures` allows; the rows are written before.
    """
    from coalign.judging.protocol import JudgeItem, Rubric, Scale, check_failures
    from coalign.judging.store import ReplyStore

    rows: list[dict[str, Any]] = []
    ratings = []
    with ReplyStore(run.artefacts / "replies.jsonl") as store:
        for number in range(config.judge_rounds if config.judge_readout == "text" else 1):
            judge = _judge(config, store, number, device)
            for policy, texts in answers.items():
                asked = [
                    JudgeItem(
                        id=f"{item.id}/{place}",
                        prompt=item.prompt,
                        responses=(text,),
                        reference=item.reference,
                        rubric=Rubric(criteria=wish.text, levels=wish.levels or LEVELS),
                    )
                    for item, text in zip(items, texts, strict=True)
                    for place, wish in enumerate(item.wishes)
                ]
                found = judge.rate(asked, scale=Scale(low=LOW, high=HIGH), label=f"Rating {policy}")
                ratings += found
                rows += [
                    {"policy": policy, "round": number, "item": one.id, "score": one.score, "failure": one.failure,
                     "reply": one.reply}
                    for one in found
                ]  # fmt: skip
    write_rows(run.artefacts / "ratings.jsonl", rows)
    check_failures(ratings, limit=config.max_failures)
    known: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        known.setdefault((row["policy"], row["item"]), []).extend(
            [row["score"]] if row["score"] is not None else []
        )
    return {
        policy: [
            [mean(known[policy, f"{item.id}/{place}"]) for place in range(len(item.wishes))] for item in items
        ]
        for policy in answers
    }


def _judge(config: RatingOptions, store: Any, number: int, device: str) -> LanguageModelJudge:
    from coalign.judging.language_judge import LanguageModelJudge
    from coalign.judging.parsing import read_rating, read_result
    from coalign.judging.store import Deferred
    from coalign.models.backends.open import open_named
    from coalign.models.types import Sampling

    formed = config.judge_form == "result"
    return LanguageModelJudge(
        Deferred(lambda: open_named(config.judge_model, endpoint=config.judge_endpoint, device=device)),
        name=str(config.judge_model),
        identity={"endpoint": config.judge_endpoint},
        store=store,
        readout=config.judge_readout,
        template=Path(__file__).with_name("result.j2") if formed else None,
        read=read_result if formed else read_rating,
        sampling=Sampling(max_new_tokens=1024, temperature=config.judge_temperature, top_p=0.9, seed=number),
    )


def item_scores(scores: Scores) -> list[float | None]:
    """[items] the mean over the wishes of each that have a score; None where none has."""
    return [mean([one for one in each if one is not None]) for each in scores]


def benchmark_score(scores: Scores) -> float | None:
    """Mean over items of their means: an item counts once, however many wishes it has."""
    return mean([one for one in item_scores(scores) if one is not None])


def win_tie_rates(outcomes: Sequence[str]) -> dict[str, float]:
    """Shares of `win`, `tie` and `lose`, and of ties and wins together.

    Raises:
        ValueError: no outcome, or another word.
    """
    counts = Counter(outcomes)
    if not outcomes or counts.keys() - {"win", "tie", "lose"}:
        raise ValueError(f"outcomes are {sorted(counts)}, expected one or more of win, tie and lose")
    rates = {name: counts[name] / len(outcomes) for name in ("win", "tie", "lose")}
    return {**rates, "tie_plus_win": (counts["win"] + counts["tie"]) / len(outcomes)}


def outcomes_of(mine: Sequence[float | None], other: Sequence[float | None]) -> list[str]:
    """What a policy's item scores come to against another's, on the items that both have; scores within 1e-9 tie."""
    pairs = [(a, b) for a, b in zip(mine, other, strict=True) if a is not None and b is not None]
    return ["tie" if abs(a - b) <= 1e-9 else "win" if a > b else "lose" for a, b in pairs]


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return statistics.fmean(values) if values else None


def best_answers(
    path: Path, items: Sequence[Item], rows: Sequence[Row], model: Path, device: str, *, fold: bool
) -> list[str]:
    """Of each item's responses the one with the highest reward; of equal ones the first. `path` keeps the rewards."""
    from coalign.models.reward_model import load_reward_model

    if not path.exists():
        flat = [
            (one.prompt_for(fold), text)
            for one, row in zip(items, rows, strict=True)
            for text in row["responses"]
        ]
        prompts, texts = map(list, zip(*flat, strict=True))
        rewards = iter(load_reward_model(str(model), device=device).score(prompts, texts, show="Scoring"))
        write_rows(
            path, [{"id": row["id"], "rewards": [next(rewards) for _ in row["responses"]]} for row in rows]
        )
    kept = [row["rewards"] for row in read_rows(path)]
    return [row["responses"][each.index(max(each))] for row, each in zip(rows, kept, strict=True)]
