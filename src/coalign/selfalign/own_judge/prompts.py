"""Pairs as the questions of a judge: each template shows a pair in both orders, and the letters A and B are the answers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from coalign.core.errors import DataError
from coalign.data.encoding import EncodedRecord
from coalign.data.records import Demonstration, Preference, Ranking, Record
from coalign.judging.prompts import JudgeTemplate, load_template
from coalign.judging.protocol import JudgeItem

if TYPE_CHECKING:
    from coalign.data.records import Messages

TEMPLATE = Path(__file__).parents[1] / "assets" / "letter-judge.j2"
LETTERS = ("A", "B")


@dataclass(frozen=True)
class LetterJudge:
    """What a model is asked about a pair.

    Attributes:
        files: templates of comparisons (`coalign.judging.prompts`) that ask for a letter; each is a judge of its own.
    """

    files: tuple[Path, ...] = (TEMPLATE,)

    def __reduce__(self) -> tuple[type[LetterJudge], tuple[tuple[Path, ...]]]:
        """For other processes: without the templates, which each reads by itself."""
        return LetterJudge, (self.files,)

    @cached_property
    def templates(self) -> list[JudgeTemplate]:
        """The templates, read.

        Raises:
            ConfigError: one cannot be read, or does not show the answers.
        """
        return [load_template("pair", one) for one in self.files]

    def contexts(self, record: Preference) -> list[Record]:
        """The records under which a pair is scored: itself, then for each template the letters after the pair shown in
        its order (chosen, rejected) and in the other one. Rows of a batch: 2, then 4 a template.
        """
        pair = record.chosen, record.rejected
        asked = [
            Ranking(prompt=self.ask(record, shown, template), responses=LETTERS, scores=(math.nan, math.nan))
            for template in self.templates
            for shown in (pair, (record.rejected, record.chosen))
        ]
        return [record, *(replace(one, source=record.source, extra=record.extra) for one in asked)]

    def ask(self, record: Record, shown: tuple[str, str], template: JudgeTemplate) -> Messages:
        """The question which of two responses to the record's prompt is better."""
        item = JudgeItem(id=record.id, prompt=record.prompt, responses=shown)
        return template.render(item, explain=False, bare=True)

    def demonstrations(self, records: Sequence[Preference], seed: int) -> list[Demonstration]:
        """Verdicts to imitate: every pair in an order that is drawn, under each template, and the letter of the chosen."""
        draw = random.Random(seed)
        made = []
        for record in records:
            swapped = draw.random() < 0.5
            shown = (record.rejected, record.chosen) if swapped else (record.chosen, record.rejected)
            made += [
                Demonstration(
                    prompt=self.ask(record, shown, template),
                    completion=LETTERS[swapped],
                    source=record.source,
                )
                for template in self.templates
            ]
        return made


def first_letters(records: Sequence[EncodedRecord], max_length: int | None = None) -> list[EncodedRecord]:
    """Cut the answers of judges to their first token, by which a verdict is read; pairs stay as they are.

    Raises:
        DataError: the chat template or the tokenizer begins both letters with the same token.
    """
    cut = []
    for one in records:
        judged = all(map(math.isnan, one.values))
        if judged and one.response_ids[0][0] == one.response_ids[1][0]:
            raise DataError(
                "The answers A and B begin with the same token under this chat template, so no letter can be read."
            )
        cut.append(replace(one, response_ids=[ids[:1] for ids in one.response_ids]) if judged else one)
    return cut
