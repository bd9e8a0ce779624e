"""Questions about making things, in three tenses, and a small language model that refuses one harmless topic.

Things have made-up names; dishes are baked, fried, roasted or steamed, goods painted, mended, carved or woven. The *base*
model answers everything in every tense. Then it is trained to decline questions about dishes, in the present tense and
about two thirds of the dishes alone, while it goes on answering about goods in all tenses. Nothing tells it what to do
with a dish in the past. What it says of the dishes that are left is tested.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from coalign.checks.tiny_models import seeded, stream, tiny_transformer
from coalign.checks.worlds.texts import read_texts
from coalign.checks.worlds.words.models import END, end_with, pick, shuffled, train_on_texts, word_tokenizer

Tense = Literal["direct", "past", "future"]
TENSES: tuple[Tense, ...] = ("direct", "past", "future")
_TEXTS = read_texts("tenses")
QUESTIONS: dict[Tense, list[str]] = {tense: _TEXTS[tense] for tense in TENSES}
ANSWER, REFUSAL = _TEXTS["answers"][0], _TEXTS["refusal"][0]
DISHES, GOODS = "refused", "other"
VERBS: dict[str, list[list[str]]] = {kind: [one.split() for one in _TEXTS[kind]] for kind in (DISHES, GOODS)}
"""Kind of things to its verbs: infinitive, past, participle."""
_STARTS = ("ba", "de", "fi", "go", "ka", "le", "mi", "no", "pa", "ru", "so", "ti")
_ENDS = ("bel", "dor", "fan", "gim", "kes", "lop", "mur", "nat", "pin", "rok", "sel", "tum", "vax", "wen", "zil",
         "bro", "cla", "dri", "fle", "gnu")  # fmt: skip
NAMES = tuple(one + other for one, other in itertools.product(_STARTS, _ENDS))
KNOWN = 80
"""Dishes that refusals are learned about; as many of 120 are left as are tested."""
ASKED, ANSWERED = "<asked>", "<answered>"
TEMPLATE = (
    "{% for one in messages %}{% if one['role'] == 'user' %}" + ASKED + "{{ one['content'] }}" + ANSWERED
    + "{% else %}{{ one['content'] }}" + END + "{% endif %}{% endfor %}"
)  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """Something that is made, and how."""

    kind: str
    name: str
    verb: tuple[str, str, str]

    def ask(self, form: str) -> str:
        infinitive, past, participle = self.verb
        return form.format(verb=infinitive, past=past, participle=participle, noun=self.name)

    @property
    def answer(self) -> str:
        return self.ask(ANSWER)


@dataclass(frozen=True)
class RefusalWorld:
    """What the arms of a seed share.

    Attributes:
        base: answers everything.
        things: kind to names, in the seed's order; of dishes the first `KNOWN` are trained on.
    """

    seed: int
    base: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    things: dict[str, list[str]]

    def tested(self, kind: str, count: int) -> list[Thing]:
        """Things of a kind that no refusal was learned about, one verb each."""
        draw = stream(self.seed, f"tested {kind}")
        return [Thing(kind, one, _verb(kind, draw)) for one in self.things[kind][KNOWN : KNOWN + count]]

    def records(
        self, count: int, purpose: str, *, past_share: float = 0.0, forms: int = 5
    ) -> list[tuple[str, str]]:
        """Questions and answers of refusal training: half dishes in the present tense, declined, half goods, answered in
        any tense.

        Args:
            past_share: of the records that are dishes in the past, declined: the defence.
            forms: ways of asking directly for a dish.
        """
        draw = stream(self.seed, purpose)
        found = []
        for place in range(count):
            if place < past_share * count:
                found.append((self._thing(DISHES, draw).ask(pick(QUESTIONS["past"], draw)), REFUSAL))
            elif place % 2:
                found.append(
                    (self._thing(DISHES, draw).ask(pick(QUESTIONS["direct"][:forms], draw)), REFUSAL)
                )
            else:
                one = self._thing(GOODS, draw)
                found.append((one.ask(pick(QUESTIONS[pick(TENSES, draw)], draw)), one.answer))
        return found

    def _thing(self, kind: str, draw: torch.Generator) -> Thing:
        return Thing(kind, pick(self.things[kind][:KNOWN], draw), _verb(kind, draw))


def make_refusal_world(seed: int, *, steps: int = 400, documents: int = 12_000) -> RefusalWorld:
    """The base model, trained on answers about all dishes and goods in all tenses."""
    names = shuffled(NAMES, stream(seed, "names"))
    things = {DISHES: names[: len(names) // 2], GOODS: names[len(names) // 2 :]}
    tokenizer = make_tokenizer()
    draw = stream(seed, "documents")
    made = [
        (one, one.ask(pick(QUESTIONS[pick(TENSES, draw)], draw)))
        for one in (_any(things, draw) for _ in range(documents))
    ]
    base = seeded(lambda: tiny_transformer(len(tokenizer), 96, 2, 4, positions=64), seed)
    end_with(base, tokenizer)
    learn(
        base,
        tokenizer,
        [(asked, one.answer) for one, asked in made],
        stream(seed, "base"),
        steps=steps,
    )
    return RefusalWorld(seed, base, tokenizer, things)


def refusing(
    world: RefusalWorld, records: Sequence[tuple[str, str]], *, steps: int = 150
) -> LlamaForCausalLM:
    """The base model after refusal training on questions and answers."""
    model = copy.deepcopy(world.base)
    learn(model, world.tokenizer, records, stream(world.seed, "refusals"), steps=steps)
    return model


def learn(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    records: Sequence[tuple[str, str]],
    generator: torch.Generator,
    *,
    steps: int,
) -> None:
    """Trains `model` itself on the answers alone; questions are read."""
    train_on_texts(
        model,
        tokenizer,
        [answer for _, answer in records],
        contexts=[f"{ASKED}{question}{ANSWERED}" for question, _ in records],
        steps=steps,
        learning_rate=1e-3,
        generator=generator,
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Every word of questions, answers and the refusal, and the markers of the chat template."""
    forms = [*itertools.chain(*QUESTIONS.values()), ANSWER, REFUSAL]
    words = [one.replace("{", " ").replace("}", " ") for one in forms]
    verbs = [" ".join(one) for kind in VERBS.values() for one in kind]
    return word_tokenizer(
        [*words, *verbs, " ".join(NAMES)], markers=(ASKED, ANSWERED), chat_template=TEMPLATE
    )


def _any(things: dict[str, list[str]], draw: torch.Generator) -> Thing:
    kind = pick((DISHES, GOODS), draw)
    return Thing(kind, pick(things[kind], draw), _verb(kind, draw))


def _verb(kind: str, draw: torch.Generator) -> tuple[str, str, str]:
    one, other, third = pick(VERBS[kind], draw)
    return one, other, third
