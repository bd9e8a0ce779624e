"""Judged answers whose judgments quote them: which tokens a judgment criticises, and what a model finds there."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.worlds.records.default_model import open_default, short, text_logps
from coalign.data.encoding import encode_response
from coalign.data.records import Judgment
from coalign.preference.critiques.judgments import is_appropriate, judgment_contexts

QUOTED = re.compile(r"[\"“]([^\"“”]{3,200})[\"”]")
PRAISED = re.compile(r"\b(should|would|could|correct|corrected|revised|itself is)\b", re.IGNORECASE)
"""Words before a quotation in its sentence that make it a better answer, or a part that is fine."""
SENTENCE = re.compile(r"[.!?]\s")


def quoted_spans(answer: str, judgment: str) -> list[tuple[int, int]]:
    """Characters of the answer that the judgment quotes as wrong: our reading of free text.

    Text in double quotes counts where it stands in the answer as whole words, unless words before it in its sentence
    name it a better answer ("the correct answer should be ...").
    """
    spans: list[tuple[int, int]] = []
    for quotation in QUOTED.finditer(judgment):
        before = judgment[: quotation.start()]
        sentence = SENTENCE.split(before)[-1]
        text = quotation.group(1).strip(" .,;:")
        if len(text) < 3 or PRAISED.search(re.sub(QUOTED, "", sentence)):
            continue
        spans += [one.span() for one in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", answer)]
    return sorted(set(spans))


@dataclass(frozen=True)
class QuotedText:
    """Judged answers to train on, and others whose judgments quote them, with a mask of the quoted tokens."""

    seed: int
    training: list[Judgment]
    quoted: list[Judgment]
    masks: list[Tensor]


def criticised(records: Sequence[Judgment]) -> list[Judgment]:
    """The criticised answers; a judge's failure written in its place (`$ERROR$`) is no criticism."""
    return [one for one in records if not is_appropriate(one) and one.judgment.strip("$ ").upper() != "ERROR"]


def quoted_text(
    records: Sequence[Judgment], seed: int, *, training: int = 40, measured: int = 12, tokens: int = 400
) -> QuotedText:
    """Short criticised answers: those that are quoted to measure on, others to train on.

    Raises:
        DataError: there are not so many.
    """
    quoting = [one for one in records if quoted_spans(one.completion, one.judgment)]
    others = [one for one in records if not quoted_spans(one.completion, one.judgment)]
    taken = short(quoting, measured, seed, tokens=tokens, contexts=judgment_contexts)
    learned = short(others, training, seed, tokens=tokens, contexts=judgment_contexts)
    return QuotedText(seed, learned, taken, [_quoted_tokens(one) for one in taken])


def _quoted_tokens(record: Judgment) -> Tensor:
    """[N] true for the tokens of the answer (end of turn included) that touch a quoted character."""
    tokenizer = open_default()[1]
    ids = encode_response(tokenizer, record.prompt, record.completion, plain=record.plain)
    ends = [len(tokenizer.decode(ids[: place + 1])) for place in range(len(ids))]
    spans = quoted_spans(record.completion, record.judgment)
    starts = [0, *ends[:-1]]
    return torch.tensor(
        [
            any(start < last and end > first for first, last in spans)
            for start, end in zip(starts, ends, strict=True)
        ]
    )


def quoted_measures(
    material: QuotedText, model: nn.Module | None, detect: Callable[[Tensor, Tensor], Tensor]
) -> Measures:
    """Inside and outside of what the judgments quote: mean of log(p with the judgment / p without) over tokens, and
    share of tokens that `detect` finds.

    Args:
        detect: ([N] log-probabilities with the judgment, [N] without) to [N] booleans.
    """
    rows = text_logps([one for record in material.quoted for one in judgment_contexts(record)], model)
    plain, judged = (torch.cat([row[0] for row in rows[place::2]]) for place in (0, 1))
    inside, found = torch.cat(material.masks), detect(judged, plain).double()
    ratios = judged - plain
    return {
        "log-ratio, quoted": float(ratios[inside].mean()),
        "log-ratio, not quoted": float(ratios[~inside].mean()),
        "found, quoted": float(found[inside].mean()),
        "found, not quoted": float(found[~inside].mean()),
    }
