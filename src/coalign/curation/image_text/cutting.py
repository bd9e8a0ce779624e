"""Steps over image-text pairs: open and score, drop duplicates, keep the best share or what reaches a threshold."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from coalign.curation.image_text.quality import count_words
from coalign.loops.rows import Row
from coalign.loops.steps.choices import Exact, Top
from coalign.loops.steps.kinds import Made, Rejected, Step
from coalign.loops.steps.usual import Filter, scored

if TYPE_CHECKING:
    from PIL import Image

    from coalign.curation.image_text.scorers import PairScorer

SCORE, HASH, WORDS = "score", "image_hash", "words"
BROKEN = "picture cannot be used"
NO_CAPTION = "no caption"


class ScorePairs:
    """Opens the picture of every row and adds `score`, `words` and, where duplicates are dropped, `image_hash`.

    A picture that cannot be opened is rejected with what is wrong with it: no blank stands in its place. Rows of one batch
    that name the same picture open and encode it once.

    Args:
        open_scorer: opens what scores; called when the first score is missing.
        picture: a row's picture.
        hashed: whether the picture's pixels are hashed.
        workers: threads that decode.
    """

    alone = True
    needs = ("image", "caption")

    def __init__(
        self,
        name: str,
        open_scorer: Callable[[], PairScorer],
        picture: Callable[[Row], Any],
        *,
        batch: int = 64,
        hashed: bool = True,
        workers: int | None = None,
    ) -> None:
        self.name, self.batch = name, batch
        self._open_scorer = open_scorer
        self._scorer: PairScorer | None = None
        self._picture, self._hashed = picture, hashed
        self._pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        named = {_key(row): row for row in reversed(rows)}
        opened = dict(zip(named, self._pool.map(self._open, named.values()), strict=True))
        pictures: list[Image.Image] = []
        places: dict[str, int] = {}
        for key, (picture, _) in opened.items():
            if picture is not None:
                places[key] = len(pictures)
                pictures.append(picture)
        good = [row for row in rows if _key(row) in places and str(row["caption"] or "").strip()]
        scores = iter(self._scored(pictures, [places[_key(row)] for row in good], good))
        usable = {id(row) for row in good}
        return [
            [self._made(row, opened[_key(row)][1], next(scores) if id(row) in usable else None)]
            for row in rows
        ]

    def _scored(
        self, pictures: Sequence[Image.Image], which: Sequence[int], rows: Sequence[Row]
    ) -> Sequence[float]:
        if not rows:
            return ()
        if self._scorer is None:
            self._scorer = self._open_scorer()
        return self._scorer.score(pictures, which, [row["caption"] for row in rows])

    def _made(self, row: Row, told: str, score: float | None) -> Made:
        if score is not None:
            beside = {HASH: told} if self._hashed else {}
            return scored({**row, WORDS: count_words(row["caption"]), **beside}, SCORE, _number(score))
        if not str(row["caption"] or "").strip():
            return Rejected(row, NO_CAPTION)
        return Rejected(row, BROKEN, {"problem": told})

    def _open(self, row: Row) -> tuple[Image.Image | None, str]:
        """A picture with its hash, or nothing with what is wrong."""
        from coalign.data.media.errors import MediaError
        from coalign.data.media.pictures import picture_hash

        try:
            picture = self._picture(row).open()
        except MediaError as error:
            return None, error.message
        return picture, picture_hash(picture) if self._hashed else ""

    def close(self) -> None:
        """Let the model go."""
        self._scorer = None
        self._pool.shutdown()


def cutting_steps(keep: float, threshold: float | None, *, distinct: bool) -> list[Step]:
    """What follows the scores: one of the pairs with the same picture and caption, then the best share (rounded down, at
    least one, of equal scores the first), or those that reach a threshold.
    """
    steps: list[Step] = [Exact("duplicates", _content, needs=(HASH, "caption"))] if distinct else []
    if threshold is None:
        return [*steps, Top("cut", SCORE, share=keep, rounding="down")]
    why = f"score below {threshold:g}"
    return [*steps, Filter("cut", lambda row: None if row[SCORE] >= threshold else why, needs=(SCORE,))]


def _key(row: Row) -> str:
    image = row["image"]
    return (
        image if isinstance(image, str) else hashlib.blake2b(repr(image).encode(), digest_size=16).hexdigest()
    )


def _content(row: Row) -> str:
    return f"{row[HASH]}\n{row['caption']}"


def _number(score: float) -> float | None:
    """Seven digits, as many as float32 holds; None for what is not finite."""
    return float(f"{score:.7g}") if math.isfinite(score) else None


def reasons_of(problems: Sequence[str]) -> Counter[str]:
    """What is wrong with pictures, without their names."""
    return Counter(one.partition(": ")[2] or one for one in problems)
