"""The step that leaves out responses that nearly repeat another one to the same prompt."""

from __future__ import annotations

from dataclasses import dataclass

from coalign.core.options import Fraction, option
from coalign.loops.curation.named_steps import Context, NamedStep
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Step


@dataclass(kw_only=True)
class ResponseStep(NamedStep):
    """Keeps responses that have a ROUGE-L of at most `most` with each kept before to the same prompt."""

    kind = "distinct"
    most: Fraction = option(0.7, "largest ROUGE-L F of two responses to one prompt")

    def make(self, name: str, context: Context) -> Step:
        from coalign.loops.steps.within import NovelWithin

        def item(row: Row) -> tuple[str | None, str]:
            found = context.corpus.item(row)
            return (None, "") if found is None else (str(found.prompt), found.responses[0])

        return NovelWithin(name, lambda row: item(row)[0], lambda row: item(row)[1], self.most)
