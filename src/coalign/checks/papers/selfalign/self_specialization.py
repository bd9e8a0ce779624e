"""Check of `self-specialization`: a generalist that writes and answers domain tasks from a few seeds."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from coalign.checks.arms import Arm, Measures, measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.steps import example, trained
from coalign.checks.tiny_models import sample, seeded, stream
from coalign.checks.worlds.words.latent import DOMAIN, GENERAL, WIDTH, LatentWorld, Task
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.models.modules import evaluation
from coalign.training.objective import get_objective

SEEN = DOMAIN[:-1]
"""The kinds of task among the domain seeds; the last one is held out."""
SEEDS = 16
ROWS = 300
REQUESTS = 6
"""Times `ROWS` tasks are asked for at most, should some be malformed or repeated."""
SHOWN, SHOTS = 3, 5
"""Seeds before a task that is written, and before one that is answered."""
BATCH = 16
STEPS = 2 * (ROWS + SEEDS) // BATCH
STEPS_OF_BASE = (450, 450)
"""Of the first part of the generalist's training, and at most of the second."""
SKILLED, ENOUGH = 0.9, 0.2
"""The generalist's training ends at these shares, after five examples: of general tasks and of loose lines of the domain, and of
domain tasks as they are asked.
"""
LATENT = (0.15, 0.6)
"""Share of the test's domain items that the generalist answers: below it the skill is not there to be brought out, above
it nothing is hidden."""
LEAST_OWN = 150
"""Own rows that are of the domain, below which nothing was self-specialised."""


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share."""

    world: LatentWorld
    base: nn.Module


def prepare(seed: int) -> Material:
    """The world of a seed and its generalist."""
    world = LatentWorld(seed)
    return Material(
        world, world.base(steps=STEPS_OF_BASE, enough=lambda model: knows_enough(world, model), every=20)
    )


def knows_enough(world: LatentWorld, model: nn.Module) -> bool:
    """Whether a model in training is the generalist, by a look at a hundred items of each: good at general tasks and at the
    domain in the form of loose lines, and now and then right in the form in which tasks are asked.
    """
    domain, general = seeds_of(world, SEEN), seeds_of(world, GENERAL)
    items = items_of(world, DOMAIN, domain, 100, "look")
    with evaluation(model):
        return (
            share_right(world, model, items, domain, SHOTS, "look") >= ENOUGH
            and share_right(world, model, items, domain, SHOTS, "look", loose=True) >= SKILLED
            and share_right(
                world, model, items_of(world, GENERAL, general, 100, "look"), general, SHOTS, "look"
            )
            >= SKILLED
        )


def adapted(model: nn.Module, seed: int) -> nn.Module:
    """A copy of the model with a fresh LoRA adapter of rank 4, whose weights alone are trained."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return seeded(lambda: get_peft_model(copy.deepcopy(model), config), seed)  # pyright: ignore[reportArgumentType]


def seeds_of(world: LatentWorld, operations: Sequence[str]) -> list[Task]:
    """The seed tasks: as many of each operation."""
    draw = random.Random(f"{world.seed}/seeds {operations[0]}")
    return [world.draw([operations[number % len(operations)]], draw) for number in range(SEEDS)]


def written(material: Material, seeds: Sequence[Task]) -> list[tuple[Task, list[int]]]:
    """Up to `ROWS` tasks that the model wrote after some seeds, and its answers after others.

    An instruction here is one token, so there is no new wording of it: each task takes that of a seed, and the model writes
    the input. Malformed and repeated tasks are dropped, and those without an answer of the right length.
    """
    world, base = material.world, material.base
    draw = random.Random(f"{world.seed}/requests {seeds[0][0]}")
    found: dict[Task, None] = {}
    for turn in range(REQUESTS):
        requests: list[list[int]] = []
        for _ in range(ROWS):
            *shown, one = draw.sample(list(seeds), SHOWN + 1)
            begun = [world.task, world.code(one[0]), world.given]
            requests.append([token for other in shown for token in world.listed(other)] + begun)
        numbers = stream(world.seed, f"tasks {seeds[0][0]} {turn}")
        said = sample(base, requests, numbers, n=1, max_new_tokens=WIDTH + 1, end=world.end)
        tasks = [world.read([*request[-2:], *one]) for request, (one,) in zip(requests, said, strict=True)]
        found |= dict.fromkeys(task for task in tasks if task is not None and task not in seeds)
        if len(found) >= ROWS:
            break
    tasks = list(found)[:ROWS]
    answers = answered(world, base, tasks, seeds, SHOTS, "answers")
    return [
        (task, answer)
        for task, answer in zip(tasks, answers, strict=True)
        if len(answer) == WIDTH + 1 and answer[-1] == world.end
    ]


def answered(
    world: LatentWorld,
    model: nn.Module,
    tasks: Sequence[Task],
    shown: Sequence[Task],
    shots: int,
    purpose: str,
    *,
    loose: bool = False,
) -> list[list[int]]:
    """Greedy answers to tasks, after some solved ones; `loose`: as lines that do not ask for anything."""
    if not tasks:
        return []
    draw = random.Random(f"{world.seed}/{purpose}")
    begun = world.begun if loose else world.asked

    def solved(task: Task) -> list[int]:
        return [*begun(task), *world.answer_to(task)]

    prompts = [
        [token for one in draw.sample(list(shown), shots) for token in solved(one)] + begun(task)
        for task in tasks
    ]
    numbers = stream(world.seed, purpose)
    said = sample(model, prompts, numbers, n=1, max_new_tokens=WIDTH + 1, temperature=0.0, end=world.end)
    return [tokens for (tokens,) in said]


def is_right(world: LatentWorld, task: Task, answer: Sequence[int]) -> bool:
    """Whether an answer is the task's and ends there."""
    return world.solve(task) is not None and list(answer) == world.answer_to(task)


def items_of(
    world: LatentWorld, operations: Sequence[str], seeds: Sequence[Task], count: int, purpose: str
) -> list[Task]:
    """Tasks of these operations, none of them a seed."""
    draw = random.Random(f"{world.seed}/{purpose}")
    tasks: list[Task] = []
    while len(tasks) < count:
        task = world.draw(operations, draw)
        tasks += [task] * (task not in seeds)
    return tasks


def share_right(
    world: LatentWorld,
    model: nn.Module,
    tasks: Sequence[Task],
    shown: Sequence[Task],
    shots: int,
    purpose: str,
    *,
    loose: bool = False,
) -> float:
    """Share of tasks that a model answers exactly; arguments as of `answered`."""
    answers = answered(world, model, tasks, shown, shots, purpose, loose=loose)
    hits = [is_right(world, task, answer) for task, answer in zip(tasks, answers, strict=True)]
    return sum(hits) / len(tasks)


def tested(world: LatentWorld, model: nn.Module) -> Measures:
    """Share of test items answered exactly, after five seeds and after none."""
    domain, general = seeds_of(world, SEEN), seeds_of(world, GENERAL)
    found: Measures = {}
    for name, operations, shown, count in (
        ("seen types", SEEN, domain, 320),
        ("held-out type", DOMAIN[-1:], domain, 80),
        ("general", GENERAL, general, 200),
    ):
        tasks = items_of(world, operations, shown, count, f"test {name}")
        for shots in (SHOTS, 0):
            right = share_right(world, model, tasks, shown, shots, f"test {name} {shots}")
            found[f"{name}, {shots}-shot"] = right
    for shots in (SHOTS, 0):
        found[f"domain, {shots}-shot"] = (
            4 * found[f"seen types, {shots}-shot"] + found[f"held-out type, {shots}-shot"]
        ) / 5
    return found


def tuned_arm(seeds: Sequence[str], *, writes: bool) -> Arm[Material]:
    """An adapter, trained on seed tasks of these operations and, with `writes`, on those that the model makes of them."""

    def arm(material: Material) -> Measures:
        world = material.world
        always = seeds_of(world, seeds)
        own = written(material, always) if writes else []
        rows = own + [(task, world.answer_to(task)) for task in always]
        model = trained(
            adapted(material.base, world.seed),
            [example(world.asked(task), [answer]) for task, answer in rows],
            get_objective("sft"),
            steps=STEPS,
            batch_size=BATCH,
            learning_rate=3e-3,
            generator=stream(world.seed, "order"),
        )
        return {**tested(world, model), **_of_rows(world, own)}

    return arm


def _of_rows(world: LatentWorld, own: Sequence[tuple[Task, list[int]]]) -> Measures:
    count = max(len(own), 1)
    return {
        "own rows": float(len(own)),
        "own rows of the domain": float(
            sum(task[0] in DOMAIN and world.solve(task) is not None for task, _ in own)
        ),
        "own answers right": sum(is_right(world, task, answer) for task, answer in own) / count,
    }


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Self-written domain tasks bring out what a generalist knows, more than examples, general tasks or the seeds alone do.

    Rule:
        Seen: in at least 4 of 5 seeds the share of 400 domain items (a fifth of a held-out kind) that is answered
        exactly, after five examples, is higher for the self-specialised model than for the base model and than for the
        one of general self-written tasks, by 0.05 or more each, and in the mean it is not lower than that of the seeds
        alone. Otherwise not seen; mixed where under some seed the base model answers less than 0.15 or more than 0.6 of
        the items, so that the skill is not there or not hidden, or fewer than 150 of its own rows are of the domain.

    Setting:
        Tasks turn three symbols into three. A transformer of 3 layers and width 64 is trained from scratch on documents of
        six tasks (batches of 32, Adam 2e-3): 450 steps without the domain, then with a third of domain tasks, which stand in
        loose lines and never in the form in which tasks are asked, until of a hundred items of each, after five examples, it
        answers 0.9 of the general tasks, 0.9 of the domain's loose lines and 0.2 of the domain's tasks as they are asked (at
        most 450 steps). 16 seeds of four kinds of domain task, a fifth kind is held out. Up to 300 tasks written after three
        seeds, answered greedily after five; LoRA of rank 4 on tasks and seeds, 39 steps of 16, Adam 3e-3, as many for the
        seeds alone.
    """
    arms: dict[str, Arm[Material]] = {
        "base": lambda material: tested(material.world, material.base) | _of_rows(material.world, ()),
        "generic": tuned_arm(GENERAL, writes=True),
        "seeds alone": tuned_arm(SEEN, writes=False),
        "self-specialised": tuned_arm(SEEN, writes=True),
    }
    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    ours, domain = "self-specialised", "domain, 5-shot"
    over_base, over_generic = (rows.gaps(domain, ours, one) for one in ("base", "generic"))
    over_seeds = rows.gaps(domain, ours, "seeds alone")
    hits = {seed: over_base[seed] >= 0.05 and over_generic[seed] >= 0.05 for seed in over_base}
    seen = most_seeds(hits) and mean_of(over_seeds) >= 0
    answered = rows.values(domain, "base").values()
    made = rows.values("own rows of the domain", ours).values()
    latent = LATENT[0] <= min(answered) and max(answered) <= LATENT[1] and min(made) >= LEAST_OWN
    return rows.verdict(
        check,
        outcome=decide(seen=seen and latent, not_seen=not seen and latent),
        summary={
            "seeds that hit": sum(hits.values()),
            "domain, base": rows.mean(domain, "base"),
            "domain, self-specialised - base": mean_of(over_base),
            "domain, self-specialised - generic": mean_of(over_generic),
            "domain, self-specialised - seeds alone": mean_of(over_seeds),
            "held-out type, self-specialised - base": rows.gap("held-out type, 5-shot", ours, "base"),
            "domain without examples, self-specialised - base": rows.gap("domain, 0-shot", ours, "base"),
            "general, self-specialised - base": rows.gap("general, 5-shot", ours, "base"),
        },
    )
