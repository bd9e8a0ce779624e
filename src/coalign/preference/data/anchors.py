"""Human negatives and self-sampled anchors: what a model says by itself beside an answer that people rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from coalign.core.errors import DataError, RecordProblem
from coalign.data.encoding import EncodedRecord, encode_records
from coalign.data.records import Feedback, Messages, Preference, Ranking, Record
from coalign.loops.rounds import Round
from coalign.loops.rows import answer_rows, row_id
from coalign.models.backends.open import open_generator
from coalign.models.files.loading import load_tokenizer
from coalign.models.options import ModelOptions
from coalign.models.types import Generation, Sampling
from coalign.training.material import LearningOptions

ANCHOR, NEGATIVE = 1.0, 0.0
"""Scores by which a ranking says which response is a self-sample and which the human negative."""


@dataclass(frozen=True)
class Anchored:
    """Negatives with their anchors.

    Attributes:
        records: rankings of the anchors (score 1) and the negative (score 0, last).
        equal: samples that were left out because they equal the negative: in the loss they would cancel.
        empty: samples that were left out because they say nothing.
        unfinished: samples that ran out of tokens. They are kept; many of them mean a larger `max_new_tokens`.
        dropped: records without an anchor left.
    """

    records: list[Ranking]
    equal: int = 0
    empty: int = 0
    unfinished: int = 0
    dropped: list[RecordProblem] = field(default_factory=list)


def human_negatives(records: Sequence[Record]) -> list[Feedback]:
    """The dispreferred answers: the rejected side of pairs (the chosen one is left out), and thumbs-down records.

    Thumbs-up records have none and give none.
    """
    negatives = []
    for record in records:
        if isinstance(record, Preference):
            negatives.append(Feedback.of(record, completion=record.rejected, label=False))
        elif isinstance(record, Feedback) and not record.label:
            negatives.append(record)
    return negatives


def anchor(negatives: Sequence[Feedback], samples: Sequence[Sequence[Generation]]) -> Anchored:
    """Put the samples of each prompt beside its negative.

    Samples that repeat each other stay: they are draws from a distribution whose mean is wanted.

    Args:
        samples: for each negative the responses that the model gave to its prompt.
    """
    kept: list[Ranking] = []
    dropped: list[RecordProblem] = []
    equal = empty = unfinished = 0
    for record, drawn in zip(negatives, samples, strict=True):
        spoken = [one for one in drawn if one.text.strip()]
        anchors = [one for one in spoken if one.text.strip() != record.completion.strip()]
        empty += len(drawn) - len(spoken)
        equal += len(spoken) - len(anchors)
        unfinished += sum(one.finish_reason == "length" for one in anchors)
        if anchors:
            responses = (*(one.text for one in anchors), record.completion)
            scores = (*[ANCHOR] * len(anchors), NEGATIVE)
            kept.append(Ranking.of(record, responses=responses, scores=scores))
        else:
            found = f"none of {len(drawn)} samples is usable"
            dropped.append(record.problem("prompt", found, "a sample with text that is not the negative"))
    return Anchored(kept, equal, empty, unfinished, dropped)


def check_anchored(records: Sequence[EncodedRecord], max_length: int | None = None) -> list[EncodedRecord]:
    """The records as they are, when each holds one negative and at least one anchor.

    Raises:
        DataError: one does not, as in a ranking that was not made here.
    """
    for one in records:
        if one.values.count(NEGATIVE) != 1 or len(one.values) < 2:
            raise DataError(
                f"Record {one.record_index} has the scores {one.values}, needed are one negative (score 0) and at "
                "least one self-sample (score 1).",
                hint="Give pairs or thumbs-down records: the self-samples are drawn from the model.",
            )
    return list(records)


@dataclass(frozen=True)
class _Prompt:
    """A prompt to sample to."""

    prompt: Messages
    id: str


def sampled_anchors(
    round: Round, stage: str, negatives: Sequence[Feedback], sampling: Sampling, policy: ModelOptions
) -> Anchored:
    """The negatives with samples of `policy`; rows lie in the run folder, and a killed run goes on there.

    The model is loaded where a row is missing.
    """
    tasks = [_Prompt(one.prompt, row_id(place, one.prompt)) for place, one in enumerate(negatives)]
    label = "Sampling the model's own answers"
    rows = answer_rows(round.path(stage), tasks, lambda: open_generator(policy), sampling, label=label)
    samples = [
        [
            Generation(text, finish_reason=reason)
            for text, reason in zip(row["responses"], row["finish_reasons"], strict=True)
        ]
        for row in rows
    ]
    return anchor(negatives, samples)


def negatives_with_room(
    config: LearningOptions, negatives: Sequence[Feedback], held_out: Sequence[Feedback]
) -> tuple[list[Feedback], list[Feedback], list[str]]:
    """Both parts without the prompts that leave no room for an answer in training, to which nothing needs to be sampled,
    and notes on what is used and what is not.

    Raises:
        DataError: no negative is left to train on.
    """
    tokenizer = load_tokenizer(config)

    def with_room(records: Sequence[Feedback]) -> list[Feedback]:
        encoded = encode_records(
            records,
            tokenizer,
            max_length=config.max_length,
            max_prompt_length=config.max_prompt_length,
        )
        dropped.extend(encoded.dropped)
        return [records[one.record_index] for one in encoded.records]

    dropped: list[RecordProblem] = []
    kept = with_room(negatives)
    if not kept:
        raise DataError(
            f"The prompts of all {len(negatives)} negatives leave no room for an answer.",
            dropped,
            hint="Raise --max-length, or cut the beginning of prompts with --max-prompt-length.",
        )
    others = with_room(held_out)
    count = f"{len(kept) + len(others)} human negatives, {len(others)} of them held out"
    notes = [f"{count}; thumbs-up records and the chosen sides of pairs are not used"]
    if dropped:
        notes.append(
            f"{len(dropped)} negatives are left out: their prompts leave no room; the first: {dropped[0]}"
        )
    return kept, others, notes


def told(anchored: Anchored, n: int) -> str:
    """How many of `n` negatives have anchors, and what was left out: a note for the plan and the report."""
    anchors = sum(len(one.responses) - 1 for one in anchored.records)
    text = f"{anchors} self-samples to {len(anchored.records)} of {n} negatives"
    left_out = {"equal to the negative": anchored.equal, "empty": anchored.empty}
    text += "".join(f"; {count} left out: {why}" for why, count in left_out.items() if count)
    if anchored.unfinished:
        text += f"; {anchored.unfinished} ran out of tokens (--max-new-tokens)"
    return text
