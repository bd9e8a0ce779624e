"""Decoding without end: prompts join while others are decoded, and leave when they are done (continuous batching).

For a server, whose requests come when they come and each with its own sampling. What a request gets is what
`TransformersGenerator.generate` gives for it alone with the same seed, up to the rounding of the model's arithmetic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from coalign.models.devices import share_cores
from coalign.models.generation.batching import Decodes, left_padded
from coalign.models.generation.decode_state import Decoded, generation_of
from coalign.models.generation.endings import Endings
from coalign.models.generation.incremental import Rows
from coalign.models.generation.sampling import sample_tokens, stream_of, token_logps, top_token_logps, wide
from coalign.models.grammars.matching import Matcher, only_allowed
from coalign.models.modules import evaluation
from coalign.models.types import Piece, Sampling

if TYPE_CHECKING:
    from coalign.data.media.prompts import PicturePrompt


@dataclass(eq=False)
class Decoding:
    """A prompt that is to be decoded, or being decoded.

    Attributes:
        ids: its tokens.
        sampling: how; sample k draws from the stream of (seed, `prompt`, k).
        goes_on: its text goes on from the prompt's (plain text, a begun turn), so it keeps a leading space.
        streaming: pieces are wanted as they come, not only the whole.
        prompt: its index among the prompts of a call; 0 for a request of its own.
        cancelled: set it to let its rows leave at the next step.
        pictures: that it shows; None where it has none.
        found: tokens of the prompt whose states were kept from earlier ones, once it has joined.
    """

    ids: list[int]
    sampling: Sampling
    goes_on: bool = False
    streaming: bool = False
    prompt: int = 0
    cancelled: bool = False
    pictures: PicturePrompt | None = None
    found: int = 0


@dataclass(eq=False)
class _Row:
    """One sample under way."""

    of: Decoding
    sample: int
    endings: Endings
    draws: np.random.Generator | None
    matcher: Matcher | None = None
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    tops: list[list[tuple[int, float]]] = field(default_factory=list)
    written: int = 0

    @property
    def before(self) -> int | None:
        return self.of.ids[-1] if self.of.goes_on else None

    @property
    def kind(self) -> tuple[float, int, float]:
        one = self.of.sampling
        return (one.temperature, one.top_k, one.top_p)


class DecodeLoop:
    """Rows that come and go.

    Args:
        generator: model, tokenizer and limits of a batch.
    """

    def __init__(self, generator: Decodes) -> None:
        self._generator = generator
        self._device = generator.device
        self._waiting: deque[Decoding] = deque()
        self._live: list[_Row] = []
        self._forward: Rows | None = None
        self._logits = torch.empty(0)
        self._endings: dict[tuple[str, ...], Endings] = {}

    def add(self, decodings: Iterable[Decoding]) -> None:
        """Queue prompts. They join at the next step, in order, as far as the limits of a batch allow."""
        self._waiting.extend(decodings)

    @property
    def is_idle(self) -> bool:
        return not self._live and not self._waiting

    @property
    def rows(self) -> int:
        """Samples under way."""
        return len(self._live)

    def clear(self) -> None:
        """Forget everything, after a failure."""
        self._waiting.clear()
        self._live, self._forward = [], None

    @torch.inference_mode()
    def step(self) -> list[tuple[Decoding, Piece]]:
        """Decode one token of every sample, and let prompts join. Returns what came of it, the last pieces too.

        Raises:
            ModelError: logits that are not numbers.
        """
        share_cores()
        with evaluation(self._generator.model):
            self._leave([row for row in self._live if not row.of.cancelled])
            self._join()
            if not self._live:
                return []
            self._draw()
            ended = self._ended()
            pieces = [
                (row.of, piece)
                for row, end in zip(self._live, ended, strict=True)
                for piece in self._said(row, end)
            ]
            for place, (row, end) in enumerate(zip(self._live, ended, strict=True)):
                if end is not None and row.of.pictures is None:
                    self._generator.remember(row.of.ids, row.ids)
                    self._keep(place, row)
            tokens = torch.tensor([row.ids[-1] for row in self._live], device=self._device)
            stay = [place for place, end in enumerate(ended) if end is None]
            self._leave([self._live[place] for place in stay])
            if self._live and self._forward is not None:
                self._logits = self._forward.step(tokens[stay])
        return pieces

    # -- coming and going ----------------------------------------------------------------------------------------

    def _join(self) -> None:
        joining = self._admitted()
        if not joining:
            return
        joining.sort(key=lambda one: -len(one.ids))
        forward = self._generator.open_rows()
        shown = [one.pictures for one in joining if one.pictures is not None]
        logits = forward.start(*left_padded([one.ids for one in joining], self._device), shown)
        for one, found in zip(joining, forward.found, strict=True):
            one.found = found
        rows = [(place, sample) for place, one in enumerate(joining) for sample in range(one.sampling.rows)]
        if len(rows) > len(joining):
            index = torch.tensor([place for place, _ in rows], device=self._device)
            forward.select(index)
            logits = logits[index]
        new = [self._row(joining[place], sample) for place, sample in rows]
        if self._forward is None or not self._live:
            self._forward, self._logits, self._live = forward, logits, new
        else:
            self._forward.join(forward)
            self._logits = torch.cat([self._logits, logits])
            self._live = [*self._live, *new]

    def _admitted(self) -> list[Decoding]:
        """The first prompts in line that fit beside what is under way, all with pictures or all without; one always fits
        alone.
        """
        joining: list[Decoding] = []
        if self._live and (self._forward is None or not self._forward.can_join):
            return joining
        rows = len(self._live)
        longest = max((_room(row.of) for row in self._live), default=0)
        while self._waiting:
            one = self._waiting[0]
            more, width = rows + one.sampling.rows, max(longest, _room(one))
            fits = more <= self._generator.batch_size and more * width <= self._generator.batch_tokens
            alike = not joining or (one.pictures is None) == (joining[0].pictures is None)
            if rows and not (fits and alike):
                break
            self._waiting.popleft()
            if not one.cancelled:
                joining.append(one)
                rows, longest = more, width
        return joining

    def _leave(self, staying: list[_Row]) -> None:
        """Only these rows go on."""
        if len(staying) == len(self._live):
            return
        if staying and self._forward is not None:
            places = {id(row): place for place, row in enumerate(self._live)}
            index = torch.tensor([places[id(row)] for row in staying], device=self._device)
            self._forward.select(index)
            if len(self._logits) == len(self._live):
                self._logits = self._logits[index]
        else:
            self._forward = None
        self._live = staying

    def _keep(self, place: int, row: _Row) -> None:
        """A conversation goes on from the one answer that was asked for: its last token has not been computed with."""
        if self._forward is not None and row.of.sampling.rows == 1:
            self._forward.keep(place, [*row.of.ids, *row.ids[:-1]])

    def _row(self, one: Decoding, sample: int) -> _Row:
        sampling = one.sampling
        if sampling.stop not in self._endings:
            if len(self._endings) > 100:
                self._endings.clear()
            self._endings[sampling.stop] = Endings(self._generator.tokenizer, sampling.stop)
        draws = stream_of(sampling.seed, one.prompt, sample) if sampling.temperature > 0 else None
        grammar = sampling.grammar
        matcher = None if grammar is None else self._generator.matcher(grammar)
        return _Row(one, sample, self._endings[sampling.stop], draws, matcher)

    # -- one token -----------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        kinds: dict[tuple[float, int, float], list[int]] = {}
        matchers = [row.matcher for row in self._live]
        allowed = only_allowed(self._logits, matchers) if any(matchers) else self._logits
        for place, row in enumerate(self._live):
            kinds.setdefault(row.kind, []).append(place)
        for (temperature, top_k, top_p), places in kinds.items():
            logits = allowed if len(kinds) == 1 else allowed[places]
            uniforms = [0.0 if (draws := self._live[one].draws) is None else draws.random() for one in places]
            drawn = torch.tensor(uniforms, dtype=torch.float64).to(wide(self._device)).to(self._device)
            tokens = sample_tokens(logits, drawn, temperature, top_k, top_p)
            for place, token in zip(places, tokens.tolist(), strict=True):
                self._live[place].ids.append(token)
                if (matcher := self._live[place].matcher) is not None:
                    matcher.take(token)
        self._keep_logps()

    def _keep_logps(self) -> None:
        asking = [place for place, row in enumerate(self._live) if row.of.sampling.wants_logprobs]
        if not asking:
            return
        logits = self._logits[asking]
        tokens = torch.tensor([self._live[place].ids[-1] for place in asking], device=self._device)
        for place, logp in zip(asking, token_logps(logits, tokens).tolist(), strict=True):
            self._live[place].logps.append(logp)
        most = max(self._live[place].of.sampling.top_logprobs for place in asking)
        if most:
            ids, logps = (one.tolist() for one in top_token_logps(logits, most))
            for row, place in enumerate(asking):
                count = self._live[place].of.sampling.top_logprobs
                self._live[place].tops.append(list(zip(ids[row], logps[row], strict=True))[:count])

    def _ended(self) -> list[bool | None]:
        """For every row: None: it goes on; True: it ended by itself; False: it is as long as it may be."""
        stops = set(self._generator.stop_ids)
        ended: list[bool | None] = []
        for row in self._live:
            complete = row.matcher is not None and row.matcher.is_complete
            if complete or row.ids[-1] in stops or _at_stop(row):
                ended.append(True)
            else:
                ended.append(False if len(row.ids) >= row.of.sampling.max_new_tokens else None)
        return ended

    def _said(self, row: _Row, ended: bool | None) -> Iterator[Piece]:
        copies = range(1, row.of.sampling.n) if row.draws is None else range(0)
        if ended is None:
            if not row.of.streaming:
                return
            text = row.endings.settled(row.ids, row.before)
            if len(text) <= row.written:
                return
            piece = Piece(row.of.prompt, row.sample, text[row.written :])
            row.written = len(text)
        else:
            sampling = row.of.sampling
            decoded = Decoded(
                row.ids,
                ended,
                row.logps if sampling.wants_logprobs else None,
                row.tops if sampling.top_logprobs else None,
            )
            whole = generation_of(decoded, row.endings, row.before)
            piece = Piece(row.of.prompt, row.sample, whole.text[row.written :], whole)
        yield piece
        for copy in copies:  # greedy samples are all the same
            yield Piece(row.of.prompt, copy, piece.text, piece.generation)


def _room(one: Decoding) -> int:
    return len(one.ids) + one.sampling.max_new_tokens


def _at_stop(row: _Row) -> bool:
    if not row.of.sampling.stop:
        return False
    tail = row.ids[-row.endings.window :]
    return row.endings.has_stop([tail])[0] and row.endings.text(row.ids, row.before)[1]
