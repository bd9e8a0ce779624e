"""The cascade as steps of a pipeline: rewards of questions, their share, rewards of answers, theirs, rewriting, review."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.files import read_template
from coalign.curation.visual_instructions.conversations import questions_text
from coalign.curation.visual_instructions.rewriting import ReviewTurns, RewriteTurns
from coalign.curation.visual_instructions.selection import TopOfEach, best_answers
from coalign.data.media.errors import MediaError
from coalign.judging.language_judge import LanguageModelJudge
from coalign.judging.store import ReplyStore
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Kept, Made, Rejected, Step
from coalign.loops.steps.usual import Filter, Rewrite, scored
from coalign.models.types import Sampling

if TYPE_CHECKING:
    from torch import nn

    from coalign.core.runs import Run
    from coalign.curation.visual_instructions.rewards import Item, Reads

BY_QUESTIONS, BY_ANSWERS = "reward of questions", "reward of answers"


class _Scoring:
    """A step that scores with a reward model, loaded when it is first needed. A picture that cannot be opened, or a record that
    the model cannot take, is rejected.
    """

    alone = True
    needs = ("turns",)

    def __init__(self, name: str, open_reward: Callable[[], tuple[nn.Module, Reads]], batch: int) -> None:
        self.name, self.batch = name, batch
        self._open = open_reward

    @cached_property
    def _reward(self) -> tuple[nn.Module, Reads]:
        return self._open()

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        from coalign.curation.visual_instructions.learning import score

        items = [self.items(row) for row in rows]
        try:
            flat = score(*self._reward, [one for each in items for one in each])
        except MediaError as error:
            if len(rows) > 1:
                return [made for row in rows for made in self([row])]
            return [[Rejected(rows[0], "a picture that cannot be opened", {"problem": str(error)})]]
        scores = iter(flat)
        return [[self.made(row, [next(scores) for _ in each])] for row, each in zip(rows, items, strict=True)]

    def items(self, row: Row) -> list[Item]:
        raise NotImplementedError

    def made(self, row: Row, scores: Sequence[float]) -> Made:
        raise NotImplementedError

    def close(self) -> None:
        self.__dict__.pop("_reward", None)


class QuestionScores(_Scoring):
    """Adds `r_Q`: the reward of all questions of a conversation together."""

    def items(self, row: Row) -> list[Item]:
        from coalign.curation.visual_instructions.rewards import Item

        return [Item(row["image"], questions_text(row))]

    def made(self, row: Row, scores: Sequence[float]) -> Made:
        return scored(row, "r_Q", scores[0])


class AnswerScores(_Scoring):
    """Gives every turn its best-scored answer, and adds `r_A`, the mean of their rewards over the turns."""

    def items(self, row: Row) -> list[Item]:
        from coalign.curation.visual_instructions.rewards import Item

        return [Item(row["image"], turn["question"], one) for turn in row["turns"] for one in turn["answers"]]

    def made(self, row: Row, scores: Sequence[float]) -> Made:
        left = iter(scores)
        by_turn = [[next(left) for _ in turn["answers"]] for turn in row["turns"]]
        if any(one != one for each in by_turn for one in each):
            return scored(row, "r_A", None, "too long with its picture")
        picked, mean = best_answers(by_turn)
        turns = [
            {**turn, "answers": [turn["answers"][place]]}
            for turn, place in zip(row["turns"], picked, strict=True)
        ]
        return scored({**row, "turns": turns}, "r_A", mean)


def usable() -> Step:
    """Rejects records that could not be read."""
    return Filter("usable", lambda row: "not a conversation" if "problem" in row else None)


def single_answers(row: Row) -> list[Made]:
    """A row for each candidate answer of a row of one turn."""
    (turn,) = row["turns"]
    return [Kept({**row, "turns": [{**turn, "answers": [one]}]}) for one in turn["answers"]]


def cascade_steps(config: Any, open_reward: Callable[[str], tuple[nn.Module, Reads]]) -> list[Step]:
    """The two stages of the selection.

    Args:
        open_reward: `question` or `answer` to the reward of that side.
    """
    whole = config.unit == "conversation"
    by_type = (lambda row: row["type"]) if whole and config.per_type else None
    rounding = "down" if whole else "down, one at least"
    steps: list[Any] = [
        QuestionScores(BY_QUESTIONS, lambda: open_reward("question"), config.score_batch),
        TopOfEach("best questions", "r_Q", config.alpha, by_type, rounding, config.most_of_picture),
    ]
    if not whole:
        steps.append(Rewrite("single answers", single_answers))
    return [
        *steps,
        AnswerScores(BY_ANSWERS, lambda: open_reward("answer"), config.score_batch),
        TopOfEach("best answers", "r_A", config.beta, by_type, rounding),
    ]


def rewriting_steps(config: Any, run: Run) -> list[Step]:
    """Rewriting and review, or nothing."""
    from coalign.judging.asked.options import asked_model

    if config.rewrite == "none":
        return []
    writer = asked_model(config.model, config.served, device=config.device)
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
    )
    judge = None
    if config.review != "none":
        reviewer = (
            writer
            if config.reviewer is None
            else asked_model(config.reviewer, config.reviewer_served, device=config.device)
        )
        judge = LanguageModelJudge(
            reviewer.generator,
            name=reviewer.name,
            identity=reviewer.identity,
            store=ReplyStore(run.artefacts / "replies.jsonl"),
            form="choice",
            readout=config.judge_readout,
            explain=False,
        )
    return [
        RewriteTurns(
            "rewriting",
            lambda: writer.generator,
            sampling,
            template=config.request_template
            and read_template(config.request_template, ("{question}", "{answer}")),
            sides=config.rewrite,
            facts=read_words(config.facts),
            batch=config.request_batch,
        ),
        ReviewTurns(
            "review",
            judge,
            orders="both" if config.review == "both" else "given",
            max_failures=config.max_failures,
            batch=config.request_batch,
        ),
    ]


def read_words(path: Path | None) -> list[str]:
    """Words, one a line.

    Raises:
        ConfigError: the file cannot be read.
    """
    return (
        []
        if path is None
        else [one.strip().lower() for one in read_template(path).splitlines() if one.strip()]
    )
