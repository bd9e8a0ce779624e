"""Check of `codeultrafeedback`: pairs of programs that a judge rated for a preference, in a world of small functions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from coalign.checks.arms import Arm, Measures, measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.steps import reference_logps, trained
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.programs.preferred import ProgramWorld, Source, Task, as_examples, text_of, write
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.curation.code.feedback import pair_of
from coalign.curation.code.preferences import draw_models
from coalign.judging.asked.list_ratings import read_list_ratings
from coalign.judging.protocol import Scale
from coalign.loops.pipeline import Kept
from coalign.training.batches import Example
from coalign.training.objective import get_objective

POOL = (
    Source("best", 0.9, 0.95),
    Source("good", 0.7, 0.9),
    Source("fair", 0.5, 0.8),
    Source("plain", 0.3, 0.7),
    Source("weak", 0.15, 0.6),
    Source("poor", 0.05, 0.5),
)
SKILLS = {one.name: one for one in POOL}
BASE = Source("base", 0.15, 0.6)
CORPUS = Source("corpus", 0.3, 0.9)
INSTRUCTIONS = 1000
RESPONSES = 4
EPOCHS = 3
BATCH = 32
RATE = 1e-4


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share: the world, the base model, the one fine-tuned on the corpus, pairs, and the same with the
    sides drawn by lot.
    """

    world: ProgramWorld
    base: nn.Module
    tuned: nn.Module
    pairs: list[Example]
    drawn: list[Example]


def prepare(seed: int) -> Material:
    """The world of a seed, its models and pairs."""
    world = ProgramWorld(seed)
    base = world.model(rows=8000, source=BASE, epochs=6)
    corpus = world.demonstrations(1500, CORPUS, "corpus")
    tuned = trained(
        base, corpus, get_objective("sft"), steps=3 * len(corpus) // BATCH, batch_size=BATCH, learning_rate=1e-3,
        generator=stream(seed, "corpus/order"),
    )  # fmt: skip
    pairs = rated_pairs(world)
    draw = world.draw("lots")
    lots = [
        dict(one, chosen=one["rejected"], rejected=one["chosen"]) if draw.random() < 0.5 else one
        for one in pairs
    ]
    return Material(world, base, tuned, as_examples(pairs), as_examples(lots))


def rated_pairs(world: ProgramWorld) -> list[dict[str, list[int]]]:
    """Four sources of the pool answer each instruction, the judge's reply about them is read, and a pair is made of the ratings."""
    pairs = []
    for number, task in enumerate(world.tasks(INSTRUCTIONS, "instructions")):
        draw = world.draw(f"instruction/{number}")
        models = draw_models([*SKILLS], RESPONSES, draw)
        programs = [write(task, SKILLS[one], draw) for one in models]
        row = {
            "id": str(number),
            "prompt": task.prompt,
            "preference": task.preference,
            "slots": [{"model": one} for one in models],
            "responses": [text_of(one) for one in programs],
            "ratings": ratings_of(world, task, [text_of(one) for one in programs], draw),
        }
        (made,) = pair_of(row, min_gap=1, keep_ties=False, tests="report", seed=world.seed)
        if isinstance(made, Kept):
            tokens = dict(zip(row["responses"], programs, strict=True))
            pairs.append(
                {"prompt": task.prompt, **{side: tokens[made.row[side]] for side in ("chosen", "rejected")}}
            )
    return pairs


def ratings_of(
    world: ProgramWorld, task: Task, codes: Sequence[str], draw: random.Random
) -> list[int | None]:
    """What the judge says of programs that it is shown in a shuffled order; none where its reply cannot be read."""
    shown = draw.sample(range(len(codes)), len(codes))
    reply = world.reply(task, [codes[place] for place in shown], draw)
    read = read_list_ratings(reply, len(codes), Scale(low=1, high=5)).ratings or (None,) * len(codes)
    return [read[shown.index(place)] for place in range(len(codes))]


def dpo_arm(start: str, panel: str) -> Arm[Material]:
    """DPO on the pairs, with the model that it starts from as reference."""

    def arm(material: Material) -> Measures:
        model, pairs = getattr(material, start), getattr(material, panel)
        learned = trained(
            model, pairs, get_objective("dpo"), steps=EPOCHS * len(pairs) // BATCH, batch_size=BATCH, learning_rate=RATE,
            generator=stream(material.world.seed, "pairs/order"), reference=reference_logps(model, pairs),
        )  # fmt: skip
        return material.world.measure(learned)

    return arm


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Fine-tuning and then DPO on judge-rated answers of several models raise the preference score, and more programs are right.

    Rule:
        Seen: in at least 4 of 5 seeds the score after fine-tuning and DPO is above the base model's by 0.3 or more and above that
        after DPO on pairs whose sides are drawn by lot by 0.3 or more, and pass@1 is above the base model's. Mixed: the first two
        alone. Otherwise not seen. That DPO adds to fine-tuning, and what DPO alone does, are reported and have no part in it.

    Setting:
        Small functions: real Python of a vocabulary of 25 words, five preferences. GRU of 2 layers and width 96; the base model
        learned from 8,000 programs (6 epochs) of which 60 % are right and 15 % in the liked style, the fine-tuned one from 1,500
        more (3 epochs) of which 90 % are right and 30 % in the liked style. 1,000 instructions, 4 of 6 sources each, a judge that
        is one off in 30 % of its ratings; its replies are read as the system reads them. DPO: beta 0.1, 3 epochs of batches of
        32, Adam 1e-4. Score: 1 to 5 by a judge without mistakes, mean of the preferences; 400 held-out tasks, one program each at
        temperature 0.8.
    """
    arms: dict[str, Arm[Material]] = {
        "base": lambda material: material.world.measure(material.base),
        "SFT": lambda material: material.world.measure(material.tuned),
        "DPO": dpo_arm("base", "pairs"),
        "SFT + DPO": dpo_arm("tuned", "pairs"),
        "SFT + DPO, by lot": dpo_arm("tuned", "drawn"),
    }
    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    over_base, over_lot = (rows.gaps("score", "SFT + DPO", one) for one in ("base", "SFT + DPO, by lot"))
    right = rows.gaps("pass@1", "SFT + DPO", "base")
    preferred = most_seeds({seed: min(over_base[seed], over_lot[seed]) >= 0.3 for seed in over_base})
    works = most_seeds({seed: gap > 0 for seed, gap in right.items()})
    return rows.verdict(
        check,
        outcome=decide(seen=preferred and works, not_seen=not preferred),
        summary={
            "score, SFT + DPO - base": mean_of(over_base),
            "score, SFT + DPO - by lot": mean_of(over_lot),
            "score, SFT + DPO - SFT": rows.gap("score", "SFT + DPO", "SFT"),
            "score, DPO - base": rows.gap("score", "DPO", "base"),
            "pass@1, SFT + DPO - base": mean_of(right),
            "pass@1, SFT + DPO - SFT": rows.gap("pass@1", "SFT + DPO", "SFT"),
            "pass@1, DPO - base": rows.gap("pass@1", "DPO", "base"),
        },
    )
