"""Personal data in texts: found by patterns and check sums, masked by its kind, counted.

What is found is what has a form: addresses of mail and of machines, numbers of telephones, cards, accounts and identity
papers. Names, addresses of streets, dates of birth, employers, illnesses and whatever else needs understanding are *not*
looked for: `NOT_LOOKED_FOR` says so wherever counts are shown. Recognisers are those of presidio-analyzer (extra `pii`), which
are used without a language model and without a network; its telephone numbers are any that a region could have, so that
order numbers are taken for some.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from coalign.core.extras import require

KINDS: dict[str, str] = {
    "EMAIL_ADDRESS": "EmailRecognizer",
    "PHONE_NUMBER": "PhoneRecognizer",
    "CREDIT_CARD": "CreditCardRecognizer",
    "IBAN_CODE": "IbanRecognizer",
    "US_SSN": "UsSsnRecognizer",
    "IP_ADDRESS": "IpRecognizer",
    "MAC_ADDRESS": "MacAddressRecognizer",
    "CRYPTO": "CryptoRecognizer",
}
"""Kind, as presidio names it, to its recogniser."""
NOT_LOOKED_FOR = (
    "names of people, street addresses, dates of birth, employers, illnesses, user names, passwords and keys, numbers of "
    "passports and other identity papers but those of the US social security, and anything in pictures"
)


@dataclass(frozen=True)
class Found:
    """A stretch of a text, the characters from `start` up to `end`."""

    kind: str
    start: int
    end: int
    score: float = 1.0


Finder = Callable[[str], Sequence[Found]]
"""Finds what is to be masked; stretches may overlap."""


@dataclass
class Masker:
    """Puts `<KIND>` in the place of what a finder finds, and counts it.

    Attributes:
        find: by default presidio's recognisers.
        counts: kind to how often it was masked.
    """

    find: Finder
    counts: Counter[str] = field(default_factory=Counter)

    def mask(self, text: str) -> str:
        """The text with every stretch masked; of overlapping ones the surest, then the longest, then the first."""
        taken: list[Found] = []
        for one in sorted(self.find(text), key=lambda one: (-one.score, one.start - one.end, one.start)):
            if one.start < one.end and all(
                one.end <= other.start or other.end <= one.start for other in taken
            ):
                taken.append(one)
        self.counts.update(one.kind for one in taken)
        pieces, place = [], 0
        for one in sorted(taken, key=lambda one: one.start):
            pieces += [text[place : one.start], f"<{one.kind}>"]
            place = one.end
        return "".join([*pieces, text[place:]])


def pattern_finder(kinds: Sequence[str] = tuple(KINDS), *, threshold: float = 0.4) -> Finder:
    """Presidio's recognisers of some kinds.

    Args:
        threshold: least score; patterns without a check sum or context have less.

    Raises:
        MissingExtraError: presidio-analyzer is not installed.
        KeyError: a kind that is none of `KINDS`.
    """
    library: Any = require("presidio_analyzer.predefined_recognizers", "pii")
    recognisers = [
        _without_network(library) if kind == "EMAIL_ADDRESS" else getattr(library, KINDS[kind])()
        for kind in kinds
    ]

    def find(text: str) -> list[Found]:
        hits = [
            hit
            for one in recognisers
            for hit in one.analyze(text, entities=one.supported_entities, nlp_artifacts=None)
        ]
        return [
            Found(one.entity_type, one.start, one.end, one.score)
            for one in hits
            if one.score >= threshold and one.entity_type in kinds
        ]

    return find


def _without_network(library: Any) -> Any:
    """The recogniser of mail addresses. As it is, it fetches the list of public suffixes when it first finds one; here the
    list that tldextract brings is used.
    """
    known = require("tldextract", "pii").TLDExtract(suffix_list_urls=())

    class Offline(library.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return known(pattern_text).fqdn != ""

    return Offline()
