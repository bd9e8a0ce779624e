"""Training of tiny models: an optimizer around the scoring engine and an objective, nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from coalign.data.encoding import EncodedRecord
from coalign.models.scoring.engine import Path, score_responses
from coalign.models.scoring.extrapolation import score_extrapolated
from coalign.models.types import ResponseLogps, Responses
from coalign.training.batches import Batch, Example, collate
from coalign.training.objective import Losses, NoConstants, Objective, ObjectiveState, ScoredBatch

M = TypeVar("M", bound=nn.Module)
SCORING_TOKENS = 8192


def example(
    prompt: Sequence[int],
    responses: Sequence[Sequence[int]],
    values: Sequence[float] | None = None,
    **columns: float,
) -> Example:
    """A training example from token ids; `values` as in `ScoredBatch.values`, by default not a number. `columns` are
    what an objective asks for by name.
    """
    record = EncodedRecord(
        record_index=0,
        prompt_ids=list(prompt),
        response_ids=[list(ids) for ids in responses],
        trained=None,
        values=list(values) if values is not None else [float("nan")] * len(responses),
        truncated=False,
    )
    return Example(contexts=(record,), id="", extras={name: [value] for name, value in columns.items()})


def best_only(examples: Sequence[Example]) -> list[Example]:
    """The examples with the response of the highest value alone."""
    best = []
    for one in examples:
        (record,) = one.contexts
        place = record.values.index(max(record.values))
        best.append(example(record.prompt_ids, [record.response_ids[place]]))
    return best


def _likelihood(batch: ScoredBatch, constants: NoConstants) -> Losses:
    return Losses(-batch.policy.sums())


LIKELIHOOD = Objective(
    "likelihood", data="demonstration", reference=False, normalise="tokens", loss=_likelihood
)
"""Cross-entropy of the responses, for the models that a check starts from."""


def trained(
    model: M,
    examples: Sequence[Example],
    objective: Objective,
    constants: Any = None,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    reference: Sequence[Tensor] | None = None,
    on_step: Callable[[int, M], bool | None] | None = None,
    path: Path = "padded",
) -> M:
    """A copy of `model`, trained with Adam at a constant learning rate.

    Args:
        examples: drawn in permutations, one after the other; a batch may span two. As `prepared` makes them, for
            objectives that add responses.
        constants: of the objective; its defaults when None.
        reference: what `reference_logps` gives for `examples`, for objectives with a reference; one that extrapolates
            takes `model` besides.
        on_step: called after every step with its number and the model, which it must leave as it is; the training ends
            where it says True.
        path: of the scoring engine; the default is the one that every architecture takes.

    Raises:
        ValueError: the objective needs a reference and there is none.
    """
    if objective.reference and reference is None:
        raise ValueError(f"{objective.name} compares with a reference: give its log-probabilities")
    constants = constants if constants is not None else objective.constants()
    state = objective.state() if objective.state else None
    strength = objective.strength(constants)
    policy = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate, fused=True)
    for number, rows in enumerate(_batches(len(examples), steps, batch_size, generator), start=1):
        batch = collate([examples[row] for row in rows])["batch"]
        fixed = [reference[row] for row in rows] if reference is not None else None
        scored = score(policy, batch, fixed, state, path=path)
        if strength > 0:
            extrapolated, _ = score_extrapolated(
                policy, lambda: nullcontext(model), batch.responses, strength, path=path
            )
            scored = replace(scored, extrapolated=extrapolated)
        scored = replace(scored, progress=(number - 1) / steps)
        if state is not None:
            with torch.no_grad():
                state.update(scored, constants)
        losses = objective.loss(scored, constants).losses
        optimizer.zero_grad()
        (losses.sum() / batch.count(objective.unit(constants))).backward()
        optimizer.step()
        if on_step is not None and on_step(number, policy):
            break
    return policy.eval()


def prepared(examples: Sequence[Example], objective: Objective) -> list[Example]:
    """The examples with the responses that the objective adds to each (`Objective.prepare`)."""
    if objective.prepare is None:
        return list(examples)
    records = objective.prepare([one.contexts[0] for one in examples], None)
    return [replace(one, contexts=(record,)) for one, record in zip(examples, records, strict=True)]


def score(
    model: nn.Module,
    batch: Batch,
    reference: Sequence[Tensor] | None = None,
    state: ObjectiveState | None = None,
    *,
    path: Path = "padded",
) -> ScoredBatch:
    """A batch as objectives read it; `reference` holds the token log-probabilities of each example."""
    policy = score_responses(model, batch.responses, path=path)
    frozen = None
    if reference is not None:
        frozen = ResponseLogps(torch.cat(list(reference)), policy.lengths, policy.prompt_index)
    return ScoredBatch(policy, frozen, batch.record_index, batch.values, batch.extras, state)


def reference_logps(model: nn.Module, examples: Sequence[Example], *, path: Path = "padded") -> list[Tensor]:
    """For each example the token log-probabilities of its responses, one after the other, without gradient."""
    batch = collate(examples)["batch"]
    pieces = frozen_logps(model, batch.responses, path=path).split()
    counts = torch.bincount(batch.record_index, minlength=len(examples)).tolist()
    ends = torch.tensor(counts).cumsum(0).tolist()
    return [torch.cat(pieces[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def one_each(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Responses:
    """One response to each prompt, to be scored."""
    return Responses(list(map(list, prompts)), list(map(list, responses)), list(range(len(prompts))))


def frozen_logps(model: nn.Module, responses: Responses, *, path: Path = "padded") -> ResponseLogps:
    """Log-probabilities of many responses, without gradient."""
    with torch.no_grad():
        return score_responses(model, responses, batch_tokens=SCORING_TOKENS, path=path)


def _batches(size: int, steps: int, batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    queue: list[int] = []
    for _ in range(steps):
        while len(queue) < batch_size:
            queue += torch.randperm(size, generator=generator).tolist()
        yield queue[:batch_size]
        del queue[:batch_size]
