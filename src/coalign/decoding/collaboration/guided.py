"""Guided decoding: a base model writes while it is certain, and another model's words step in where it is not.

The loop as a method over speakers (see `decoding.speakers`), its record of who wrote what, and statistics of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from coalign.decoding.collaboration.speakers import Ask, Chunk, Length, Talk

BASE, NUDGING = "base", "nudging"
REPEATED_WORDS = 5
"""A base text of more words that is already in the answer ends the base model's turn."""
REPEATED_NUDGES = 3
"""So many rounds with the words of the round before end the answer."""
SHORTEST_REPEAT = 30
"""Characters of a repeated end that is removed."""

StopReason = Literal[
    "nudging_model_stop", "length", "round", "repeated_nudging_words", "stop_string", "context_full"
]
TurnEnd = Literal[
    "", "uncertain", "base_stop", "repeated_chunk", "repeated_words", "length", "context_full", "no_turn"
]


@dataclass(frozen=True)
class Settings:
    """What the loop needs to know.

    Attributes:
        gamma: the base model is uncertain where its largest probability is below (strictly).
        base_tokens, nudging_tokens: length of one chunk of each model.
        max_length: the answer ends once it has this length.
        max_rounds: or after so many turns of the nudging model.
        stop: texts that end the answer; they and what follows are cut off.
        window: after how many words at a time the base model is asked; 0 means all of a chunk. What comes out is the
            same; 1 is how the published code asks.
        window_growth: each further window of a chunk is so many times as long.
    """

    gamma: float = 0.4
    base_tokens: int = 16
    nudging_tokens: int = 16
    max_length: int = 512
    max_rounds: int = 150
    stop: tuple[str, ...] = ()
    window: int = 0
    window_growth: int = 1


@dataclass(frozen=True)
class Turn:
    """One round: the nudging model's words, what the base model went on with, and why it stopped there.

    `ended` is `uncertain` in the ordinary case, `no_turn` when the base model was not certain after any of the words
    (or had nothing to say), empty when the nudging model ended the answer.
    """

    nudge: str
    base: str = ""
    ended: TurnEnd = ""

    @property
    def text(self) -> str:
        return self.nudge + self.base


@dataclass(frozen=True)
class Guided:
    """An answer and how it came about.

    Attributes:
        text: the answer, without white space around it and without repeated ends.
        turns: in order; their texts joined are the answer before that clean-up.
        stop_reason: why it ended.
    """

    text: str
    turns: tuple[Turn, ...]
    stop_reason: StopReason

    @property
    def nudges(self) -> list[str]:
        return [one.nudge for one in self.turns]

    @property
    def rounds(self) -> list[str]:
        return [one.text for one in self.turns]

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """`stop` where the answer ended by itself."""
        ended = self.stop_reason in ("nudging_model_stop", "stop_string", "repeated_nudging_words")
        return "stop" if ended else "length"

    def spans(self) -> list[tuple[int, int, str]]:
        """(from character, to character, model) over `text`, in order; nothing is empty or overlaps."""
        raw = "".join(self.rounds)
        first = len(raw) - len(raw.lstrip())
        found: list[tuple[int, int, str]] = []
        place = -first
        for side, piece in ((s, p) for t in self.turns for s, p in ((NUDGING, t.nudge), (BASE, t.base))):
            start, end = max(place, 0), min(place + len(piece), len(self.text))
            place += len(piece)
            if start < end:
                found.append((start, end, side))
        return found


@dataclass
class _State:
    """The answer while it grows."""

    text: str = ""
    turns: list[Turn] = field(default_factory=list)

    def add(self, turn: Turn) -> None:
        self.turns.append(turn)
        self.text += turn.text


def guide(settings: Settings, length: Length) -> Talk[Guided]:
    """The loop on one answer.

    A round: the nudging model says a chunk. If it ended the answer there, the chunk is the end. Otherwise its first
    word is accepted, and further ones until the base model, asked what comes after them, is certain or would write
    the nudging model's next word anyway. Then the base model writes up to its first uncertain token.

    Args:
        length: of a text, in the unit of `settings.max_length`.
    """
    state = _State()
    reason: StopReason | None = None
    last, repeats, rounds = "", 0, 0
    while reason is None and length(state.text) < settings.max_length and rounds < settings.max_rounds:
        rounds += 1
        (said,) = yield Ask(NUDGING, (state.text,), settings.nudging_tokens)
        if said.stopped:
            reason = "nudging_model_stop"
            if said.text:
                state.add(Turn(said.text))
            continue
        if said.full:
            reason = "context_full"
            continue
        nudge, first = yield from _accept(settings, state.text, said.text)
        repeats = repeats + 1 if nudge == last else 0
        last = nudge
        if repeats >= REPEATED_NUDGES:
            reason = "repeated_nudging_words"
            continue
        base, ended = "", "no_turn"
        if first is not None and first.text:
            base, ended = yield from _speak(settings, state.text + nudge, first, length)
        state.add(Turn(nudge, base, ended))
        if any(one in state.text for one in settings.stop):
            reason = "stop_string"
    if reason is None:
        reason = "round" if rounds >= settings.max_rounds else "length"
    text = without_repeated_end(state.text)
    places = [place for one in settings.stop if (place := text.find(one)) >= 0]
    return Guided(text[: min(places, default=None)], tuple(state.turns), reason)


def _accept(settings: Settings, text: str, said: str) -> Talk[tuple[str, Chunk | None]]:
    """How much of the nudging model's chunk is accepted, and the base model's chunk after it if it takes over.

    Returns the accepted words and that chunk; None where the base model is uncertain after all of them. Then the
    last word is left out: it may be cut off by the length of the chunk. A single word is accepted whole.
    """
    words = said.lstrip(" ").split(" ")
    lead = " " * (len(said) - len(said.lstrip(" ")))
    if len(words) == 1:
        return said, None
    # An empty word is the second of two spaces.
    places = [place for place in range(1, len(words)) if words[place]]
    window = settings.window or len(places)
    while places:
        asked, places = places[:window], places[window:]
        window *= settings.window_growth
        prefixes = tuple(text + lead + " ".join(words[:place]) for place in asked)
        need = "first" if len(asked) > 1 else "certain"
        chunks = yield Ask(BASE, prefixes, settings.base_tokens, need, settings.gamma)
        for place, prefix, chunk in zip(asked, prefixes, chunks, strict=True):
            if _takes_over(chunk, " " + words[place], settings.gamma):
                if chunk.partial and need == "first":
                    chunk = yield from _needed(prefix, settings)
                return lead + " ".join(words[:place]), chunk
    return lead + " ".join(words[:-1]), None


def _takes_over(chunk: Chunk, next_word: str, gamma: float) -> bool:
    """Whether the base model is certain of its first token, or would begin the nudging model's next word.

    A chunk without tokens (the base model would end here) counts as the beginning of every word, as an empty first
    token of a server does.
    """
    if not chunk.tokens:
        return True
    return next_word.startswith(chunk.tokens[0].text) or chunk.tokens[0].top_prob >= gamma


def _needed(text: str, settings: Settings) -> Talk[Chunk]:
    (chunk,) = yield Ask(BASE, (text,), settings.base_tokens, "certain", settings.gamma)
    return chunk


def _speak(settings: Settings, text: str, first: Chunk, length: Length) -> Talk[tuple[str, TurnEnd]]:
    """The base model's turn after `text`: what it writes, and why it ended.

    The first token of the first chunk is accepted already; whether that chunk was the model's last is not looked at,
    because the next one is then empty, and an empty chunk counts as repeated.
    """
    room = settings.max_length - length(text)
    written, chunk, asked, inherited = first.tokens[0].text, first, text, True
    while length(written) < room:
        tokens = chunk.tokens[1:] if inherited else chunk.tokens
        said = "".join(one.text for one in tokens)
        if said in written:
            if chunk.partial:  # the rest decides
                (chunk,) = yield Ask(BASE, (asked,), settings.base_tokens)
                continue
            ended = "context_full" if chunk.full else "repeated_chunk" if said else "base_stop"
            return written, ended
        certain = _certain(tokens, settings.gamma)
        new = "".join(one.text for one in tokens[:certain])
        if len(new.split(" ")) > REPEATED_WORDS and new in text + written:
            return written, "repeated_words"
        written += new
        if certain < len(tokens):
            return written, "uncertain"
        if chunk.stopped and not inherited:
            return written, "base_stop"
        inherited, asked = False, text + written
        chunk = yield from _needed(asked, settings)
    return written, "length"


def _certain(tokens: Sequence[Any], gamma: float) -> int:
    """How many tokens come before the first uncertain one."""
    return next((place for place, one in enumerate(tokens) if one.top_prob < gamma), len(tokens))


def without_repeated_end(text: str) -> str:
    """`text` without white space around it; while it ends in two copies of a suffix, one is removed.

    The length of the suffix, at least `SHORTEST_REPEAT` characters, is found by bisection, as in the published code:
    it does not find every repeat.
    """
    text = text.strip()
    while size := _repeated_end(text):
        text = text[:-size]
    return text


def _repeated_end(text: str) -> int:
    low, high, found = 0, len(text), 0
    while low <= high:
        middle = (low + high) // 2
        if middle >= SHORTEST_REPEAT and text[:-middle].endswith(text[-middle:]):
            found, low = middle, middle + 1
        else:
            high = middle - 1
    return found


def nudged_words(answer: str, nudges: Sequence[str]) -> tuple[int, float]:
    """Words of an answer that were nudged, and their share.

    Words are what lies between single spaces. The last nudge, with which the nudging model ends the answer, does not
    count; the count is capped at the number of words of the answer. As in the published code, an answer without
    other nudges counts one.
    """
    words = len(answer.split(" "))
    counted = [one.strip() for one in nudges if one.strip()][:-1]
    nudged = len(" ".join(counted).split(" "))
    return min(nudged, words), min(nudged / words, 1.0)


def shares_by_place(
    answers: Iterable[tuple[int, Sequence[tuple[int, int, str]]]], places: int = 20
) -> list[float | None]:
    """Share of nudged characters in each of `places` equal parts of the answers, over all answers.

    Args:
        answers: (number of characters, spans as `Guided.spans` gives them).

    Returns:
        One share a part; None where no answer has text.
    """
    nudged, total = [0] * places, [0] * places
    for length, spans in answers:
        for start, end, side in spans:
            for character in range(start, end):
                place = character * places // max(length, 1)
                total[place] += 1
                nudged[place] += side == NUDGING
    return [n / t if t else None for n, t in zip(nudged, total, strict=True)]
