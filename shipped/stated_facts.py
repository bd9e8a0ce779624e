"""Texts with claims that they support, say nothing of, or contradict: drawn facts, and prose with one thing changed.

A drawn text states facts of several kinds; a claim says one of them in other words (aligned), with a value changed
(contradicting), or says a fact that the text does not hold (neutral). Of prose a claim is a sentence of the text with other
words (aligned), with a number, a name or the verb's sign changed (contradicting), or a sentence that was taken out (neutral).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

ALIGNED, NEUTRAL, CONTRADICTING = 0, 1, 2


class Pair(NamedTuple):
    """A text, a claim and the label of three."""

    text: str
    claim: str
    label: int


class Kind(NamedTuple):
    """A kind of fact: ways to say it with the slots `{who}` and `{what}`, and what may stand there.

    Attributes:
        denied: ways to say that it is not so.
    """

    says: tuple[str, ...]
    who: tuple[str, ...]
    what: tuple[str, ...]
    denied: tuple[str, ...] = ()


def _list(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(","))


PEOPLE = _list(
    "Anna, Bruno, Carla, Daniel, Elena, Felix, Grace, Hugo, Irene, Jonas, Karim, Laura, Miguel, Nadia, Oscar, Priya, Quentin, "
    "Rosa, Samuel, Tara, Ulrich, Vera, Walter, Xenia, Yusuf, Zoe, Mr. Novak, Mrs. Chen, Dr. Okafor, Professor Lind, the baker, "
    "the mayor, my neighbour, our teacher, the captain, the new nurse"
)
CITIES = _list(
    "Lisbon, Oslo, Kraków, Nairobi, Quito, Hanoi, Leeds, Ghent, Toronto, Osaka, Tunis, Lima, Perth, Riga, Porto, Turin, Denver"
)
FIRMS = _list(
    "Northwind, Halden Steel, the Rivera Group, Bluefin Foods, Orbit Airlines, Kestrel Bank, Maple Books, Solar Nine, Vantage Labs"
)
PLACES = _list(
    "the museum, the library, the old theatre, the town hall, the swimming pool, the harbour bridge, the stadium, the castle, "
    "the botanical garden, the central station"
)
NUMBERS = tuple(
    str(one)
    for one in (2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15, 18, 20, 24, 30, 35, 40, 48, 60, 75, 90, 120, 150, 240)
)
YEARS = tuple(str(one) for one in range(1891, 2024, 7))
DAYS = _list("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
THINGS = _list(
    "the red box, the blue box, the wooden crate, the tall cupboard, the green bag, the tin, the drawer, the glass jar"
)
KINDS = (
    Kind(("{who} lives in {what}.", "The home of {who} is in {what}.", "{what} is where {who} lives.", "{who} resides in {what}."),
         PEOPLE, CITIES, ("{who} does not live in {what}.", "{who} no longer lives in {what}.")),
    Kind(("{who} works as {what}.", "{who} is {what} by profession.", "By trade, {who} is {what}.", "{who} earns a living as {what}."),
         PEOPLE, _list("a carpenter, a dentist, a pilot, an accountant, a chef, a gardener, a lawyer, an engineer, a violinist, a vet"),
         ("{who} does not work as {what}.", "{who} is not {what}.")),
    Kind(("{who} has {what} cats.", "{who} owns {what} cats.", "There are {what} cats in the house of {who}.", "{what} cats belong to {who}."),
         PEOPLE, NUMBERS),
    Kind(("{who} speaks {what} fluently.", "{what} is a language that {who} speaks well.", "{who} is fluent in {what}.", "{who} has a good command of {what}."),
         PEOPLE, _list("Spanish, Arabic, Polish, Japanese, Dutch, Swahili, Greek, Korean, Finnish, Hindi"),
         ("{who} does not speak {what}.", "{who} cannot speak {what}.")),
    Kind(("{who} bought a bicycle for {what} dollars.", "{who} paid ${what} for a bicycle.", "The bicycle cost {who} {what} dollars.", "For a bicycle {who} spent ${what}."),
         PEOPLE, NUMBERS),
    Kind(("{who} was born in {what}.", "{what} is the year in which {who} was born.", "{who}'s year of birth is {what}.", "The birth of {who} was in {what}."),
         PEOPLE, YEARS),
    Kind(("{who} plays the {what}.", "The instrument of {who} is the {what}.", "{who} is a {what} player.", "{who} makes music on the {what}."),
         PEOPLE, _list("piano, cello, flute, trumpet, guitar, harp, drum, clarinet, banjo"),
         ("{who} does not play the {what}.", "{who} has never learned to play the {what}.")),
    Kind(("{who} passed the {what} exam.", "{who} was successful in the {what} exam.", "The {what} exam was passed by {who}."),
         PEOPLE, _list("history, physics, driving, biology, chemistry, geography, law, statistics"),
         ("{who} failed the {what} exam.", "{who} did not pass the {what} exam.", "The {what} exam was a failure for {who}.")),
    Kind(("{who} likes {what}.", "{who} is fond of {what}.", "{what} is something that {who} enjoys."),
         PEOPLE, _list("swimming, old films, spicy food, chess, long walks, jazz, gardening, crosswords, camping"),
         ("{who} dislikes {what}.", "{who} does not like {what}.", "{who} hates {what}.")),
    Kind(("{who} was founded in {what}.", "The founding year of {who} is {what}.", "{who} has existed since {what}.", "In {what}, {who} was established."),
         FIRMS, YEARS),
    Kind(("{who} employs {what} people.", "{what} people work for {who}.", "The workforce of {who} counts {what} people.", "{who} has {what} employees."),
         FIRMS, tuple(f"{one}00" for one in range(3, 60, 4))),
    Kind(("{who} has its headquarters in {what}.", "The head office of {who} is in {what}.", "{who} is based in {what}.", "{what} is the seat of {who}."),
         FIRMS, CITIES, ("{who} is not based in {what}.", "{who} has left {what}.")),
    Kind(("The profit of {who} rose by {what} percent.", "{who} earned {what}% more than before.", "{who} increased its profit by {what} percent.", "Profits at {who} grew {what} percent."),
         FIRMS, NUMBERS, ("The profit of {who} fell by {what} percent.", "{who} earned {what}% less than before.")),
    Kind(("{who} is closed on {what}s.", "On {what}s, {who} is shut.", "{who} does not open on {what}s.", "Nobody gets into {who} on {what}s, since it is closed."),
         PLACES, DAYS, ("{who} is open on {what}s.", "On {what}s, {who} is open.")),
    Kind(("{who} was built in {what}.", "The construction of {who} was finished in {what}.", "{who} dates from {what}.", "Builders completed {who} in {what}."),
         PLACES, YEARS),
    Kind(("A ticket for {who} costs {what} euros.", "Visitors pay {what} euros to enter {who}.", "The entrance fee of {who} is {what} euros.", "Admission to {who} is €{what}."),
         PLACES, NUMBERS),
    Kind(("{who} was designed by {what}.", "{what} designed {who}.", "The architect of {who} was {what}.", "The plans of {who} were drawn by {what}."),
         PLACES, PEOPLE[:26]),
    Kind(("{who} holds {what} coins.", "There are {what} coins in {who}.", "{who} contains {what} coins.", "Inside {who} lie {what} coins."),
         THINGS, NUMBERS),
    Kind(("{who} belongs to {what}.", "{what} owns {who}.", "The owner of {who} is {what}.", "{who} is the property of {what}."),
         THINGS, PEOPLE[:26], ("{who} does not belong to {what}.", "{what} does not own {who}.")),
    Kind(("{who} weighs {what} kilograms.", "The weight of {who} is {what} kilograms.", "{who} is {what} kg heavy."),
         THINGS, NUMBERS),
    Kind(("{who} met {what} for lunch.", "{who} had lunch with {what}.", "Lunch was shared by {who} and {what}.", "{what} and {who} ate lunch together."),
         PEOPLE[:26], PEOPLE[26:], ("{who} did not meet {what} for lunch.",)),
    Kind(("{who} will travel to {what} next week.", "Next week, {who} goes to {what}.", "{who} plans a trip to {what} for next week."),
         PEOPLE, CITIES, ("{who} has cancelled the trip to {what}.", "{who} will not travel to {what} next week.")),
)  # fmt: skip
"""Kinds of facts; the last `UNSEEN` of a shuffle are held out."""


def drawn_pair(kinds: Sequence[Kind], draw: random.Random) -> Pair:
    """A text of three to six facts, and a claim; the three labels are equally likely."""
    facts: dict[tuple[int, str], tuple[str, bool]] = {}
    for _ in range(draw.randint(3, 6)):
        place = draw.randrange(len(kinds))
        kind = kinds[place]
        fact = draw.choice(kind.what), bool(kind.denied) and draw.random() < 0.25
        facts[place, draw.choice(kind.who)] = fact
    said = {key: _said(kinds[key[0]], key[1], *fact, draw) for key, fact in facts.items()}
    text = " ".join(said.values())
    label = draw.choice((ALIGNED, NEUTRAL, CONTRADICTING))
    (place, who), (what, denied) = draw.choice(list(facts.items()))
    kind = kinds[place]
    if label == NEUTRAL:
        place, who = _unsaid(kinds, facts, draw)
        return Pair(text, _said(kinds[place], who, draw.choice(kinds[place].what), False, draw), label)
    if label == CONTRADICTING:
        if kind.denied and (denied or draw.random() < 0.5):
            denied = not denied
        else:
            others = [
                one
                for (other, _), (one, _) in facts.items()
                if kinds[other].what == kind.what and one != what
            ]
            what = draw.choice(others or [one for one in kind.what if one != what])
    return Pair(text, _said(kind, who, what, denied, draw, but=said.get((place, who))), label)


def _unsaid(
    kinds: Sequence[Kind], facts: dict[tuple[int, str], tuple[str, bool]], draw: random.Random
) -> tuple[int, str]:
    """A kind and a subject that the text does not put together; half of the time the subject is in the text."""
    while True:
        place = draw.randrange(len(kinds))
        named = [who for _, who in facts if who in kinds[place].who]
        who = draw.choice(named) if named and draw.random() < 0.7 else draw.choice(kinds[place].who)
        if (place, who) not in facts:
            return place, who


def _said(
    kind: Kind, who: str, what: str, denied: bool, draw: random.Random, *, but: str | None = None
) -> str:
    """The fact in one of its ways, not as in `but`."""
    ways = [way.format(who=who, what=what) for way in (kind.denied if denied else kind.says)]
    text = draw.choice([way for way in ways if but is None or way.lower() != but.lower()] or ways)
    return text[0].upper() + text[1:]


WORDS = {
    "bought": "purchased", "buys": "purchases", "kids": "children", "big": "large", "started": "began", "begins": "starts",
    "needs": "requires", "many": "numerous", "each": "every", "gave": "handed", "also": "too", "got": "received",
    "half": "one half", "twice": "two times", "because": "since", "about": "roughly", "but": "yet", "show": "demonstrate",
    "shows": "demonstrates", "use": "utilise", "help": "assist", "important": "significant", "people": "persons", "children": "kids",
    "reduce": "lower", "increase": "raise", "however": "yet", "may": "might", "such as": "like", "several": "a number of",
}  # fmt: skip
SIGNS = (
    (r"\b(is|are|was|were|can|will|should|must|could|has been|have been|would)\b(?! not)", r"\1 not"),
    (r"\b(is|are|was|were|can|will|should|must|could|would) not\b", r"\1"),
)
_NUMBER = re.compile(r"(?<![\w.,/])\d+(?![\w/]|[.,]\d)")
_NAME = re.compile(
    r"(?<=[a-z,] )[A-Z][a-z]{2,}\b|^[A-Z][a-z]{3,}(?= (?:is|has|was|buys|bought|wants|sells|makes|can|had|needs)\b)"
)


def prose_pair(lines: Sequence[str], place: int, draw: random.Random, *, names: Sequence[str]) -> Pair | None:
    """A text of consecutive sentences and a claim made of the one at `place`; None where nothing in it can be changed."""
    sentence = lines[place]
    label = draw.choice((ALIGNED, NEUTRAL, CONTRADICTING))
    if label == NEUTRAL:
        rest = [one for number, one in enumerate(lines) if number != place]
        return Pair(" ".join(rest), _reworded(sentence, draw), label) if rest else None
    text = " ".join(lines)
    if label == ALIGNED:
        return Pair(text, _reworded(sentence, draw), label)
    changed = changed_claim(sentence, text, draw, names=names)
    return changed and Pair(text, _reworded(changed, draw, most=1), label)


def changed_claim(sentence: str, text: str, draw: random.Random, *, names: Sequence[str]) -> str | None:
    """The sentence with one number, name or sign changed; None where there is none."""
    ways: list[str] = []
    for found in _NUMBER.finditer(sentence):
        number = int(found[0])
        others = [one for one in _NUMBER.findall(text) if one != found[0]]
        other = draw.choice([*others, str(number + draw.randint(1, 5)), str(number * 2)])
        if other != found[0]:
            ways.append(sentence[: found.start()] + other + sentence[found.end() :])
    for found in _NAME.finditer(sentence):
        others = sorted({one for one in _NAME.findall(text) if one != found[0]} or {*names} - {found[0]})
        ways.append(sentence[: found.start()] + draw.choice(others) + sentence[found.end() :])
    ways += [
        changed for pattern, by in SIGNS if (changed := re.sub(pattern, by, sentence, count=1)) != sentence
    ][:1]
    return draw.choice(ways) if ways else None


def _reworded(sentence: str, draw: random.Random, *, most: int = 3) -> str:
    """The sentence with up to so many words exchanged for others of the same sense; often as it is."""
    known = [word for word in WORDS if re.search(rf"\b{word}\b", sentence)]
    for word in draw.sample(known, min(len(known), draw.randint(0, most))):
        sentence = re.sub(rf"\b{word}\b", WORDS[word], sentence, count=1)
    return sentence
