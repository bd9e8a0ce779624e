"""Beam search over tokens whose value is judged by where they lead: a heuristic on a greedy lookahead.

At each step every beam is extended by its most probable tokens; each extension is continued greedily for some tokens,
a heuristic judges the text so far together with that lookahead, and the best extensions over all beams of a prompt
stay::

    c(y_t) = log P(y_1:t | p) + weight * h(p, y_1:t+l)

The sum covers the beam and the new token, not the lookahead. The prompts of a batch go in step; all candidates of a
beam grow in one tree (`models/token_tree.py`), and the lookahead of the candidate that won is kept: it is the greedy
continuation that the next step needs for its own most probable token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.models.scoring.token_tree import Trees


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How to search.

    Attributes:
        max_new_tokens: a beam of so many tokens is complete.
        candidates: most probable next tokens of a beam that are tried (k).
        beams: extensions that stay, over all beams of a prompt (b).
        lookahead: most tokens by which a candidate is continued (l).
        weight: of the heuristic against the log-probability (lambda).
        every: tokens that are taken at a time: the candidate and the first of its lookahead.
        past_the_end: look beyond `max_new_tokens`, at text that can never be written.
    """

    max_new_tokens: int
    candidates: int = 10
    beams: int = 1
    lookahead: int = 32
    weight: float = 1.0
    every: int = 1
    past_the_end: bool = False


class Extension(NamedTuple):
    """What the heuristic judges: tokens of a beam, a candidate and its lookahead.

    Attributes:
        prompt: index of the prompt.
        tokens: all tokens after the prompt.
        finished: nothing can follow: the tokens end by themselves.
    """

    prompt: int
    tokens: list[int]
    finished: bool


Heuristic = Callable[[Sequence[Extension]], Sequence[float]]
"""Values of extensions, the higher the better; all extensions of one step of some prompts come together."""
Ends = Callable[[Sequence[Sequence[int]]], Sequence[bool]]
"""Whether token sequences have just ended (end-of-turn, stop text)."""


class Top(NamedTuple):
    """The most probable next tokens, best first and lower ids first among equals, and their log-probabilities."""

    tokens: list[int]
    logps: list[float]


@dataclass
class Path:
    """Tokens that follow a beam: the first of them have been computed and are nodes of its row's tree."""

    tokens: list[int]
    nodes: list[int] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)
    ended: bool = False

    def copy(self) -> Path:
        return Path(list(self.tokens), list(self.nodes), list(self.tops), self.ended)


@dataclass
class Beam:
    """A text under way or complete.

    Attributes:
        tokens: its tokens.
        logps: log-probability of each, under the model as it is.
        score: c, with the heuristic's value of the whole text once it is complete.
        value: the heuristic's last value.
        finished: it ended by itself.
    """

    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    score: float = -math.inf
    value: float = 0.0
    finished: bool = False
    row: int = 0
    nodes: list[int] = field(default_factory=list)
    top: Top | None = None
    ahead: Path | None = None

    @property
    def rank(self) -> tuple[float, list[int]]:
        """Best first; of equal scores the smaller token list."""
        return -self.score, self.tokens


@dataclass
class Candidate:
    """A beam and one of its extensions.

    Attributes:
        token_logp: of the candidate token.
        logp: of the beam and the candidate token.
    """

    beam: Beam
    path: Path
    token_logp: float
    logp: float
    value: float = 0.0
    score: float = 0.0

    @property
    def tokens(self) -> list[int]:
        """With the candidate token, without the lookahead."""
        return [*self.beam.tokens, self.path.tokens[0]]

    @property
    def seen(self) -> list[int]:
        """With the lookahead."""
        return self.beam.tokens + self.path.tokens

    @property
    def rank(self) -> tuple[float, list[int]]:
        return -self.score, self.tokens


@dataclass
class SearchCost:
    """Counted over a search: calls of the model, tokens computed after the prompts, texts judged."""

    forwards: int = 0
    tokens: int = 0
    judged: int = 0


Trace = Callable[[int, int, list[Candidate], list[Beam]], None]
"""Called with prompt, step, candidates (best first) and the beams that stay."""


def search(
    trees: Trees,
    prompts: Sequence[Sequence[int]],
    heuristic: Heuristic,
    ends: Ends,
    settings: SearchSettings,
    *,
    cost: SearchCost | None = None,
    trace: Trace | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[list[Beam]]:
    """Search a continuation of every prompt.

    Args:
        trees: of the model, not started.
        prompts: token ids, not empty.
        heuristic: see `Heuristic`; it must not depend on which prompts come together.
        on_step: called after each step with the number of prompts that go on.

    Returns:
        For each prompt its complete beams, best first.
    """
    run = _Search(trees, heuristic, ends, settings, cost or SearchCost(), trace)
    run.start(prompts)
    while run.live:
        run.step()
        if on_step:
            on_step(len({prompt for prompt, _ in run.live}))
    return [sorted(pool, key=lambda one: one.rank)[: settings.beams] for pool in run.complete]


@dataclass
class _Search:
    """State of a search: complete beams by prompt, and the live ones with their prompt."""

    _trees: Trees
    _heuristic: Heuristic
    _ends: Ends
    _settings: SearchSettings
    _cost: SearchCost
    _trace: Trace | None
    _steps: int = 0
    complete: list[list[Beam]] = field(default_factory=list)
    live: list[tuple[int, Beam]] = field(default_factory=list)

    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        tops = top_tokens(self._trees.start(prompts), self._settings.candidates)
        self._cost.forwards += 1
        self.complete = [[] for _ in prompts]
        self.live = [(row, Beam(row=row, top=top)) for row, top in enumerate(tops)]

    def step(self) -> None:
        """Extend, look ahead, judge, select, and bring the trees up to date."""
        self._compute_missing()
        candidates = [(prompt, one) for prompt, beam in self.live for one in _extensions(beam)]
        self._end([one for _, one in candidates])
        self._look_ahead([one for _, one in candidates])
        self._judge(candidates)
        by_prompt: dict[int, list[Candidate]] = {}
        for prompt, one in candidates:
            by_prompt.setdefault(prompt, []).append(one)
        self.live = [
            (prompt, beam) for prompt, mine in by_prompt.items() for beam in self._select(prompt, mine)
        ]
        if self.live:
            self._prune()
        self._steps += 1

    def _compute_missing(self) -> None:
        """What follows the last tokens of beams that were not computed (no lookahead, or all of it was taken)."""
        todo = [beam for _, beam in self.live if beam.top is None]
        for beam, node, top in zip(
            todo, *self._grow([(one.row, one.nodes, one.tokens[-1]) for one in todo]), strict=True
        ):
            beam.nodes.append(node)
            beam.top = top

    def _look_ahead(self, candidates: list[Candidate]) -> None:
        while True:
            todo = [one for one in candidates if not one.path.ended and self._wanted(one) > 0]
            if not todo:
                return
            fed = [one for one in todo if len(one.path.nodes) < len(one.path.tokens)]
            nodes, tops = self._grow(
                [(one.beam.row, one.beam.nodes + one.path.nodes, one.path.tokens[-1]) for one in fed]
            )
            for one, node, top in zip(fed, nodes, tops, strict=True):
                one.path.nodes.append(node)
                one.path.tops.append(top)
            for one in todo:
                one.path.tokens.append(one.path.tops[-1].tokens[0])
            self._end(todo)

    def _wanted(self, one: Candidate) -> int:
        """Tokens by which the lookahead may still grow."""
        settings = self._settings
        room = settings.lookahead + 1 - len(one.path.tokens)
        if settings.past_the_end:
            return room
        return min(room, settings.max_new_tokens - len(one.beam.tokens) - len(one.path.tokens))

    def _end(self, candidates: list[Candidate]) -> None:
        open_ones = [one for one in candidates if not one.path.ended]
        for one, ended in zip(open_ones, self._ends([one.seen for one in open_ones]), strict=True):
            one.path.ended = ended

    def _judge(self, candidates: list[tuple[int, Candidate]]) -> None:
        values = self._heuristic([Extension(prompt, one.seen, one.path.ended) for prompt, one in candidates])
        self._cost.judged += len(candidates)
        for (_, one), value in zip(candidates, values, strict=True):
            if not math.isfinite(value):
                raise ValueError(f"the heuristic gave {value}, expected finite numbers")
            one.value = value
            one.score = one.logp + self._settings.weight * value

    def _select(self, prompt: int, candidates: list[Candidate]) -> list[Beam]:
        """The extensions of a prompt that stay and go on; those that are complete move to `complete`."""
        pool: list[Beam | Candidate] = [*self.complete[prompt], *candidates]
        kept = sorted(pool, key=lambda one: one.rank)[: self._settings.beams]
        beams = [one if isinstance(one, Beam) else self._committed(one) for one in kept]
        if self._trace:
            self._trace(prompt, self._steps, sorted(candidates, key=lambda one: one.rank), beams)
        limit = self._settings.max_new_tokens
        self.complete[prompt] = [one for one in beams if one.finished or len(one.tokens) >= limit]
        return [one for one in beams if not one.finished and len(one.tokens) < limit]

    def _committed(self, one: Candidate) -> Beam:
        """The beam after its candidate, and the first tokens of the lookahead where several are taken at a time."""
        beam, path, room = one.beam, one.path, self._settings.max_new_tokens - len(one.beam.tokens)
        count = min(self._settings.every, len(path.tokens), room)
        followed = [path.tops[place].logps[0] for place in range(count - 1)]
        logps = [*beam.logps, one.token_logp, *followed]
        finished = path.ended and count == len(path.tokens)
        score = one.score + sum(followed)
        fed = min(count, len(path.nodes))
        return Beam(
            tokens=beam.tokens + path.tokens[:count],
            logps=logps,
            score=score,
            value=one.value,
            finished=finished,
            row=beam.row,
            nodes=beam.nodes + path.nodes[:fed],
            top=path.tops[count - 1] if fed == count else None,
            ahead=Path(path.tokens[count:], path.nodes[count:], path.tops[count:], path.ended),
        )

    def _prune(self) -> None:
        """Forget the trees but for the live beams and the lookaheads that they keep."""
        aheads = [beam.ahead.nodes if beam.ahead else [] for _, beam in self.live]
        self._trees.keep(
            [beam.row for _, beam in self.live],
            [beam.nodes + ahead for (_, beam), ahead in zip(self.live, aheads, strict=True)],
        )
        for row, (_, beam) in enumerate(self.live):
            beam.row = row
            beam.nodes = list(range(len(beam.nodes)))
            if beam.ahead:
                start = len(beam.nodes)
                beam.ahead.nodes = list(range(start, start + len(beam.ahead.nodes)))

    def _grow(self, new: list[tuple[int, list[int], int]]) -> tuple[list[int], list[Top]]:
        """Compute tokens, each given as (row, nodes before it, token)."""
        from coalign.models.scoring.token_tree import ROOT

        if not new:
            return [], []
        nodes, logits = self._trees.grow(
            [row for row, _, _ in new],
            [before[-1] if before else ROOT for _, before, _ in new],
            [token for _, _, token in new],
        )
        self._cost.forwards += 1
        self._cost.tokens += len(new)
        return nodes, top_tokens(logits, self._settings.candidates)


def _extensions(beam: Beam) -> list[Candidate]:
    """A beam with each of its most probable next tokens; the one that its lookahead began with keeps it."""
    assert beam.top is not None
    total = sum(beam.logps)
    made = []
    for token, logp in zip(*beam.top, strict=True):
        ahead = beam.ahead
        path = ahead.copy() if ahead and ahead.tokens[:1] == [token] else Path([token])
        made.append(Candidate(beam, path, logp, total + logp))
    return made


def top_tokens(logits: Tensor, count: int) -> list[Top]:
    """The most probable tokens of each row [N, V]; among equals the lower ids."""
    logps = logits.log_softmax(-1)
    count = min(count, logps.shape[-1])
    last = logps.topk(count, dim=-1).values[:, -1:]
    wide = int((logps >= last).sum(-1).max())  # more than `count` where others equal the last one
    values, tokens = logps.topk(max(wide, count), dim=-1)
    tokens, order = tokens.sort(dim=-1)
    values, ranked = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    tokens = tokens.gather(-1, ranked)
    return [
        Top(ids, logps)
        for ids, logps in zip(tokens[:, :count].tolist(), values[:, :count].tolist(), strict=True)
    ]


def rows_of(settings: SearchSettings, prompt_length: int, batch_tokens: int, batch_size: int) -> int:
    """Prompts of up to `prompt_length` tokens that may be searched together; at least one.

    Args:
        batch_tokens: tokens whose keys and values fit.
        batch_size: most candidates that are computed at a time.
    """
    tree = settings.candidates * (settings.lookahead + 1) + settings.max_new_tokens
    tokens = settings.beams * (prompt_length + tree)
    return max(1, min(batch_tokens // tokens, batch_size // (settings.beams * settings.candidates)))
