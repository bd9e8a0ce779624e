"""Self-J: a model learns to grade its own answers, so that the bad ones can be withheld.

Self-Judge: Selective Instruction Following with Alignment Self-Evaluation (arXiv 2409.00935).

    coalign run self-j --data demonstrations.jsonl --model default
    coalign serve default --decline-below 5 --reward model:runs/...
    coalign generate --method best-of-n --reward model:runs/... --prompts prompts.jsonl --out answers.jsonl

No human scores are needed. The model answers questions whose good answer is known; it grades each answer itself with that
reference before it, and the embeddings of answer and reference are compared; both together are the label, a digit from 0 to
9. Then it learns the labels from two requests, with the reference and without, and what it says with the reference also
teaches what it says without. The grader is a model like any other: `model:FOLDER` is a reward, `--decline-below` a threshold.

Differences from the paper and the official code. How the two parts of a label are weighed and cut into digits is not public:
half each, equal widths, and both are options. The digit is looked up for the tokenizer at hand, also after a space of its own; a
reply without a digit among the 20 most probable tokens is counted as missing, where the code scores 0 or NaN. Before its training
the model's reply is begun for it ("Score:"). The grader is asked as it was trained. Requests that are too long are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from coalign.core.errors import DataError
from coalign.core.options import Count, Fraction, NonNegative, Positive, option, required
from coalign.core.runs import Run
from coalign.data.records import Demonstration
from coalign.data.sources import DataSources, canonical_sources, named
from coalign.data.splits import split_records
from coalign.judging.graders import GraderFacts, grader, load_grader
from coalign.judging.prompts import load_template
from coalign.judging.protocol import check_failures
from coalign.judging.store import Deferred, ReplyStore
from coalign.loops.rounds import Round, Stage, run_rounds
from coalign.loops.rows import answer_rows
from coalign.measures.detection import ranks
from coalign.models.backends.open import identity_of, open_generator
from coalign.models.backends.options import BackendOptions
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.rewards.self_grading.report import write_grader_report
from coalign.rewards.self_grading.training import Answered, begun_template, similarities, train_grader
from coalign.training.distributed.leading import led
from coalign.training.material import ReadingOptions, announce, read_sources
from coalign.training.options import TrainingOptions

LEVELS = 10
Scaling = Literal["unit", "rank"]
Cut = Literal["equal_width", "equal_frequency"]


def combined_quality(
    graded: Sequence[float], similarity: Sequence[float], *, weight: float = 0.5, scaling: Scaling = "unit"
) -> Any:
    """`w q_eval + (1 - w) q_cos`, [n] in [0, 1]: what an answer is worth by the model's own grade and by its similarity to
    the reference. Reconstructed: the paper adds the two, its weights and scales are not public.

    Args:
        graded: [n] from 0 to 9.
        similarity: [n] cosines; below 0 counts as 0.
        weight: w.
        scaling: `unit`: grades over 9, cosines as they are; `rank`: each by its rank among the n, from 0 to 1.
    """
    parts = [np.asarray(graded, np.float64) / (LEVELS - 1), np.clip(np.asarray(similarity, np.float64), 0, 1)]
    if scaling == "rank":
        parts = [(ranks(one) - 1) / max(len(one) - 1, 1) for one in parts]
    return weight * parts[0] + (1 - weight) * parts[1]


def quality_labels(quality: Sequence[float], cut: Cut = "equal_width") -> list[int]:
    """[n] digits from 0 to 9: `floor(10 q)`, at most 9, or tenths of equal size by rank (equal qualities share a label)."""
    values = np.asarray(quality, np.float64)
    if cut == "equal_frequency":
        values = (ranks(values) - 0.5) / len(values)
    return np.clip(np.floor(LEVELS * values), 0, LEVELS - 1).astype(int).tolist()


@dataclass(kw_only=True)
class Config(ModelOptions, BackendOptions, TrainingOptions):
    """Options of `coalign run self-j`; on an endpoint its model answers and grades, and --model learns to."""

    __group__ = "Method"

    data: DataSources = required("questions with their good answer; several sources are mixed, as in `sft`")
    label_weight: Fraction = option(
        0.5, "share of the model's own grade in a label, the rest is similarity to the reference"
    )
    label_scaling: Scaling = option("unit", "scale of both parts: as they are, or ranks")
    label_cut: Cut = option(
        "equal_width", "how qualities become digits: tenths of the scale or of the answers"
    )
    judge_template: Path | None = option(
        None,
        "your own request for a grade, a Jinja file that shows `answers` and, where there is one, `reference`; `coalign judge "
        "--print-template rate` shows ours",
    )
    encoder: str = option("default-encoder", "sentence encoder of the similarity: hub id or folder")
    student_weight: NonNegative = option(
        0.3, "weight of learning the label without the reference", source="official code"
    )
    divergence_weight: NonNegative = option(
        2.0,
        "weight of the divergence from what is said with the reference to what is said without",
        source="official code",
    )
    max_failures: Fraction = option(
        0.05, "share of answers that may stay without a grade before the run stops"
    )
    max_new_tokens: Count = option(256, "most tokens of an answer", group="Sampling")
    temperature: NonNegative = option(1.0, "of the answers", group="Sampling")
    target_quality: Fraction | None = option(
        None, "report the threshold from which answers have this mean quality"
    )
    split: str = option("train", "split of a hub data set", group="Data")
    limit: Count | None = option(None, "read only so many questions", group="Data")
    epochs: Positive = option(
        2.0, "passes over the labelled answers", source="official code", group="Training"
    )
    learning_rate: Positive | None = option(
        3e-4, "peak learning rate", source="official code", group="Training"
    )
    eval_fraction: Fraction = option(
        0.1, "share of the questions that the grader is measured on", group="Training"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data = canonical_sources(self.data, "data", weights=False)
        self.refuse(
            ("reference_logps", "max_prompt_length", "eval_steps"), "here: judgements are learnt whole"
        )
        if self.judge_template is not None:
            load_template("rate", self.judge_template)  # a bad one is found before anything is loaded
        if not 0 < self.eval_fraction < 1:
            raise ValueError("eval_fraction: the grader is measured on questions that it did not learn from")


@led
def run(config: Config, run: Run) -> None:
    """Answer, grade, compare with the reference, train the grader, grade what was held out, report.

    Raises:
        DataError: questions that cannot be used.
        CoalignError: too many answers without a grade.
    """
    notes: list[str] = []
    reading = ReadingOptions(kind="demonstration", split=config.split, limit=config.limit)
    parts = read_sources(reading, config.data, "demonstration", notes, seed=config.seed, text_alone=True)
    announce(notes, run)
    questions = [one for part in parts for one in part.records if isinstance(one, Demonstration)]
    if len({one.id for one in questions}) < len(questions):
        raise DataError(f"{named(config.data)}: two questions have the same id, expected one each")
    training, held_out = split_records(questions, config.eval_fraction, config.seed)
    (one,) = run_rounds(run, make_stages(config, questions, training, held_out))
    write_grader_report(run, config, one, training, held_out)


def make_stages(
    config: Config,
    questions: Sequence[Demonstration],
    training: Sequence[Demonstration],
    held_out: Sequence[Demonstration],
) -> dict[str, Stage]:
    """The stages; all questions are answered and labelled, those held out are not learnt from."""

    def model(round: Round) -> Any:
        return round.state.setdefault(
            "model", Deferred(lambda: open_generator(ModelOptions.of(config), config))
        )

    def generate(round: Round) -> None:
        sampling = Sampling(
            max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=config.seed
        )
        answer_rows(round.path("generate"), questions, lambda: model(round), sampling, label="Answering")

    def measure(round: Round) -> None:
        answered = _answered(round, questions)
        facts = GraderFacts(
            first_tokens=2, template=str(config.judge_template or begun_template(round.path("grade", ".j2")))
        )
        with ReplyStore(round.path("replies")) as store:
            identity = {"identity": identity_of(config, config)}
            asked = grader(model(round), facts, name=config.model, store=store, identity=identity)
            ratings = {
                name: asked.rate([one.item(reference=known) for one in part], label=label)
                for name, known, part, label in (
                    ("with", True, answered, "Grading with the reference"),
                    ("without", False, _answered(round, held_out), "Grading without it"),
                )
            }
        check_failures(ratings["with"], limit=config.max_failures)
        before = {one.id: one.score for one in ratings["without"]}
        cosines = similarities(answered, config.encoder, device=config.device)
        rows = zip(answered, ratings["with"], cosines, strict=True)
        round.write("measure", [
            {"id": one.record.id, "graded": rating.score, "similarity": cosine, "graded_without_reference": before.get(one.record.id)}
            for one, rating, cosine in rows
        ])  # fmt: skip

    def build(round: Round) -> None:
        rows = [row for row in round.read("measure") if row["graded"] is not None]
        if not rows:
            raise DataError(
                "No answer has a grade: none of the most probable first tokens of a reply is a digit.",
                hint="Grade with a stronger model, or with a shorter request (--judge-template).",
            )
        columns = ([row[name] for row in rows] for name in ("graded", "similarity"))
        quality = combined_quality(*columns, weight=config.label_weight, scaling=config.label_scaling)
        labels = quality_labels(quality, config.label_cut)
        if len(set(labels)) < 2:
            raise DataError(
                f"All {len(labels)} answers have the label {labels[0]}: there is nothing to tell apart.",
                hint="Give more questions, or cut the labels by rank: --label-cut equal_frequency.",
            )
        made = [
            {**row, "quality": float(one), "label": label}
            for row, one, label in zip(rows, quality, labels, strict=True)
        ]
        round.write("build", made)

    def fit(round: Round) -> None:
        round.state.clear()  # the generator's weights
        labels = {row["id"]: row["label"] for row in round.read("build")}
        train_grader(config, _answered(round, training), labels, round.run)

    def evaluate(round: Round) -> None:
        answered, judge = _answered(round, held_out), load_grader(str(round.run.model), device=config.device)
        with_it, without = (
            judge.rate([one.item(reference=known) for one in answered], label="Grading what was held out")
            for known in (True, False)
        )
        check_failures(without, limit=config.max_failures)
        rows = [
            {"id": one.id, "score": one.score, "score_with_reference": other.score}
            for one, other in zip(without, with_it, strict=True)
        ]
        round.write("evaluate", rows)

    return {"generate": generate, "measure": measure, "build": build, "fit": fit, "evaluate": evaluate}


def _answered(round: Round, questions: Sequence[Demonstration]) -> list[Answered]:
    texts = {row["id"]: row["responses"][0] for row in round.read("generate")}
    return [Answered(one, texts[one.id]) for one in questions]
