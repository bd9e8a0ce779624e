"""Check of `chatglm`: a model learns when to call a tool and gains by it, and short answers gain by the average over sequences."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import nn

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide, mean_of, paired_t, significant
from coalign.checks.steps import example, frozen_logps, one_each, trained
from coalign.checks.tiny_models import sample, seeded, stream, tiny_transformer
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.training.batches import Example
from coalign.training.losses.supervised import SFTConstants
from coalign.training.objective import get_objective

TIMES, IS, CALL, STOP, END, PLAIN, TURNED, FIRST_WORD = 10, 11, 12, 13, 14, 15, 16, 17
"""Tokens after the ten digits: `*`, `=`, `<`, `>`, the end, and two kinds of sequence; then eight words and eight colours."""
WORDS = 8
VOCABULARY = FIRST_WORD + 2 * WORDS
PRODUCTS, QUESTIONS, STEPS, BATCH = 0.7, 200, 1200, 64
LETTERS, SEQUENCES, SHORT_STEPS, TOLD = 8, 2000, 300, 600
Way = Literal["direct", "tool"]
Kind = Literal["product", "fact"]


@dataclass(frozen=True)
class Question:
    """A prompt and its answer, in tokens; `called` is what stands between the brackets of a call, where one helps."""

    kind: Kind
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """With a tool for products a model answers them and keeps its facts; an average over sequences helps short answers.

    Rule:
        Seen: (1) in every seed products are answered right in at least 0.5 more of the questions with the tool than without,
        calls are made in at least 0.95 of the products and at most 0.05 of the facts, and facts are not lower by more than
        0.02; (2) the mean loss of the shortest third of unseen sequences is lower under the average over sequences than under
        the average over tokens, by a paired t-test over seeds below 0.05 (one-sided). Not seen: any of them fails.

    Setting:
        1: transformers of two layers and width 96, 1,200 steps of 64: 70 % products of two numbers of two digits, 30 % colours
        of eight words. One learns the answers, the other to write a call between brackets for products; what the interpreter
        adds is masked in the loss. 200 questions, greedy. 2: transformers of one layer and width 64, 300 steps of 16 sequences
        with log-normal lengths: long ones repeat four letters, short ones turn them round; 600 unseen ones.
    """
    rows = measure_arms(
        run,
        seeds=seeds,
        prepare=int,
        arms={
            "direct": partial(_answering, "direct"),
            "tool": partial(_answering, "tool"),
            "over tokens": partial(_averaged, "tokens"),
            "over sequences": partial(_averaged, "sequences"),
        },
    )
    products, facts = (rows.gaps(name, "tool", "direct") for name in ("products", "facts"))
    called, needless = (rows.values(f"calls, {name}", "tool") for name in ("products", "facts"))
    everywhere = all(
        products[seed] >= 0.5 and called[seed] >= 0.95 and needless[seed] <= 0.05 and facts[seed] >= -0.02
        for seed in called
    )
    saved = rows.gaps("short", "over tokens", "over sequences")
    return rows.verdict(
        check,
        outcome=decide(seen=everywhere and significant(saved)),
        summary={
            "products, tool less direct": mean_of(products),
            "calls on products": mean_of(called),
            "calls on facts": mean_of(needless),
            "facts, tool less direct": mean_of(facts),
            "short sequences, loss saved": mean_of(saved),
            "t": paired_t(saved),
        },
    )


def questions(seed: int, purpose: str, count: int, kind: Kind | None = None) -> list[Question]:
    """Drawn questions; products are answered with four digits, words with one colour, which a seed fixes."""
    draw = random.Random(f"{purpose} {seed}")
    colours = random.Random(f"colours {seed}").sample(range(WORDS), WORDS)
    found = []
    for _ in range(count):
        if (kind or ("product" if draw.random() < PRODUCTS else "fact")) == "product":
            a, b = draw.randint(10, 99), draw.randint(10, 99)
            found.append(Question("product", (*_digits(a, 2), TIMES, *_digits(b, 2), IS), _digits(a * b, 4)))
        else:
            word = draw.randrange(WORDS)
            found.append(Question("fact", (FIRST_WORD + word, IS), (FIRST_WORD + WORDS + colours[word],)))
    return found


def taught(question: Question, way: Way) -> Example:
    """What a model learns of a question. With a tool a product is called, and what the interpreter adds is not learnt."""
    if way == "direct" or question.kind == "fact":
        return example(question.prompt, [(*question.answer, END)])
    call = (CALL, *question.prompt[:-1], STOP)
    returned = (IS, *question.answer)
    made = example(question.prompt, [(*call, *returned, *question.answer, END)])
    mask = [True] * len(call) + [False] * len(returned) + [True] * (len(question.answer) + 1)
    return replace(made, contexts=(replace(made.contexts[0], trained=[mask]),))


def _answering(way: Way, seed: int) -> Measures:
    start = seeded(lambda: tiny_transformer(VOCABULARY, 96, 2, 4, positions=32, spread=0.1), seed)
    examples = [taught(one, way) for one in questions(seed, "training", STEPS * BATCH // 4)]
    model = trained(
        start, examples, get_objective("sft"), steps=STEPS, batch_size=BATCH, learning_rate=2e-3,
        generator=stream(seed, "order"),
    )  # fmt: skip
    found: dict[str, float] = {}
    kinds: tuple[tuple[Kind, str], ...] = (("product", "products"), ("fact", "facts"))
    for kind, name in kinds:
        asked = questions(seed, f"test {kind}", QUESTIONS, kind)
        right, called = answered(model, asked)
        found |= {name: right, f"calls, {name}": called}
    return found


def answered(model: nn.Module, asked: Sequence[Question]) -> tuple[float, float]:
    """Share of questions of one kind that are answered right, and share in which a call was made. Greedy; a call ends the turn,
    is worked out by an interpreter, and the model goes on behind what it returned.
    """
    greedy = partial(sample, model, generator=torch.Generator(), n=1, temperature=1e-6)
    first = [one[0] for one in greedy([one.prompt for one in asked], max_new_tokens=10, end=END)]
    said = [_until(one, STOP) for one in first]
    calls = [one[0] == CALL for one in said]
    answers = [tuple(_until(one, END)[:-1]) for one in first]
    behind = {
        place: (*question.prompt, *text, IS, *worked)
        for place, (question, text) in enumerate(zip(asked, said, strict=True))
        if (worked := interpreted(text)) is not None
    }
    for length in {len(one) for one in behind.values()}:
        group = {place: one for place, one in behind.items() if len(one) == length}
        for place, (text,) in zip(group, greedy([*group.values()], max_new_tokens=6, end=END), strict=True):
            answers[place] = tuple(_until(text, END)[:-1])
    right = sum(answer == question.answer for answer, question in zip(answers, asked, strict=True))
    return right / len(asked), sum(calls) / len(asked)


def interpreted(call: Sequence[int]) -> tuple[int, ...] | None:
    """Four digits of the product in a call `<dd*dd>`; None for anything else."""
    fits = len(call) == 7 and call[0] == CALL and call[3] == TIMES and call[6] == STOP
    if not fits or any(one > 9 for one in (*call[1:3], *call[4:6])):
        return None
    return _digits((10 * call[1] + call[2]) * (10 * call[4] + call[5]), 4)


def sequences(seed: int, purpose: str, count: int) -> list[Example]:
    """Four letters are repeated for a log-normal length, or turned round where the sequence is a short one."""
    draw = random.Random(f"{purpose} {seed}")
    found = []
    for place in range(count):
        letters = [draw.randrange(LETTERS) for _ in range(4)]
        if place % 3 == 0:
            found.append(example((TURNED, *letters), [letters[::-1]]))
        else:
            length = min(60, max(8, round(24 * draw.lognormvariate(0, 0.6))))
            found.append(example((PLAIN, *letters), [[letters[one % 4] for one in range(length)]]))
    return found


def _averaged(over: Literal["tokens", "sequences"], seed: int) -> Measures:
    start = seeded(lambda: tiny_transformer(VOCABULARY, 64, 1, 4, positions=80, spread=0.1), seed)
    model = trained(
        start, sequences(seed, "sequences", SEQUENCES), get_objective("sft"), SFTConstants(loss_average=over),
        steps=SHORT_STEPS, batch_size=16, learning_rate=2e-3, generator=stream(seed, "sequences"),
    )  # fmt: skip
    told = sequences(seed, "told", TOLD)
    scored = frozen_logps(
        model,
        one_each(
            [one.contexts[0].prompt_ids for one in told], [one.contexts[0].response_ids[0] for one in told]
        ),
    )
    losses = sorted(zip(scored.lengths.tolist(), (-scored.means()).tolist(), strict=True))
    third = len(losses) // 3
    return {
        "short": sum(loss for _, loss in losses[:third]) / third,
        "long": sum(loss for _, loss in losses[third:]) / (len(losses) - third),
    }


def _digits(number: int, count: int) -> tuple[int, ...]:
    return tuple(int(one) for one in f"{number:0{count}d}")


def _until(tokens: Sequence[int], end: int) -> list[int]:
    """The tokens up to the first `end`, with it; all of them and `END` where there is none."""
    return [*tokens[: tokens.index(end)], end] if end in tokens else [*tokens, END]
