"""Records that teach a model to refuse requests in another tense, mixed with ordinary chats."""

from __future__ import annotations

import random
from collections.abc import Sequence

from coalign.core.errors import DataError
from coalign.data.records import Demonstration, Source

REFUSAL = "Sorry, I can't help with that."


def defence_records(
    asked: Sequence[str], chats: Sequence[Demonstration], *, share: float, size: int, refusal: str, seed: int
) -> list[Demonstration]:
    """`size` records: a share of reformulated requests answered by the refusal, the others ordinary chats, shuffled.

    Args:
        asked: reformulations of the requests to train on; used in turn, again from the beginning where they are few.
        chats: drawn without replacement, the same ones first whatever the share is.
        share: of the refusals, in [0, 1].

    Raises:
        DataError: too few chats, or no reformulation where some are needed.
    """
    count = round(share * size)
    if count and not asked:
        raise DataError("There is no reformulation to refuse: the reformulator gave none.")
    if len(chats) < size - count:
        raise DataError(
            f"{len(chats)} chats, expected {size - count} for {size} records with a share of {share:g} refusals.",
            hint="Give more chats, or fewer --defence-records.",
        )
    draw = random.Random(f"{seed}/defence")
    refusals = [
        Demonstration(
            prompt=[{"role": "user", "content": asked[place % len(asked)]}],
            completion=refusal,
            source=Source("<built>", index=place),
        )
        for place in range(count)
    ]
    records = [*refusals, *draw.sample(list(chats), len(chats))[: size - count]]
    draw.shuffle(records)
    return records
