"""Translating sentence by sentence with a person, whose corrections enter the memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from coalign.core.files import append_rows, read_rows
from coalign.core.runs import Run
from coalign.decoding.translation.files import Sentence
from coalign.decoding.translation.translator import AdaptiveTranslator, Proposal

COMMANDS = "Enter accepts, text corrects, /skip leaves the sentence out, /quit stops."


def run_session(
    run: Run,
    translator: AdaptiveTranslator,
    sentences: Iterable[Sentence],
    shots: int,
    *,
    ask: Callable[[str], str],
    show: Callable[[str], None],
) -> int:
    """Propose a translation for each sentence, take the correction, and learn it.

    Every decision is a row of `artefacts/session.jsonl` at once; sentences that have one are not asked again, so the
    same command goes on where it stopped. The end of the input stops like `/quit`.

    Args:
        ask: shows a prompt and reads a line; raises EOFError at the end.
        show: prints a line.

    Returns:
        How many sentences were decided in this session.
    """
    path = run.artefacts / "session.jsonl"
    done = {row["id"] for row in read_rows(path, repair=True)}
    decided = 0
    show(COMMANDS)
    for place, sentence in enumerate(sentences):
        if sentence.id in done:
            continue
        proposal = translator.translate([sentence], shots, start=place)[0]
        for line in described(proposal):
            show(line)
        try:
            answer = ask("> ").strip()
        except EOFError:
            break
        if answer == "/quit":
            break
        final = answer if answer else proposal.translation
        if answer == "/skip" or not final:
            append_rows(path, [_row(proposal, None)])
            show("left out" if answer == "/skip" else "left out: there is no translation to accept")
        else:
            # The memory first: a kill in between asks again for a sentence that is known, and loses nothing.
            translator.correct(sentence.source, final)
            append_rows(path, [_row(proposal, final)])
        decided += 1
    return decided


def described(proposal: Proposal) -> Iterator[str]:
    """What a translator wants to see: the sentence, its matches, terms and the proposal."""
    yield ""
    yield f"source    {proposal.sentence.source}"
    for unit, score in proposal.matches:
        yield f"{score:7.0%}   {unit.source}"
        yield f"          {unit.target}"
    for source, target in proposal.terms:
        yield f"term      {source} = {target}"
    yield f"proposal  {proposal.translation}"


def typed(stream: TextIO, prompt: Callable[[], None], *, first: int = 0) -> Iterator[Sentence]:
    """Sentences as they are typed, until an empty line or the end of the input; numbered from `first`."""
    number = first
    while True:
        prompt()
        line = stream.readline()
        if not line.strip():
            return
        yield Sentence(line.strip(), id=f"typed-{number}")
        number += 1


def _row(proposal: Proposal, final: str | None) -> dict[str, object]:
    return {
        "id": proposal.sentence.id,
        "source": proposal.sentence.source,
        "proposal": proposal.translation,
        "final": final,
        "accepted": final == proposal.translation,
        "matches": [[unit.source, score] for unit, score in proposal.matches],
    }
