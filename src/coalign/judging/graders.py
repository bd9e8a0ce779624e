"""Judges that were trained to grade: a language model that answers a request for a score with one digit.

Such a model lies in its folder like any other, with `grader.json` beside it, which says how it was asked in its training. It is
asked the same way here: as a judge (`load_grader`), and as a reward wherever one is named (`model:FOLDER`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ModelError
from coalign.core.files import parse_json, write_json
from coalign.judging.protocol import JudgeItem, Scale

if TYPE_CHECKING:
    from coalign.judging.language_judge import LanguageModelJudge
    from coalign.judging.rewards.mix import Draft
    from coalign.models.types import Generator

FILE = "grader.json"
TEMPLATE = "grader.j2"
SCALE = Scale(low=0, high=9)
"""What is asked for: every score is one digit."""


@dataclass(frozen=True, kw_only=True)
class GraderFacts:
    """How a grader is asked.

    Attributes:
        low, high: of the scale.
        first_tokens: tokens within which its digit comes; 2 where its tokenizer writes a space of its own before it.
        template: file of the request beside it; None is the one that is shipped.
    """

    low: float = SCALE.low
    high: float = SCALE.high
    first_tokens: int = 1
    template: str | None = None

    @property
    def scale(self) -> Scale:
        return Scale(low=self.low, high=self.high)


def write_grader(folder: Path, facts: GraderFacts) -> None:
    """Say beside a saved model that it is a grader; its template is copied there."""
    if facts.template is not None:
        text = Path(facts.template).read_text(encoding="utf-8")
        (folder / TEMPLATE).write_text(text, encoding="utf-8")
        facts = replace(facts, template=TEMPLATE)
    write_json(folder / FILE, asdict(facts))


def read_grader(name: str) -> GraderFacts | None:
    """What stands beside the model of this name (a folder, a run, a hub id in the cache); None: it is no grader.

    Raises:
        ModelError: there is no such model, or the file cannot be read.
    """
    from coalign.models.files.places import locate

    path = Path(locate(name).path) / FILE
    if not path.is_file():
        return None
    try:
        facts = GraderFacts(**parse_json(path.read_text(encoding="utf-8")))
        return (
            facts if facts.template is None else replace(facts, template=str(path.with_name(facts.template)))
        )
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: not the facts of a grader ({error}).") from error


def grader(generator: Generator, facts: GraderFacts, *, name: str, **how: Any) -> LanguageModelJudge:
    """A judge that reads the probabilities of the digits; with a reference answer where an item has one.

    Args:
        generator: the model.
        how: `identity` and `store`, as of a `LanguageModelJudge`.
    """
    from coalign.judging.language_judge import LanguageModelJudge

    return LanguageModelJudge(
        generator,
        name=name,
        readout="logprobs",
        scale=facts.scale,
        first_tokens=facts.first_tokens,
        template=None if facts.template is None else Path(facts.template),
        **how,
    )


def load_grader(name: str, *, device: str = "auto") -> LanguageModelJudge:
    """The grader in a folder or run.

    Raises:
        ModelError: the model cannot be loaded, or is no grader.
    """
    from coalign.models.backends.open import open_named

    facts = read_grader(name)
    if facts is None:
        raise ModelError(f"{name} is no grader: it has no {FILE}.", hint="`coalign run self-j` trains one.")
    return grader(open_named(name, device=device), facts, name=name)


@dataclass(frozen=True)
class GraderReward:
    """A grader's score as a reward, on its own scale: the mean of the digits under their probabilities, without a reference.

    NaN for a draft after which none of the most probable tokens is a digit.
    """

    judge: LanguageModelJudge
    name: str

    @property
    def lowest(self) -> float:
        return self.judge.scale.low

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        from coalign.judging.store import ReplyStore

        items = [
            JudgeItem(
                id=str(place),
                prompt=[{"role": "user", "content": one.prompt}]
                if isinstance(one.prompt, str)
                else one.prompt,
                responses=(one.text,),
            )
            for place, one in enumerate(drafts)
        ]
        # A server asks without end: nothing is kept from call to call.
        found = replace(self.judge, store=ReplyStore()).rate(items)
        return [math.nan if one.score is None else one.score for one in found]
