"""Steps with a model by a pool of workers, each of which makes the step that it works through."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from coalign.core.engines import ray_data
from coalign.core.engines.batches import Failed
from coalign.core.engines.options import EngineOptions
from coalign.judging.options import JudgeOptions, language_judge, local_judge
from coalign.loops.curation.corpus import Corpus
from coalign.loops.curation.named_steps import Context, NamedStep
from coalign.loops.curation.recipe import make_steps
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Local, Made, Step
from coalign.loops.steps.passes import is_spread

if TYPE_CHECKING:
    from coalign.judging.protocol import Judge


@dataclass(frozen=True)
class Workers:
    """Works through a step (`coalign.loops.steps.passes.Spread`).

    Args:
        recipe: the steps; the one that is worked through is found by its name.
        options: of the judge and the model.
    """

    recipe: Sequence[NamedStep]
    corpus: Corpus
    options: JudgeOptions
    engine: EngineOptions

    def __call__(
        self, step: Local, batches: Iterator[Sequence[Row]]
    ) -> Iterator[Sequence[Sequence[Made] | Failed]]:
        make = functools.partial(_step, self.recipe, self.corpus, self.options, step.name)
        return ray_data.over_ray(batches, make, self.engine)

    def describe(self, steps: Sequence[Step]) -> str:
        """Which steps workers work through, in a sentence."""
        theirs = [one.name for one in steps if is_spread(one)]
        others = [one.name for one in steps if not is_spread(one)]
        here = (
            f"; in this process: {', '.join(others)}, which have no model or look at all records"
            if others
            else ""
        )
        return f"By workers: {', '.join(theirs)}{here}."


def _step(
    recipe: Sequence[NamedStep], corpus: Corpus, options: JudgeOptions, name: str
) -> Callable[[Sequence[Row]], Sequence[Sequence[Made]]]:
    """The step of a name, as a worker has it: replies of its judge are kept as long as it lives."""

    def open_judge() -> Judge:
        from coalign.judging.store import ReplyStore

        return language_judge(options, ReplyStore()) if options.judge == "model" else local_judge(options)

    steps = make_steps(recipe, Context(corpus, options, open_judge))
    step = cast(Local, next(one for one in steps if one.name == name))

    def work(rows: Sequence[Row]) -> list[list[Made]]:
        # the facts of a record that has none cannot be sent
        return [[replace(one, facts=dict(one.facts)) for one in several] for several in step(rows)]

    return work
