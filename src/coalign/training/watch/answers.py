"""Answers to held-out prompts before and after a training, greedy ones: what no figure of an objective shows.

`artefacts/answers/before.jsonl` and `after.jsonl` are rows as of `coalign.loops.rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coalign.core.errors import CoalignError
from coalign.core.files import read_rows, write_rows
from coalign.core.runs import Run
from coalign.data.records import Record
from coalign.data.splits import prompt_key
from coalign.report import model as doc
from coalign.training.processes import process_count

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from coalign.training.job import Job

LONGEST = 128
"""Tokens of an answer, at most."""


def questions_of(held_out: Sequence[Record], n: int) -> list[Record]:
    """The first n held-out records with different prompts: those that have one, of text alone and without tools."""
    usable = (one for one in held_out if one.prompt and not one.pictures and not one.template_arguments)
    return list({prompt_key(one): one for one in usable}.values())[:n]


def answer(job: Job, model: nn.Module, tokenizer: PreTrainedTokenizerBase, when: str) -> None:
    """Write the answers of the model to the job's questions, once. Under several processes none are written: each of them
    may hold a part of the model alone. What keeps the model from answering (a prompt that leaves no room) is a warning of the
    report, and the training goes on.

    Args:
        when: `before` or `after`.
    """
    from coalign.models.generation.generator import TransformersGenerator
    from coalign.models.generation.rows import row_of
    from coalign.models.types import Sampling

    path = job.run.artefacts / "answers" / f"{when}.jsonl"
    if not job.questions or path.exists() or process_count() > 1:
        return
    prompts = [one.prompt for one in job.questions]
    sampling = Sampling(max_new_tokens=LONGEST, temperature=0.0)
    try:
        made = TransformersGenerator(model, tokenizer).generate(
            prompts, sampling, label=f"Answering held-out prompts, {when}"
        )
    except CoalignError as error:
        job.run.log(
            "warning",
            stage=job.name,
            key="answers",
            text=f"Held-out prompts are not answered here: {error.message}",
            advice=error.hint or "",
        )
        return
    rows: list[dict[str, Any]] = [
        {"index": place, "id": one.id, "prompt": one.prompt, **row_of(samples)}
        for place, (one, samples) in enumerate(zip(job.questions, made, strict=True))
    ]
    write_rows(path, rows)


def answer_section(run: Run) -> list[doc.Samples]:
    """Both answers to each prompt side by side, or nothing."""
    sides = [read_rows(run.artefacts / "answers" / f"{when}.jsonl") for when in ("before", "after")]
    if not all(sides):
        return []
    return [
        doc.Samples(
            "Held-out prompts side by side",
            note=f"Greedy answers of at most {LONGEST} tokens, before and after the training. Nothing scored them: read them.",
            columns=["Before", "After"],
            rows=[
                doc.Sample(
                    str(first["prompt"][-1]["content"]),
                    [doc.Output(one["responses"][0]) for one in (first, last)],
                )
                for first, last in zip(*sides, strict=True)
            ],
        )
    ]
