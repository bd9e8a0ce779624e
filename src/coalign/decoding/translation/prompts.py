"""Few-shot translation prompts: a memory's matches as examples, terms, drafts of another system; and reading replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from coalign.measures.texts.text_units import sentences, words

Term = tuple[str, str]
"""Source and target side."""


@dataclass(frozen=True)
class Shot:
    """An example of a translation.

    Attributes:
        mt: what another system made of the source; None to leave its line out.
        terms: pairs that occur in the example.
    """

    source: str
    target: str
    mt: str | None = None
    terms: Sequence[Term] = ()


@dataclass(frozen=True)
class Labels:
    """What lines begin with."""

    source: str
    target: str
    mt: str = "MT"
    terms: str = "Terms"


@dataclass(frozen=True)
class TranslationRequest:
    """A sentence to translate and what is known about it; examples come best first."""

    source: str
    shots: Sequence[Shot] = ()
    mt: str | None = None
    terms: Sequence[Term] = field(default_factory=tuple)


def translation_prompt(request: TranslationRequest, labels: Labels, *, best_last: bool = True) -> str:
    """The prompt, line by line, without an instruction; it ends with the label of the target and a colon.

    Examples stand in rising similarity, the best one next to the new sentence (`best_last`).
    """
    shots = list(request.shots)[::-1] if best_last else list(request.shots)
    lines = [line for one in shots for line in _lines(one.source, one.mt, one.terms, one.target, labels)]
    lines += _lines(request.source, request.mt, request.terms, "", labels)
    return "\n".join(lines).strip()


def _lines(source: str, mt: str | None, terms: Sequence[Term], target: str, labels: Labels) -> list[str]:
    lines = [f"{labels.source}: {source}"]
    if mt is not None:
        lines.append(f"{labels.mt}: {mt}")
    if terms:
        lines.append(f"{labels.terms}: " + ", ".join(f"{one} = {other}" for one, other in terms))
    lines.append(f"{labels.target}: {target}")
    return lines


def clean_translation(reply: str, source: str) -> str:
    """What of a reply is the translation: its first line; and of one line only the first sentence, where it has more
    sentences than the source and more than twice as many words.
    """
    text = reply.strip()
    if "\n" in text:
        return text.split("\n", 1)[0].strip()
    found = sentences(text)
    if len(found) > max(1, len(sentences(source))) and len(words(text)) > 2 * len(words(source)):
        return found[0]
    return text


def length_limit(sources: Sequence[str], multiplier: float) -> int:
    """Most new tokens for a batch: so many times the words of its longest source.

    Words stand between spaces; scripts without spaces count every Han or Kana character, and otherwise a word every
    twelve characters at least.
    """
    longest = max(max(len(one.split()), len(words(one)), len(one) // 12) for one in sources)
    return max(8, int(multiplier * longest))


def extraction_prompt(source: str, target: str, labels: Labels, count: int) -> str:
    """Ask for pairs of terms out of a sentence and its translation."""
    return (
        f"{labels.source}: {source}\n{labels.target}: {target}\n\n"
        f"Extract {count} terms from the sentence pair above, one a line, written as: "
        f"{labels.source} term = {labels.target} term\n\nTerms:\n"
    )


def read_terms(reply: str, source: str, target: str, count: int) -> list[Term]:
    """Pairs `source = target`, one a line, both sides of which occur in the sentence pair; others are dropped."""
    found: list[Term] = []
    for line in reply.splitlines():
        left, equals, right = line.strip().lstrip("-*•0123456789.) ").partition("=")
        pair = (left.strip(" \"'“”"), right.strip(" \"'“”"))
        known = all(pair) and pair[0].lower() in source.lower() and pair[1].lower() in target.lower()
        if equals and known and pair not in found:
            found.append(pair)
    return found[:count]
