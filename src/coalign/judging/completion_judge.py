"""A base model as judge: it goes on with a text that ends where the verdict begins, or answers it as a chat message."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Unpack

from coalign.core.errors import ConfigError
from coalign.judging import protocol
from coalign.judging.prompts import question_text
from coalign.judging.store import ReplyStore, ask, content_hash
from coalign.models.types import Generator, Sampling


@dataclass(eq=False)
class CompletionJudge:
    """A judge that rates by what a model writes after a text of the user's own.

    Args:
        generator: any back end.
        template: the text; `{question}` and `{answer}` stand for what is rated.
        read: a reply to its score, None where there is none in it.
        sampling: how replies are decoded; each call draws from a stream of its own.
        chat: put the text before the model as a user's message.
        name: what reports call the judge, and part of what replies are kept under.
        identity: whatever else may change its replies (revision, weights).
        store: keeps replies; in memory by default.
    """

    generator: Generator
    template: str
    read: Callable[[str], float | None]
    sampling: Sampling
    _: KW_ONLY
    chat: bool = False
    name: str = "language model"
    identity: Mapping[str, Any] = field(default_factory=dict)
    store: ReplyStore = field(default_factory=ReplyStore)

    def rate(
        self, items: Sequence[protocol.JudgeItem], **terms: Unpack[protocol.RatingTerms]
    ) -> list[protocol.Rating]:
        """See `coalign.judging.protocol.Judge.rate`.

        Raises:
            ConfigError: a rubric or a scale, which the template has already.
        """
        rubric, scale, label = protocol.rating_terms(**terms)
        if rubric is not None or scale is not None:
            raise ConfigError("A judge that completes a text has rubric and scale in the text.")
        texts = [self._text(one) for one in items]
        seed = zlib.crc32(f"{self.sampling.seed}/{content_hash(texts)}".encode())
        replies = ask(
            self.generator,
            [[{"role": "user", "content": one}] for one in texts] if self.chat else texts,
            replace(self.sampling, seed=seed) if self.sampling.temperature else self.sampling,
            store=self.store,
            identity={"name": self.name, **self.identity},
            label=label,
        )
        ratings = []
        for item, reply in zip(items, replies, strict=True):
            score = self.read(reply.text)
            failure: protocol.Failure = "truncated" if reply.truncated else "malformed"
            ratings.append(
                protocol.Rating(
                    id=item.id, score=score, failure=failure if score is None else None, **reply.record
                )
            )
        return ratings

    def compare(
        self, items: Sequence[protocol.JudgeItem], **terms: Unpack[protocol.ComparingTerms]
    ) -> list[protocol.PairVerdict]:
        """It cannot.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("A judge that completes a text rates one response at a time.")

    def close(self) -> None:
        """Let the model go, where it was opened for this judge."""
        close: Any = getattr(self.generator, "close", None)
        if close is not None:
            close()

    def _text(self, item: protocol.JudgeItem) -> str:
        parts = {"{question}": question_text(item.prompt), "{answer}": item.responses[0]}
        # in one pass: an answer that holds `{question}` stays as it is
        return re.sub(r"\{question\}|\{answer\}", lambda found: parts[found[0]], self.template)
