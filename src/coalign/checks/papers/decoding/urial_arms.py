"""Arms of a check: the token shift of a tuned model, and the form of answers with examples in the prompt and without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from coalign.checks.arms import Measures, keep_items
from coalign.checks.worlds.prompts.everyday_questions import QUESTIONS
from coalign.checks.worlds.words.villages import StyledWorld, right_facts
from coalign.core.runs import Run
from coalign.decoding.in_context.prefix import Style, load_style
from coalign.decoding.in_context.report import has_list, has_loop, has_offer
from coalign.decoding.in_context.token_shift import CLASSES, Shift, place_share
from coalign.decoding.in_context.token_shift_run import compare_answers
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Generator, Sampling

SHIFT, WITHOUT, WITH = "token shift", "without examples", "three examples"
LONGEST, NEW_TOKENS = 90, 80
EARLY, LATE = (0.0, 0.2), (0.5, 1.0)
"""Parts of an answer, by place: its first fifth and its second half."""
SHIFTED = str(CLASSES.index("shifted"))


def shift_arm(run: Run) -> Callable[[StyledWorld], Measures]:
    """Greedy answers of the aligned model, both models reading them; the classes of all positions are kept."""

    def measure(world: StyledWorld) -> Measures:
        found: dict[int, list[Shift]] = {}
        base, aligned = (TransformersGenerator(one, world.tokenizer) for one in (world.base, world.aligned))
        compare_answers(
            base,
            aligned,
            [[{"role": "user", "content": one.text}] for one in world.queries],
            Sampling(max_new_tokens=LONGEST, temperature=0.0),
            on_answer=lambda index, _, shifts: found.update({index: shifts}),
        )
        answers = [found[index] for index in range(len(world.queries))]
        classes = ["".join(str(CLASSES.index(one.position_class)) for one in answer) for answer in answers]
        keep_items(run, SHIFT, world.seed, classes=classes)
        texts = [world.tokenizer.decode([one.token for one in answer]) for answer in answers]
        right = [
            right_facts(world.facts, one, str(text)) for one, text in zip(world.queries, texts, strict=True)
        ]
        return {**shift_figures(classes), "tokens": fmean(map(len, answers)), "right facts": fmean(right)}

    return measure


def shift_figures(answers: Sequence[str]) -> Measures:
    """Shares of positions, from one digit a position (its place in `CLASSES`): each class, and shifted ones among the
    first fifth and the second half of the answers.
    """
    every = "".join(answers)
    shares = {name: every.count(str(place)) / len(every) for place, name in enumerate(CLASSES)}
    shifted = [[one == SHIFTED for one in answer] for answer in answers]
    return {
        **shares,
        "shifted, first fifth": place_share(shifted, *EARLY),
        "shifted, second half": place_share(shifted, *LATE),
    }


@dataclass(frozen=True)
class Prompting:
    """A base model, and by its seed the order of three examples: each stands once in every place."""

    seed: int
    base: TransformersGenerator

    @property
    def style(self) -> Style:
        style = load_style("brief", 3)
        turn = self.seed % 3
        return Style(style.system, style.examples[turn:] + style.examples[:turn])


def answers_arm(
    run: Run, name: str, make: Callable[[Prompting], Generator], questions: Sequence[str] = QUESTIONS
) -> Callable[[Prompting], Measures]:
    """Greedy answers to everyday questions; what each came to is kept."""

    def measure(material: Prompting) -> Measures:
        prompts: list[Any] = list(questions)
        sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=0.0)
        found = [one[0] for one in make(material).generate(prompts, sampling, label=name)]
        texts = [one.text for one in found]
        closed = [one.finish_reason == "stop" for one in found]
        well_formed = [
            ended and bool(text) and not has_loop(text) for ended, text in zip(closed, texts, strict=True)
        ]
        keep_items(run, name, material.seed, well_formed=[int(one) for one in well_formed], texts=texts)
        return {
            "well-formed": fmean(well_formed),
            "ended": fmean(closed),
            "not empty": fmean(map(bool, texts)),
            "in a loop": fmean(map(has_loop, texts)),
            "with a list": fmean(map(has_list, texts)),
            "offers help": fmean(map(has_offer, texts)),
            "words": fmean(len(one.split()) for one in texts),
        }

    return measure


def signs(before: Sequence[float], after: Sequence[Sequence[float]]) -> tuple[int, int]:
    """(won, lost) items: those whose mean over several conditions is above, and below, the value before."""
    means = [fmean(values) for values in zip(*after, strict=True)]
    pairs = list(zip(before, means, strict=True))
    return sum(b < a for b, a in pairs), sum(b > a for b, a in pairs)
