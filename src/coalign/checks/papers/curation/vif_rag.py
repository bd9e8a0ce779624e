"""Check of `vif-rag`: training on replies that verifiers accepted, against as many unverified ones, in a world of rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import cast

from transformers import LlamaForCausalLM

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.steps import example, trained
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.words.ruled import Asked, RuledWorld, make_ruled_world
from coalign.core.processes.sandbox import SandboxOptions
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.curation.instructions.execution import sandboxed
from coalign.curation.instructions.steps import Executor
from coalign.curation.instructions.written import cross_validate
from coalign.judging.verifiers.following import follow
from coalign.loops.pipeline import Kept
from coalign.measures.short_answers import has_match
from coalign.training.objective import get_objective

SAMPLES, TESTED = 8, 4
EPOCHS, BATCH, RATE = 3, 16, 5e-4
RULES: dict[str, tuple[tuple[str, ...], tuple[tuple[str, bool], ...]]] = {
    "Use no commas": (
        ("return ',' not in response", "return response.count(',') == 0", "return len(response.split(',')) == 1"),
        (("a b", True), ("a, b", False), ("none here", True), (",", False), ("1,000", False), ("x.", True), ("yes", True),
         ("no, no", False), ("p q r", True), ("z,", False)),
    ),
    "End with a question": (
        ("return response.strip().endswith('?')", "return response.rstrip()[-1:] == '?'", "return (response.split() or [''])[-1][-1:] == '?'"),
        (("Why?", True), ("Why.", False), ("So? Yes.", False), ("It is. Is it?", True), ("? no", False), ("Who? ", True),
         ("x", False), ("What then?", True), ("No!", False), ("Here?", True)),
    ),
    "Write everything in lower case": (
        ("return response == response.lower()", "return not any(one.isupper() for one in response)", "return response.lower() == response and True"),
        (("abc", True), ("Abc", False), ("a B c", False), ("so it is", True), ("X", False), ("fine.", True), ("oK", False),
         ("yes", True), ("NO", False), ("a1", True)),
    ),
}  # fmt: skip
"""A rule to right programs for it and cases."""
WRONG = ("return True", "return False", "return len(response) > 3", "raise ValueError")
"""What is mixed under them; the first brings a wrong case that it agrees with."""


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share: the world, and for each training prompt with an accepted reply that reply and the first one."""

    world: RuledWorld
    prompts: Sequence[Asked]
    verified: Sequence[str]
    unverified: Sequence[str]


def prepare(seed: int) -> Material:
    """The model's own replies to the training prompts, and which of them the executor accepts."""
    world = make_ruled_world(seed)
    replies = world.answers(world.base, world.training, SAMPLES, "replies")
    accept = Executor(lambda sources, replies: [], 0.0)  # every rule has constraints: no program is run
    prompts, verified, unverified = [], [], []
    for asked, several in zip(world.training, replies, strict=True):
        constraints = [one.constraint.to_json() for one in asked.rules]
        row = {
            "id": asked.text,
            "rule": "",
            "query": asked.text,
            "constraints": constraints,
            "replies": several,
        }
        if kept := [one.row["reply"] for one in accept([row])[0] if isinstance(one, Kept)]:
            prompts.append(asked)
            verified.append(kept[0])
            unverified.append(several[0])
    return Material(world, prompts, verified, unverified)


def base_arm(material: Material) -> Measures:
    """The model before any training."""
    return _measured(material.world, material.world.base, 0)


def tuned_arm(replies: str, material: Material) -> Measures:
    """The model trained on the replies of this name."""
    world = material.world
    end = cast(int, world.tokenizer.eos_token_id)
    examples = [
        example(_ids(world, asked.text), [[*_ids(world, text), end]])
        for asked, text in zip(material.prompts, getattr(material, replies), strict=True)
    ]
    model = trained(
        world.base,
        examples,
        get_objective("sft"),
        steps=EPOCHS * len(examples) // BATCH,
        batch_size=BATCH,
        learning_rate=RATE,
        generator=stream(world.seed, "order"),
    )
    return _measured(world, model, len(examples))


def check(run: Run, *, seeds: int = 3) -> Verdict:
    """Training on replies that verifiers accepted makes a small model keep rules, and costs no answers, in a world of rules.

    Rule:
        Seen: on test prompts the share of rules kept (loose) is higher after training on verified replies than after
        training on as many unverified ones, by 0.05 or more in the mean over seeds and by 0 or more in every seed, the
        share of right answers is lower by at most 0.02 in the mean; and of the programs that cross-validation keeps
        none is wrong, that which always says yes not either. Not seen: the difference in rules is below 0.02 in the mean.
        Mixed: between.

    Setting:
        Questions that a passage answers, under one or two of eight rules; every rule is checked by a verifier of
        coalign on the decoded text. Transformer of 2 layers and width 64 over words, 700 steps of 32 on documents in
        which a rule is kept with a chance of 0.4 and the answer is the passage's with 0.9. 300 training prompts, 8
        replies each at temperature 0.9; of every prompt with an accepted reply the first such one, or the first of all;
        3 epochs of batches of 16, Adam 5e-4. 150 other prompts, 4 replies each at temperature 0.9. Cross-validation:
        three rules, three right programs and four wrong ones each, run in a process of its own.
    """
    arms = {
        "base": base_arm,
        "unverified": partial(tuned_arm, "unverified"),
        "verified": partial(tuned_arm, "verified"),
    }
    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    gain = rows.gaps("rules, loose", "verified", "unverified")
    cost = -rows.gap("answers", "verified", "unverified")
    wrong, right = cross_checked()
    kept_rules = mean_of(gain) >= 0.05 and min(gain.values()) >= 0 and cost <= 0.02
    return rows.verdict(
        check,
        outcome=decide(seen=kept_rules and wrong == 0 and right > 0, not_seen=mean_of(gain) < 0.02),
        summary={
            "rules kept, loose: verified - unverified": mean_of(gain),
            "lowest of a seed": min(gain.values()),
            "rules kept, strict: verified - unverified": rows.gap("rules, strict", "verified", "unverified"),
            "rules kept, loose: unverified - base": rows.gap("rules, loose", "unverified", "base"),
            "right answers: verified - unverified": -cost,
            "wrong programs that cross-validation keeps": wrong,
            "right programs that it keeps, of 9": right,
        },
    )


def cross_checked() -> tuple[int, int]:
    """How many wrong and how many right programs cross-validation keeps."""
    run_programs = sandboxed(SandboxOptions(sandbox="none"), 2.0)  # the programs are those above
    kept: list[str] = []
    rights: set[str] = set()
    for right, cases in RULES.values():
        lies = tuple((text, True) for text, good in cases if not good)
        replies = [_reply(one, cases) for one in right]
        replies += [_reply(one, lies[:1] if place == 0 else ()) for place, one in enumerate(WRONG)]
        found = cross_validate(replies, run_programs)
        kept += [source for source, _ in found.functions]
        rights |= {_source(one) for one in right}
    return sum(one not in rights for one in kept), sum(one in rights for one in kept)


def _measured(world: RuledWorld, model: LlamaForCausalLM, records: int) -> Measures:
    answers = world.answers(model, world.test, TESTED, "test")
    pairs = [(asked, text) for asked, several in zip(world.test, answers, strict=True) for text in several]
    rows = [follow([one.constraint for one in asked.rules], asked.text, text) for asked, text in pairs]
    return {
        "rules, loose": fmean(each for one in rows for each in one.loose),
        "rules, strict": fmean(each for one in rows for each in one.strict),
        "answers": fmean(has_match(text, [asked.good]) for asked, text in pairs),
        "records": float(records),
    }


def _ids(world: RuledWorld, text: str) -> list[int]:
    return cast("list[int]", world.tokenizer(text, add_special_tokens=False)["input_ids"])


def _source(body: str) -> str:
    return f"def evaluate(response):\n    {body}"


def _reply(body: str, cases: Sequence[tuple[str, bool]]) -> str:
    value = {"func": _source(body), "cases": [{"input": text, "output": good} for text, good in cases]}
    return f"```json\n{json.dumps(value)}\n```"
