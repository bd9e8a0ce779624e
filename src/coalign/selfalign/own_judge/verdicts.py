"""What the two internal rewards of a model say of a round's pairs, kept row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from coalign.data.readers import read_records
from coalign.loops.rounds import Round
from coalign.loops.rows import Row
from coalign.loops.scoring import chunked_rows

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.models.options import ModelOptions
    from coalign.training.objective import Objective, ScoredBatch


def pair_verdicts(
    round: Round,
    stage: str,
    rows: Sequence[Row],
    objective: Objective,
    config: Any,
    policy: ModelOptions,
    reference: ModelOptions,
    read: Callable[[ScoredBatch], Tensor],
) -> list[Row]:
    """A row a pair with `id` and `p`: the probability that each internal reward gives the first response.

    Args:
        stage: name of the file of verdicts in the round's folder.
        rows: pairs as the round's `build` has them, with an `id` each.
        objective: whose contexts show a pair to the judges; a pair that the length limits drop has null.
        policy, reference: the models of the implicit reward; the judges are the policy.
        read: a scored batch to [judges, pairs] probabilities.
    """
    from coalign.models.files.loading import load_model, load_tokenizer
    from coalign.training.batches import collate
    from coalign.training.examples import prepare_examples
    from coalign.training.trainer import ObjectiveTask

    # written and read as training does, so that the same records are seen
    path = round.path(f"{stage}-pairs")
    round.write(path.stem, rows)
    records = {one.id: one for one in read_records(path, kind="preference").records}

    def open_judges() -> Callable[[Sequence[Row]], list[Row]]:
        tokenizer = load_tokenizer(policy)
        model, frozen = (load_model(one, training=False) for one in (policy, reference))
        task = ObjectiveTask(objective, config, frozen)

        def judge(part: Sequence[Row]) -> list[Row]:
            prepared = prepare_examples([records[row["id"]] for row in part], objective, tokenizer, config)
            found: dict[str, list[float]] = {}
            for start in range(0, len(prepared.examples), config.batch_size):
                batch = prepared.examples[start : start + config.batch_size]
                with torch.inference_mode():
                    p = read(task.score(model, collate(batch)["batch"])).T.tolist()
                found |= dict(zip((one.id for one in batch), p, strict=True))
            return [{"p": found.get(row["id"])} for row in part]

        return judge

    return chunked_rows(
        round.path(stage), rows, open_judges, label="Asking the internal rewards", unit="pair"
    )
