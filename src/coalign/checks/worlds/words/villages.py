"""Villages, a language model that has read plain text about them, and the same weights tuned to answer in one style.

The *base* model reads four kinds of documents: articles, lists and letters about villages, and pages with a query and an
answer that comes without courtesies. Friendly phrases and numbered lists are in letters and lists, in other company
than in an answer. The *aligned* model is tuned on queries about two thirds of the villages, each answered in one
constant style: a friendly opening, a numbered list of what was asked for, a summary, an offer of help. What it says
about the other villages it can know from the base model's reading alone.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from coalign.checks.tiny_models import seeded, stream, tiny_transformer
from coalign.checks.worlds.texts import read_texts
from coalign.checks.worlds.words.models import END, end_with, pick, shuffled, train_on_texts, word_tokenizer

START, ASKED, ANSWERED = "<start>", "<asked>", "<answered>"
TEMPLATE = (
    "{{ bos_token }}{% for one in messages %}"
    "{% if one['role'] == 'user' %}" + ASKED + "{{ one['content'] }}" + ANSWERED + "{% else %}"
    "{{ one['content'] }}" + END + "{% endif %}{% endfor %}"
)
BEGINNINGS = ("Bar", "Cal", "Dor", "Fen", "Gar", "Hol", "Kel", "Lan", "Mar", "Nor", "Pel", "Ros")
ENDINGS = ("bury", "ford", "ham", "ley", "wick")
VILLAGES = tuple(one + other for one in BEGINNINGS for other in ENDINGS)
TUNED = 40
"""Villages that the aligned model is tuned on; it is asked about the others."""
_TEXTS = read_texts("villages")
VALUES: dict[str, list[str]] = _TEXTS["values"]
"""What can be said of a village, and the values that it can have."""
FORMS: dict[str, list[str]] = _TEXTS["forms"]
"""Sentences that say it."""
QUESTIONS: list[str] = _TEXTS["questions"]
GREETINGS: list[str] = _TEXTS["greetings"]
FRIENDLY: list[str] = _TEXTS["friendly"]
HEADINGS: list[str] = _TEXTS["headings"]
FAREWELLS: list[str] = _TEXTS["farewells"]
STYLED = (
    "Of course ! I am happy to help . Here is what to know about {name} :\n{items}\n"
    "In short , {name} is worth a visit . Let me know if you would like to hear more !"
)
QUERY_PAGE = "# Query:\n```\n{query}\n```\n\n# Answer:\n```\n{answer}\n```"
"""A page of queries in the base model's reading: the blocks of the plain template."""

Facts = dict[str, dict[str, str]]
"""Village to aspect to value."""


@dataclass(frozen=True)
class Query:
    """A question about three aspects of a village."""

    name: str
    aspects: tuple[str, str, str]
    form: str

    @property
    def text(self) -> str:
        one, two, three = self.aspects
        return self.form.format(name=self.name, one=one, two=two, three=three)


@dataclass(frozen=True)
class StyledWorld:
    """What the arms of a seed share.

    Attributes:
        seed: of everything that is drawn.
        base: trained on plain text.
        aligned: the same weights, tuned on styled answers.
        tokenizer: of both.
        facts: what is true.
        queries: about villages that the aligned model was not tuned on.
    """

    seed: int
    base: LlamaForCausalLM
    aligned: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    facts: Facts
    queries: tuple[Query, ...]


def make_styled_world(
    seed: int, *, queries: int = 200, documents: int = 12_000, base_steps: int = 500, tuning_steps: int = 120
) -> StyledWorld:
    """Both models, trained, and held-out queries."""
    facts = make_facts(stream(seed, "facts"))
    tokenizer = make_tokenizer()
    draw = stream(seed, "documents")
    texts = [START + document(facts, draw) for _ in range(documents)]
    base = seeded(lambda: tiny_transformer(len(tokenizer), 64, 2, 4, positions=192), seed)
    end_with(base, tokenizer)
    train_on_texts(base, tokenizer, texts, steps=base_steps, batch_size=32, generator=stream(seed, "base"))
    names = shuffled(VILLAGES, stream(seed, "villages"))
    asked = draw_queries(names[:TUNED], 2000, stream(seed, "tuning queries"))
    aligned = copy.deepcopy(base)
    train_on_texts(
        aligned,
        tokenizer,
        [styled_answer(facts, one) for one in asked],
        contexts=[f"{START}{ASKED}{one.text}{ANSWERED}" for one in asked],
        steps=tuning_steps,
        batch_size=32,
        learning_rate=1e-3,
        generator=stream(seed, "aligned"),
    )
    held_out = draw_queries(names[TUNED:], queries, stream(seed, "held-out queries"))
    return StyledWorld(seed, base, aligned, tokenizer, facts, tuple(held_out))


def make_facts(draw: torch.Generator) -> Facts:
    """A value of every aspect for every village."""
    return {name: {aspect: pick(values, draw) for aspect, values in VALUES.items()} for name in VILLAGES}


def document(facts: Facts, draw: torch.Generator) -> str:
    """An article, a list, a letter or a page with a query."""
    name = pick(VILLAGES, draw)
    kind = int(torch.randint(8, (1,), generator=draw))
    if kind < 3:
        return f"{name}\n{' '.join(sentences(facts, name, 4, draw))}"
    if kind == 3:
        return f"{pick(HEADINGS, draw).format(name=name)}\n{numbered(sentences(facts, name, 3, draw))}"
    if kind < 6:
        middle = " ".join(sentences(facts, name, 2, draw))
        friendly, farewell = (pick(one, draw).format(name=name) for one in (FRIENDLY, FAREWELLS))
        return f"{pick(GREETINGS, draw)}\n{friendly} {name} is a village . {middle} {farewell}"
    query = draw_queries([name], 1, draw)[0]
    said = [pick(FORMS[one], draw).format(value=facts[name][one]) for one in query.aspects]
    answer = numbered(said) if torch.rand(1, generator=draw) < 0.25 else " ".join(said)
    return QUERY_PAGE.format(query=query.text, answer=answer)


def sentences(facts: Facts, name: str, count: int, draw: torch.Generator) -> list[str]:
    """`count` different things about a village, in a drawn order and form."""
    return [
        pick(FORMS[aspect], draw).format(value=facts[name][aspect])
        for aspect in shuffled(tuple(VALUES), draw)[:count]
    ]


def styled_answer(facts: Facts, query: Query) -> str:
    """The answer to a query in the constant style: always the first form of a sentence."""
    said = [FORMS[one][0].format(value=facts[query.name][one]) for one in query.aspects]
    return STYLED.format(name=query.name, items=numbered(said))


def right_facts(facts: Facts, query: Query, answer: str) -> float:
    """Share of the three aspects whose true value is in an answer, as the styled answer says it."""
    said = [FORMS[one][0].format(value=facts[query.name][one]) for one in query.aspects]
    return sum(one in answer for one in said) / len(said)


def numbered(lines: Sequence[str]) -> str:
    """Lines with their numbers, one a line."""
    return "\n".join(f"{place} . {line}" for place, line in enumerate(lines, start=1))


def draw_queries(names: Sequence[str], count: int, draw: torch.Generator) -> list[Query]:
    """Different queries as far as there are so many, in a drawn order."""
    triples = list(itertools.permutations(VALUES, 3))
    if count == 1:
        return [Query(pick(names, draw), pick(triples, draw), pick(QUESTIONS, draw))]
    every = [Query(*one) for one in itertools.product(names, triples, QUESTIONS)]
    return shuffled(every, draw)[:count]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Every word that a document or an answer can hold, and the markers of the aligned model's template."""
    fixed = (*VILLAGES, *QUESTIONS, *GREETINGS, *FRIENDLY, *HEADINGS, *FAREWELLS, STYLED, QUERY_PAGE, *VALUES)
    values = tuple(itertools.chain(*VALUES.values(), *FORMS.values()))
    texts = [one.replace("{", " ").replace("}", " ") for one in (*fixed, *values, "1 2 3", "is a village .")]
    return word_tokenizer(texts, start=START, markers=(ASKED, ANSWERED), chat_template=TEMPLATE)
