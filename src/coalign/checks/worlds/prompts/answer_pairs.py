"""Pairs of answers in plain English, a full one and a thin one, for checks of judges that read.

A question asks how something works or is done. The full answer says four true things about it; the thin one says two of
the four and fills up with sentences that say nothing, in an order of its own. Which answer stands first is drawn, so
that the truth favours neither place.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

TOPICS: dict[str, tuple[str, ...]] = {
    "How do I brew good tea?": (
        "Heat fresh water until it just boils.", "Warm the pot before you add the leaves.",
        "Use one spoon of leaves for each cup.", "Let the leaves steep for three to five minutes.",
        "Pour it through a strainer and serve it hot.",
    ),
    "How do I plant a young tree?": (
        "Dig a hole twice as wide as the roots.", "Set the tree so that its collar is level with the soil.",
        "Fill the hole with the soil that came out of it.", "Water it deeply once a week in the first summer.",
        "Cover the ground with mulch, away from the trunk.",
    ),
    "How do I repair a flat bicycle tyre?": (
        "Take the wheel off and pull the tube out.", "Find the hole by holding the tube under water.",
        "Roughen the rubber around the hole with sandpaper.", "Spread glue, wait two minutes and press the patch on.",
        "Check the inside of the tyre for thorns or glass.",
    ),
    "Why do leaves change colour in autumn?": (
        "Days grow shorter and the tree stops making chlorophyll.", "The green fades and yellow pigments become visible.",
        "Some trees make red pigments from trapped sugar.", "A layer of cork closes off the stem of each leaf.",
        "Cold, sunny weather makes the colours brighter.",
    ),
    "How do I prepare for a job interview?": (
        "Read what the company does and who its customers are.", "Match your experience to each line of the advertisement.",
        "Practise short stories about problems you solved.", "Prepare two or three questions of your own.",
        "Plan the route and arrive ten minutes early.",
    ),
    "How does a refrigerator work?": (
        "A compressor squeezes a gas until it is hot.", "The hot gas loses its heat in coils on the back.",
        "It becomes liquid and passes through a narrow valve.", "Behind the valve it evaporates and takes heat from inside.",
        "A thermostat starts and stops the compressor.",
    ),
    "How do I learn to swim as an adult?": (
        "Take lessons in shallow, warm water.", "Get used to breathing out under water first.",
        "Learn to float on your back before you learn strokes.", "Practise kicking while you hold a board.",
        "Swim short distances several times a week.",
    ),
    "Why does bread rise?": (
        "Yeast eats the sugar in the flour.", "It gives off carbon dioxide as it grows.",
        "Gluten forms a net that traps the gas.", "Warmth makes the yeast work faster.",
        "In the oven the bubbles expand and then set.",
    ),
    "How do I keep houseplants healthy?": (
        "Put each plant where it gets the light it needs.", "Water it only when the top of the soil is dry.",
        "Use a pot with a hole so that water drains.", "Wipe dust from the leaves every month.",
        "Feed it in spring and summer, not in winter.",
    ),
    "How do I back up my computer?": (
        "Decide which folders you could not replace.", "Copy them to an external disk every week.",
        "Keep a second copy in another place.", "Let a program do it on a schedule.",
        "Try once a year whether you can restore a file.",
    ),
    "How do vaccines protect us?": (
        "They show the body a harmless part of a germ.", "Immune cells learn to recognise that part.",
        "The body makes antibodies that fit it.", "Memory cells stay for years after that.",
        "When the real germ comes, the response is fast.",
    ),
    "How do I save money every month?": (
        "Write down what you spend for four weeks.", "Move a fixed sum to savings on payday.",
        "Cancel subscriptions that you do not use.", "Plan meals and shop with a list.",
        "Compare insurance and power prices once a year.",
    ),
}  # fmt: skip
"""Question to five true statements."""
EMPTY = (
    "There are many things to say about this.", "It depends on the situation.",
    "Some people see it differently.", "You can find more about it elsewhere.",
    "This is an interesting question.", "In general it is not so simple.",
)  # fmt: skip
"""Sentences that say nothing."""


@dataclass(frozen=True)
class AnswerPair:
    """A question and two answers.

    Attributes:
        better: 0 where the first answer is the full one, 1 where the second is.
    """

    question: str
    answers: tuple[str, str]
    better: int


def answer_pairs(seed: int, count: int) -> list[AnswerPair]:
    """`count` pairs, questions in a drawn order and repeated with other statements where there are more pairs."""
    rng = random.Random(f"answer pairs {seed}")
    questions = [
        one for _ in range(-(-count // len(TOPICS))) for one in rng.sample(sorted(TOPICS), len(TOPICS))
    ]
    return [_pair(rng, question) for question in questions[:count]]


def _pair(rng: random.Random, question: str) -> AnswerPair:
    full = rng.sample(TOPICS[question], 4)
    thin = [*rng.sample(full, 2), *rng.sample(EMPTY, 2)]
    rng.shuffle(thin)
    good, bad = " ".join(full), " ".join(thin)
    first = rng.random() < 0.5
    return AnswerPair(question, (good, bad) if first else (bad, good), 0 if first else 1)
