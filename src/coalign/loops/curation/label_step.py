"""The step that sorts records into named kinds by several votes of a model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coalign.core.options import Count, Fraction, Seed, option, required
from coalign.loops.curation.named_steps import Context, NamedStep, filled
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Kept, Made, Rejected, Step
from coalign.loops.steps.usual import NOT_SCORABLE

if TYPE_CHECKING:
    from coalign.models.types import Generation

REVIEW = "for review: the votes disagree"
"""The reason of records that a person should label."""


@dataclass(kw_only=True)
class LabelStep(NamedStep):
    """Adds columns: the label that most of several votes of the run's model give a text, and the share of all votes that it
    has. A record on whose label too few agree is rejected, with its votes, for a person to label.
    """

    kind = "label"
    asks = True
    labels: list[str] = required("the labels, two or more; on a command line maths;code;other")
    column: str = option("label", "the column it adds, beside COLUMN_agreement")
    prompt: str = option(
        "Sort the request between the lines by its {column}.\n---\n{text}\n---\nAnswer with one of these and nothing else: "
        "{labels}.",
        "what is asked; {text} stands for the text, {labels} for the labels, {COLUMN} for a column",
    )
    votes: Count = option(3, "samples of the model's answer")
    agreement: Fraction = option(0.6, "least share of all votes that a label has")
    max_new_tokens: Count = option(16, "most tokens of an answer")
    seed: Seed = option(0, "of the sampling")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.labels = [one.strip() for one in self.labels]
        if len({one.casefold() for one in self.labels if one}) != len(self.labels) or len(self.labels) < 2:
            raise ValueError(f"labels: {self.labels}, expected two or more that differ")

    def make(self, name: str, context: Context) -> Step:
        from coalign.judging.options import judge_name
        from coalign.loops.steps.models import Ask
        from coalign.models.backends.open import open_generator
        from coalign.models.options import ModelOptions
        from coalign.models.types import Sampling

        assert context.options is not None
        asked, more = context.options, {"labels": ", ".join(self.labels), "column": self.column}
        return Ask(
            name,
            lambda: open_generator(ModelOptions.of(asked), asked),
            lambda row: filled(self.prompt, context.corpus, row, name, **more),
            self.read,
            Sampling(max_new_tokens=self.max_new_tokens, temperature=1.0, n=self.votes, seed=self.seed),
            model=judge_name(asked),
        )

    def read(self, row: Row, said: Sequence[Generation]) -> list[Made]:
        """The record with its label, or what speaks against it."""
        votes = [read_label(one.text, self.labels) for one in said]
        counts = Counter(one for one in votes if one is not None)
        if not counts:
            return [Rejected(row, f"{NOT_SCORABLE}: no label in any answer")]
        (label, most), *others = counts.most_common()
        share = most / len(votes)
        if share < self.agreement or (others and others[0][1] == most):
            return [Rejected(row, REVIEW, {"votes": dict(counts), "asked": len(votes)})]
        added = {self.column: label, f"{self.column}_agreement": round(share, 6)}
        return [Kept({**row, **added}, {"votes": dict(counts), "asked": len(votes)})]


def read_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that an answer names; None where it names none or several.

    Labels are found as whole words in any case; one that lies inside another that is named there does not count.
    """
    found: list[str] = []
    rest = text.casefold()
    for label in sorted(labels, key=len, reverse=True):
        whole = re.compile(rf"(?<!\w){re.escape(label.casefold())}(?!\w)")
        if whole.search(rest):
            found.append(label)
            rest = whole.sub(" ", rest)
    return found[0] if len(found) == 1 else None
