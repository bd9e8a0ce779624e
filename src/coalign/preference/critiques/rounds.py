"""Learning from criticism of one's own answers, round after round: answer, criticise, train, repeat.

Stages of a round: `propose` (fresh prompts), `generate` (one answer each), `measure` (the critic), `build` (judged
answers), `fit`, `evaluate`; the first one begins with a `baseline`. A round starts from the model of the one before.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.core.files import atomic_path, write_json
from coalign.core.runs import Run
from coalign.data.readers import read_records
from coalign.data.records import Judgment, Messages, Record
from coalign.data.splits import split_records
from coalign.judging.verifiers.constraints import Constraint, ConstraintError, parse_constraints
from coalign.loops.rounds import Round, Stage, run_rounds
from coalign.loops.rows import sample_rows
from coalign.models.backends.open import open_generator
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.preference.critiques.critics import Answered, Critic, open_critic
from coalign.preference.critiques.judgments import is_appropriate
from coalign.training.learning import train
from coalign.training.material import Material
from coalign.training.objective import Objective

Mix = Callable[[Sequence[Judgment], int], list[Judgment]]
"""(judged answers, seed) to those that are trained on."""


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt of the loop."""

    id: str
    prompt: Messages
    constraints: tuple[Constraint, ...] = ()


@dataclass(frozen=True)
class JudgedLoop:
    """What the rounds share.

    Attributes:
        config: model, training, sampling and critic options, and `rounds`.
        objective: learns from judgments.
        constants: of the objective.
        training: prompts in the order in which rounds take them.
        held_out: prompts that every round's model answers; may be empty.
        mix: chooses among the judged answers of a round.
    """

    config: Any
    objective: Objective
    constants: Any
    training: Sequence[JudgedPrompt]
    held_out: Sequence[JudgedPrompt]
    mix: Mix

    def prompts_of(self, number: int) -> Sequence[JudgedPrompt]:
        """The prompts of a round: an equal share of all, each prompt in one round."""
        size, rest = divmod(len(self.training), self.config.rounds)
        start = (number - 1) * size + min(number - 1, rest)
        return self.training[start : start + size + (number <= rest)]


def read_judged_prompts(config: Any) -> tuple[list[JudgedPrompt], list[JudgedPrompt]]:
    """(training, held-out) prompts of `config.prompts`.

    Raises:
        DataError: the file cannot be read, prompts without constraints and no critic to criticise in words, or fewer
            prompts than rounds.
    """
    records = read_records(config.prompts, kind="prompt", limit=config.limit).records
    training, held_out = split_records(records, config.eval_fraction, config.seed)
    if len(training) < config.rounds:
        raise DataError(
            f"{config.prompts}: {len(training)} prompts to train on for {config.rounds} rounds.",
            hint="Give more prompts, or fewer --rounds.",
        )
    checked = config.critic is None
    return _prompts(training, checked), _prompts(held_out, checked)


def run_judged_rounds(run: Run, loop: JudgedLoop) -> list[Round]:
    """Run every stage that is not done and put the last model into `run.model`.

    Raises:
        DataError: the critic found no fault in any round.
        CoalignError: too many of its verdicts are missing.
    """
    rounds = run_rounds(run, _stages(run, loop), rounds=loop.config.rounds)
    if not run.model.exists():
        final = model_after(rounds[-1], loop).model
        if final == loop.config.model:
            raise DataError(
                "The critic found no fault in any answer, so nothing was trained.",
                hint="Give harder prompts, or a stricter critic (--fine-from, --criteria).",
            )
        with atomic_path(run.model) as path:
            shutil.copytree(final, path)
    return rounds


def _stages(run: Run, loop: JudgedLoop) -> dict[str, Stage]:
    config = loop.config
    constraints = {one.id: one.constraints for one in (*loop.training, *loop.held_out)}
    critic = open_critic(config, constraints, run.artefacts / "criticism.jsonl", config.device)
    evaluation = Sampling(max_new_tokens=config.max_new_tokens, temperature=0.0)

    def answer_held_out(round: Round, stage: str, policy: ModelOptions) -> None:
        if not loop.held_out:
            return
        sample_rows(
            round,
            f"{stage}-answers",
            loop.held_out,
            open_generator(policy),
            evaluation,
            "Answering held-out prompts",
        )
        round.write(stage, _criticised(critic, loop.held_out, round.read(f"{stage}-answers")))

    def baseline(round: Round) -> None:
        if round.number == 1:
            answer_held_out(round, "baseline", config)

    def propose(round: Round) -> None:
        round.write(
            "propose", [{"id": one.id, "prompt": one.prompt} for one in loop.prompts_of(round.number)]
        )

    def generate(round: Round) -> None:
        sampling = config.sampling(seed=config.seed + round.number - 1)
        generator = open_generator(model_before(round, loop))
        sample_rows(round, "generate", loop.prompts_of(round.number), generator, sampling, "Answering")

    def measure(round: Round) -> None:
        round.write("measure", _criticised(critic, loop.prompts_of(round.number), round.read("generate")))

    def build(round: Round) -> None:
        rows = [row for row in round.read("measure") if row["response"].strip() and row["fine"] is not None]
        usable = [row for row in rows if row["fine"] or row["judgment"]]
        round.write("build", usable)
        counts = {
            "judged": len(usable),
            "criticised": sum(not row["fine"] for row in usable),
            "without_words": len(rows) - len(usable),
            "without_verdict_or_text": len(round.read("measure")) - len(rows),
        }
        write_json(round.folder / "counts.json", counts)
        run.log("judged", round=round.number, **counts)

    def fit(round: Round) -> None:
        before = model_before(round, loop)
        judged = [_record(row) for row in round.read("build")]
        records: list[Record] = [*loop.mix(judged, config.seed + round.number - 1)]
        target = round.folder / "model"
        if all(is_appropriate(one) for one in judged):  # nothing to unlearn
            write_json(round.folder / "model.json", {"model": before.model, "trained": 0})
            return
        options: Any = replace(config, model=before.model, revision=before.revision)
        result = train(
            options,
            loop.objective,
            run,
            Material(records, [], []),
            constants=loop.constants,
            folder=target,
            name=f"round-{round.number}/train",
        )
        round.write("history", result.history)
        write_json(round.folder / "model.json", {"model": str(target), "trained": len(records)})

    def evaluate(round: Round) -> None:
        answer_held_out(round, "evaluate", model_after(round, loop))

    return {
        "baseline": baseline,
        "propose": propose,
        "generate": generate,
        "measure": measure,
        "build": build,
        "fit": fit,
        "evaluate": evaluate,
    }


def model_before(round: Round, loop: JudgedLoop) -> ModelOptions:
    """What a round starts from: the given model, or that of the round before."""
    if round.number == 1:
        return loop.config
    return model_after(Round(round.run, round.number - 1), loop)


def model_after(round: Round, loop: JudgedLoop) -> ModelOptions:
    """The model after a round; that before it where the critic found no fault."""
    name = json.loads((round.folder / "model.json").read_text(encoding="utf-8"))["model"]
    return replace(
        loop.config, model=name, revision=loop.config.revision if name == loop.config.model else None
    )


def _prompts(records: Sequence[Record], checked: bool) -> list[JudgedPrompt]:
    prompts: list[JudgedPrompt] = []
    problems: list[RecordProblem] = []
    for record in records:
        found: tuple[Constraint, ...] = ()
        try:
            found = parse_constraints(record.extra.get("constraints")) if checked else ()
            if any(one.needs_group for one in found):
                raise ConstraintError(
                    "constraints", "compares with other answers", "constraints on one answer"
                )
        except ConstraintError as error:
            place = record.source
            problems.append(
                RecordProblem(place.file, place.line, error.field, error.problem, error.expected, place.index)
            )
        prompts.append(JudgedPrompt(record.id, record.prompt, found))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(records)} prompts have no constraints that programs can check.",
            problems,
            hint="Add a `constraints` column, or let a language model criticise: --critic default.",
        )
    return prompts


def _criticised(
    critic: Critic, prompts: Sequence[JudgedPrompt], answers: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    asked = [
        Answered(one.id, one.prompt, row["responses"][0]["text"])
        for one, row in zip(prompts, answers, strict=True)
    ]
    rows = []
    for one, row, said in zip(asked, answers, critic(asked), strict=True):
        response = row["responses"][0]
        rows.append(
            {
                "id": one.id,
                "prompt": one.prompt,
                "response": one.answer,
                "finish_reason": response["finish_reason"],
                "tokens": response["tokens"],
                "judgment": said.text if said else "",
                "fine": said.fine if said else None,
                "score": said.score if said else None,
            }
        )
    return rows


def _record(row: Mapping[str, Any]) -> Judgment:
    return Judgment(
        prompt=row["prompt"],
        completion=row["response"],
        judgment=row["judgment"],
        label=row["fine"],
        extra={"id": row["id"]},
    )
