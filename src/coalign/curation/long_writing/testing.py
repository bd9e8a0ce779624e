"""Testing a model on requests with lengths: options, its answers, and what a judge says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.files import read_template
from coalign.core.options import Count, NonNegative, OptionGroup, Positive, option
from coalign.core.runs import Run
from coalign.judging.store import prompt_counter
from coalign.models.types import Sampling

if TYPE_CHECKING:
    from coalign.curation.long_writing.answers import Order, Written
    from coalign.curation.long_writing.quality import Scores
    from coalign.loops.rounds import Round
    from coalign.models.types import Generator


@dataclass(kw_only=True)
class OrderOptions(OptionGroup):
    """Requests with lengths, how they are answered, and who rates the answers."""

    __group__ = "Evaluation"

    orders: str | None = option(
        None,
        "requests to test on, with a column `length` or a length in their words (LongBench-Write)",
    )
    max_new_tokens: Count = option(
        32_768,
        "most tokens of an answer; fewer where the model's context ends",
        source="paper",
        only_with="orders",
    )
    temperature: NonNegative = option(0.5, "of the answers", source="paper", only_with="orders")
    judge_model: str | None = option(None, "who rates the quality of the answers", only_with="orders")
    judge_endpoint: str | None = option(None, "server of the judge", only_with="judge_model")
    judge_temperature: NonNegative = option(
        0.5,
        "of the judge, which is asked again where it cannot be read",
        source="paper",
        only_with="judge_model",
    )
    judge_max_new_tokens: Count = option(
        1024, "room for its verdict", source="official code", only_with="judge_model"
    )
    judge_template: Path | None = option(
        None, "your own request to the judge, a text with {request} and {response}", only_with="judge_model"
    )
    missing_quality: Positive | None = option(
        None,
        "score of an answer that was not rated; by default it is left out",
        source="official code: 3",
        only_with="judge_model",
    )


def answers_of(config: Any, round: Round, stage: str, orders: Sequence[Order]) -> list[Written]:
    """What the start model (`baseline`) or the trained one writes to the orders."""
    from coalign.curation.long_writing.answers import write_to_orders
    from coalign.models.backends.open import open_generator

    model = config if stage == "baseline" else config.at(round.run.model)
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=config.seed
    )
    opened: Generator | None = None
    if len(round.read(stage)) < len(orders):
        opened = open_generator(model)
        sampling = replace(sampling, max_new_tokens=room_of(opened, orders, config.max_new_tokens))
    label = f"Writing to orders ({stage})"
    return write_to_orders(
        round.path(stage), orders, lambda: opened or open_generator(model), sampling,
        counter=config.counter, label=label,
    )  # fmt: skip


def room_of(generator: Generator, orders: Sequence[Order], most: int) -> int:
    """New tokens that a model has room for behind the longest request, at most `most`; `most` where its context is not
    known here.
    """
    context, count = getattr(generator, "context", None), prompt_counter(generator)
    if not context or count is None:
        return most
    return max(1, min(most, context - max(count(one.prompt) for one in orders)))


def rated(config: Any, run: Run, answers: Mapping[str, Sequence[Written]]) -> dict[str, list[Scores | None]]:
    """The judge's scores of all answers; nothing without a judge."""
    from coalign.curation.long_writing.quality import TEMPLATE, rate_quality
    from coalign.judging.store import Deferred, ReplyStore
    from coalign.models.backends.open import open_named

    if config.judge_model is None:
        return {}
    own = config.judge_template
    template = read_template(own, ("{request}", "{response}")) if own else TEMPLATE
    judge = Deferred(
        lambda: open_named(config.judge_model, endpoint=config.judge_endpoint, device=config.device)
    )
    identity = {"model": config.judge_model, "endpoint": config.judge_endpoint}
    sampling = Sampling(
        max_new_tokens=config.judge_max_new_tokens, temperature=config.judge_temperature, seed=config.seed
    )
    with ReplyStore(run.artefacts / "replies.jsonl") as store:
        return {
            name: rate_quality(
                judge,
                [(one.order.request, one.text) for one in written],
                sampling,
                store=store,
                identity=identity,
                template=template,
            )
            for name, written in answers.items()
        }
