"""Learning from criticism of one's own answers, round after round: answer, criticise, train, repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.data.records import Messages, Record
from coalign.judging.verifiers.constraints import Constraint, ConstraintError
from coalign.judging.verifiers.following import constraints_of
from coalign.loops.labelling import Labelling
from coalign.loops.prompts import read_prompts
from coalign.loops.rounds import Round
from coalign.loops.rows import Row
from coalign.models.types import Sampling
from coalign.preference.critiques.critics import Answered, Criticism, open_critic
from coalign.preference.critiques.judgments import keep_appropriate
from coalign.training.objective import Objective


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt of the loop."""

    id: str
    prompt: Messages
    constraints: tuple[Constraint, ...] = ()


def read_judged_prompts(config: Any) -> tuple[list[JudgedPrompt], list[JudgedPrompt]]:
    """(training, held-out) prompts of `config.prompts`.

    Raises:
        DataError: the file cannot be read, prompts without constraints and no critic to criticise in words, an id
            that occurs twice, or fewer prompts than rounds.
    """
    training, held_out = read_prompts(config)
    checked = config.critic is None
    return _prompts(training, checked), _prompts(held_out, checked)


def make_judged_loop(run: Run, config: Any, objective: Objective, ratio: float) -> Labelling[JudgedPrompt]:
    """A loop in which a critic says of every answer what is wrong, and `objective` learns from judgments.

    A round has fresh prompts and one answer each. A round in which nothing is wrong keeps its model.

    Args:
        config: model, training, sampling, prompt and critic options, and `rounds`.
        ratio: fine answers to train on, at most so many for each criticised one.
    """
    training, held_out = read_judged_prompts(config)
    constraints = {one.id: one.constraints for one in (*training, *held_out)}
    critic = open_critic(config, constraints, run.artefacts / "criticism.jsonl", config.device)

    def criticised(round: Round, tasks: Sequence[JudgedPrompt], rows: Sequence[Row]) -> list[Row]:
        said = critic([Answered(row["id"], row["prompt"], row["responses"][0]) for row in rows])
        return [{**row, **_columns(one)} for row, one in zip(rows, said, strict=True)]

    return Labelling(
        config=config,
        objective=objective,
        training=training,
        held_out=held_out,
        evaluation=Sampling(max_new_tokens=config.max_new_tokens, temperature=0.0),
        score=criticised,
        pair=usable_judgments,
        keep=lambda rows, seed: keep_appropriate(
            rows, ratio, seed=seed, appropriate=lambda row: row["label"]
        ),
        nothing=DataError(
            "The critic found no fault in any answer, so nothing was trained.",
            hint="Give harder prompts, or a stricter critic (--fine-from, --criteria).",
        ),
        fresh=True,
        may_skip=True,
    )


def usable_judgments(round: Round, rows: Sequence[Row]) -> list[Row]:
    """The answers that can be learned from: they say something and are fine, or it is said what is wrong with them.
    How many there are is kept in `counts.json`.
    """
    known = [row for row in rows if row["responses"][0].strip() and row["label"] is not None]
    usable = [row for row in known if row["label"] or row["judgment"]]
    counts = {
        "judged": len(usable),
        "criticised": sum(not row["label"] for row in usable),
        "without_words": len(known) - len(usable),
        "without_verdict_or_text": len(rows) - len(known),
    }
    write_json(round.folder / "counts.json", counts)
    round.run.log("judged", round=round.number, **counts)
    return usable


def _columns(said: Criticism | None) -> Mapping[str, Any]:
    """`judgment` is null where nothing is said, as in files of judgments."""
    if said is None:
        return {"judgment": None, "label": None, "score": None}
    return {"judgment": said.text or None, "label": said.fine, "score": said.score}


def _prompts(records: Sequence[Record], checked: bool) -> list[JudgedPrompt]:
    prompts: list[JudgedPrompt] = []
    problems: list[RecordProblem] = []
    for record in records:
        found: tuple[Constraint, ...] = ()
        try:
            found = constraints_of(record.extra) if checked else ()
            if any(one.needs_group for one in found):
                raise ConstraintError(
                    "constraints", "compares with other answers", "constraints on one answer"
                )
        except ConstraintError as error:
            problems.append(record.problem(error.field, error.problem, error.expected))
        prompts.append(JudgedPrompt(record.id, record.prompt, found))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(records)} prompts have no constraints that programs can check.",
            problems,
            hint="Add a `constraints` column, or let a language model criticise: --critic default.",
        )
    return prompts
