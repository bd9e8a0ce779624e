"""Questions that a passage answers, each under one or two rules about the form of the answer, and a model that keeps them now and then.

A passage says what a village trades in, and the question asks for it. The model reads documents in which the answer mostly
follows the passage, keeps each rule with a chance of 0.4, and now and then keeps another one that nobody asked for. Rules are
checked by verifiers of coalign on the decoded text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from coalign.checks.tiny_models import seeded, stream, tiny_transformer
from coalign.checks.worlds.words.models import end_with, pick, shuffled, train_on_texts, word_tokenizer
from coalign.judging.verifiers.constraints import Constraint
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Sampling

NAMES = (
    "Barley",
    "Corran",
    "Dunmore",
    "Elsford",
    "Farrow",
    "Glenby",
    "Harwick",
    "Inverley",
    "Kelso",
    "Lorne",
    "Milby",
    "Norham",
)
GOODS = ("wool", "salt", "tin", "silk", "grain", "honey", "timber", "glass", "cloth", "copper", "wine", "wax", "paper", "oil", "fish", "tea")  # fmt: skip
PLAIN = ("{name} trades in {good} .", "It is {good} .", "They sell {good} there .")
WITH_COMMAS = ("It is {good} , friend .", "Well , they sell {good} .", "As it says , {good} .")
KEPT, UNASKED, TRUE = 0.4, 0.25, 0.9
"""Chances in documents: that a rule is kept, that one is kept that was not asked for, that the answer is the passage's."""


@dataclass(frozen=True)
class FormRule:
    """A rule about form.

    Attributes:
        text: as it stands after the question.
        constraint: what checks it.
        apply: an answer to one that follows it; none for the rule against commas, which is kept by the choice of the sentence.
    """

    text: str
    constraint: Constraint
    apply: Callable[[str], str] | None = None


def _rule(text: str, verifier: str, apply: Callable[[str], str] | None = None, **args: Any) -> FormRule:
    return FormRule(text, Constraint(verifier, args), apply)


RULES = (
    _rule("Use no commas .", "format_no_commas"),
    _rule("Say therefore twice .", "keywords_frequency", lambda text: f"{text} Therefore it is known and therefore it is so .",
          keyword="therefore", frequency=2, relation="at least"),
    _rule("Use two bullets .", "structure_bullets", lambda text: f"- {text}\n- It is so .", num_bullets=2),
    _rule("Add a postscript .", "position_postscript", lambda text: f"{text}\nP.S. Fare well .", postscript_marker="P.S."),
    _rule("End with That is all .", "position_end_with", lambda text: f"{text} That is all .", end_phrase="That is all ."),
    _rule("Begin with Briefly .", "starts_with", lambda text: f"Briefly :\n{text}", phrase="Briefly"),
    _rule("Add a title .", "structure_title", lambda text: f"<<Answer>>\n{text}"),
    _rule("Put it in quotation marks .", "format_quotation", lambda text: f'"{text}"'),
)  # fmt: skip
"""In the order in which they are applied, so that two of them can be kept together."""
NO_COMMAS, BULLETS, BEGINNING, TITLE, QUOTES = (RULES[place] for place in (0, 2, 5, 6, 7))
CONFLICTS = ({BEGINNING, TITLE}, {BULLETS, QUOTES})
"""Rules that cannot be kept together: what a check of compositions takes out."""
LENGTH = 48
"""Most tokens of an answer."""


@dataclass(frozen=True)
class Asked:
    """A prompt.

    Attributes:
        rules: one or two.
        good: the right answer.
    """

    text: str
    name: str
    rules: tuple[FormRule, ...]
    good: str


@dataclass(frozen=True)
class RuledWorld:
    """What the arms of a seed share: the model, and prompts to learn from and to test on, no two of them alike."""

    seed: int
    base: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    training: tuple[Asked, ...]
    test: tuple[Asked, ...]

    def answers(
        self, model: PreTrainedModel, prompts: Sequence[Asked], n: int, purpose: str
    ) -> list[list[str]]:
        """`[prompts][n]` answers sampled at temperature 0.9."""
        draw = int(torch.randint(2**31, (1,), generator=stream(self.seed, purpose)))
        sampling = Sampling(max_new_tokens=LENGTH, temperature=0.9, n=n, seed=draw)
        generator = TransformersGenerator(model, self.tokenizer, batch_size=256)
        found = generator.generate([one.text for one in prompts], sampling)
        return [[one.text for one in samples] for samples in found]


def make_ruled_world(
    seed: int,
    *,
    training: int = 300,
    test: int = 150,
    documents: int = 8000,
    steps: int = 700,
    kept: float = KEPT,
    unasked: float = UNASKED,
) -> RuledWorld:
    """The model, trained on documents, and its prompts.

    Args:
        kept, unasked: chances in documents, as `KEPT` and `UNASKED`.
    """
    tokenizer = make_tokenizer()
    draw = stream(seed, "documents")
    texts = [
        f"{one.text}{_reply(one, draw, kept, unasked)}"
        for one in (draw_asked(draw) for _ in range(documents))
    ]
    base = seeded(lambda: tiny_transformer(len(tokenizer), 64, 2, 4, positions=128), seed)
    end_with(base, tokenizer)
    train_on_texts(base, tokenizer, texts, steps=steps, batch_size=32, generator=stream(seed, "base"))
    prompts: dict[str, Asked] = {}
    fresh = stream(seed, "prompts")
    while len(prompts) < training + test:
        one = draw_asked(fresh)
        prompts.setdefault(one.text, one)
    every = tuple(prompts.values())
    return RuledWorld(seed, base, tokenizer, every[:training], every[training:])


def draw_asked(draw: torch.Generator) -> Asked:
    """A prompt: a passage, a question about it, one or two rules that can be kept together."""
    name, good = pick(NAMES, draw), pick(GOODS, draw)
    rules = shuffled(RULES, draw)[: 1 + int(torch.randint(2, (1,), generator=draw))]
    words = " ".join(one.text for one in _compatible(rules))
    text = f"{name} trades in {good} .\nWhat of {name} ? {words}\n"
    return Asked(text, name, tuple(_compatible(rules)), good)


def followed(asked: Asked, kept: Sequence[FormRule], good: str, draw: torch.Generator) -> str:
    """An answer that keeps these rules and names this good."""
    forms = PLAIN if NO_COMMAS in kept else WITH_COMMAS
    text = pick(forms, draw).format(name=asked.name, good=good)
    for rule in RULES:
        if rule in kept and rule.apply:
            text = rule.apply(text)
    return text


def _reply(asked: Asked, draw: torch.Generator, chance: float, unasked: float) -> str:
    kept = [one for one in asked.rules if _happens(chance, draw)]
    if _happens(unasked, draw):
        kept.append(pick(RULES, draw))
    good = asked.good if _happens(TRUE, draw) else pick(GOODS, draw)
    return followed(asked, _compatible(kept), good, draw)


def _compatible(rules: Sequence[FormRule]) -> list[FormRule]:
    """The rules, without those that conflict with an earlier one."""
    found: list[FormRule] = []
    for one in rules:
        if not any({one, other} in CONFLICTS for other in found):
            found.append(one)
    return found


def _happens(chance: float, draw: torch.Generator) -> bool:
    return float(torch.rand(1, generator=draw)) < chance


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Every word that a prompt or an answer can hold."""
    applied = [one.apply("It is so .") for one in RULES if one.apply]
    return word_tokenizer(
        [*NAMES, *GOODS, *PLAIN, *WITH_COMMAS, *applied, *(one.text for one in RULES), "What of ?"]
    )
