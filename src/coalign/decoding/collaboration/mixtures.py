"""Baselines that mix the next-token distributions of models with one vocabulary, as methods over speakers.

Both go position by position and end when the small aligned model ends. Distributions are the lists of most probable
tokens that a speaker gives, matched by text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from coalign.decoding.collaboration.guided import BASE, NUDGING, Guided, StopReason, Turn
from coalign.decoding.collaboration.speakers import Ask, Chunk, Length, Talk, Token

PLAIN = "plain"
"""The small model before its alignment, for proxy tuning."""
ENSEMBLE_TOP, PROXY_TOP = 5, 100
"""Length of the lists of most probable tokens, as in the published baselines."""

Choose = Callable[[Mapping[str, Token]], str]


def ensemble(tokens: Mapping[str, Token]) -> str:
    """The token with the largest sum of both models' probabilities; one that a list lacks has 0 there."""
    sums: dict[str, float] = {}
    for one in tokens.values():
        for text, prob in one.alternatives:
            sums[text] = sums.get(text, 0.0) + prob
    return max(sums, key=sums.__getitem__)


def proxy_tuning(tokens: Mapping[str, Token]) -> str:
    """The token with the largest `P_base * P_aligned / P_plain` among those in all three lists; the base model's own
    where there is none.
    """
    base, aligned, plain = (dict(tokens[side].alternatives) for side in (BASE, NUDGING, PLAIN))
    shared = [text for text in base if text in aligned and text in plain]
    if not shared:
        return tokens[BASE].text
    return max(shared, key=lambda text: base[text] * aligned[text] / plain[text])


def mix(
    choose: Choose, sides: Sequence[str], length: Length, *, max_length: int, chunk_tokens: int = 16
) -> Talk[Guided]:
    """Write an answer token by token, each chosen from what all `sides` would put there.

    Every model says a chunk; it counts as far as all of them agree, and the first place where they do not is decided
    by `choose`. When the aligned model ends the answer within its chunk, that chunk is the end.
    """
    text, turns = "", []
    reason: StopReason = "length"
    while length(text) < max_length:
        chunks: dict[str, Chunk] = {}
        for side in sides:
            (chunks[side],) = yield Ask(side, (text,), chunk_tokens)
        aligned = chunks[NUDGING]
        if aligned.stopped or aligned.full:
            reason = "nudging_model_stop" if aligned.stopped else "context_full"
            turns.append(Turn(aligned.text))
            break
        new = _agreed(choose, list(sides), chunks)
        if not new:  # nothing but the end of a model that may not end
            new = next((one.text for side in sides for one in chunks[side].tokens if one.text), "")
        if not new:
            reason = "repeated_nudging_words"
            break
        text += new
        turns.append(Turn("", new, "uncertain"))
    return Guided("".join(one.text for one in turns).strip(), tuple(turns), reason)


def _agreed(choose: Choose, sides: list[str], chunks: Mapping[str, Chunk]) -> str:
    new = ""
    for place in range(min(len(chunks[side].tokens) for side in sides)):
        here = {side: chunks[side].tokens[place] for side in sides}
        chosen = choose(here)
        new += chosen
        if any(one.text != chosen for one in here.values()):
            break
    return new
