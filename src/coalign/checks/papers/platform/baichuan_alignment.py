"""Check of `baichuan-alignment`: the line goes beyond fine-tuning, and rows of several samples leak nothing and are full."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from coalign.checks.arms import Measures, keep_items, kept_items, measure_arms, one_thread
from coalign.checks.rules import decide, mean_of, paired_t, significant
from coalign.checks.tiny_models import seeded, stream, tiny_transformer
from coalign.checks.worlds.words.ruled import Asked, RuledWorld, make_ruled_world
from coalign.core.files import write_rows
from coalign.core.inner_runs import finished
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.judging.verifiers.constraints import constraint_satisfaction
from coalign.models.files.loading import load_model
from coalign.models.options import ModelOptions
from coalign.models.scoring.engine import score_responses
from coalign.models.scoring.packed_rows import padded_utilisation, sequential_pack
from coalign.models.types import Responses
from coalign.platform import baichuan_alignment

CLEAN, SAMPLES, PAIRED = 0.7, 6, 200
"""Share of demonstrations that keep a rule; answers a prompt for pairs; prompts that they are made of."""
STAGES = {
    "rewarding": {"learning_rate": 1e-3, "epochs": 3.0, "batch_size": 16},
    "reinforced": {
        "learning_rate": 1e-4,
        "epochs": 5.0,
        "max_steps": 60,
        "prompts_per_step": 16,
        "eval_fraction": 0.0,
    },
}
"""Sizes of the small models' trainings, where they are not the system's."""
FIGURES = ("share, packed", "share, padded", "padded time over packed", "largest difference")
SHORT, LONGEST, SPREAD, CAPACITY, CHATS, WIDE = 40, 512, 1.0, 512, 64, 16
"""Lengths of chats: median, longest, spread of the logarithm; tokens of a row; chats; chats of a padded batch."""


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Reward model and reinforcement keep more constraints than fine-tuning alone, and packed rows are full and separate.

    Rule:
        Seen: (A) rows are at least 0.90 full where padded batches are at most 0.35, a pass over them takes at most 1/1.8 of
        the padded processor time in the median of 3 turns, and losses of samples differ by less than 1e-4; and (B) the share of
        kept constraints on unseen prompts is more than 0.05 above fine-tuning in the mean over seeds, with a paired t-test below
        0.05 (one-sided). Not seen: any of them fails.

    Setting:
        A: 64 sequences of drawn tokens with log-normal lengths (median 40, at most 512) through a transformer of 4 layers and
        width 256, forward and backward, rows of 512 against batches of 16 padded to their longest, in turn. B: a transformer of
        two layers that is fine-tuned on answers of which 70 % keep each rule about form; a reward model on its own answers,
        labelled by the rules, and 60 steps of GRPO with three answers a prompt and the divergence over 500 tokens, by the
        command itself; 300 unseen prompts.
    """
    packing = _packing(run)
    rows = measure_arms(
        run,
        seeds=seeds,
        prepare=lambda seed: make_ruled_world(seed, training=PAIRED, test=300, kept=CLEAN, unasked=0.1),
        arms={"fine-tuned": _tuned, "the line": lambda world: _line(run, world)},
    )
    gaps = rows.gaps("kept", "the line", "fine-tuned")
    separate = packing["largest difference"] < 1e-4
    full = packing["share, packed"] >= 0.9 and packing["share, padded"] <= 0.35
    fast = packing["padded time over packed"] >= 1.8
    gained = mean_of(gaps) > 0.05 and significant(gaps)
    return rows.verdict(
        check,
        outcome=decide(seen=separate and full and fast and gained),
        summary={**packing, "gain of the line": mean_of(gaps), "t": paired_t(gaps)},
    )


def kept_share(prompts: Sequence[Asked], answers: Sequence[Sequence[str]]) -> list[float]:
    """[prompts] share of their constraints that the answers keep."""
    return [
        sum(
            constraint_satisfaction(one.text, text, [rule.constraint for rule in one.rules])[0]
            for text in texts
        )
        / len(texts)
        for one, texts in zip(prompts, answers, strict=True)
    ]


def _tuned(world: RuledWorld) -> Measures:
    return _measured(world, world.base)


def _measured(world: RuledWorld, model: PreTrainedModel) -> Measures:
    answers = world.answers(model, world.test, 1, "test")
    shares = kept_share(world.test, answers)
    return {
        "kept": sum(shares) / len(shares),
        "characters": sum(len(one[0]) for one in answers) / len(answers),
    }


def _line(run: Run, world: RuledWorld) -> Measures:
    folder = run.artefacts / f"line-{world.seed}"
    model = folder / "start"
    if not model.exists():
        world.base.save_pretrained(model)
        world.tokenizer.save_pretrained(model)
    prompts, pairs = folder / "prompts.jsonl", folder / "pairs.jsonl"
    write_rows(prompts, [{"prompt": one.text} for one in world.training])
    write_rows(pairs, _pairs(world))
    config = baichuan_alignment.Config(
        model=str(model), tuning="full", device="cpu", prompts=str(prompts), preferences=str(pairs), curate=False,
        max_length=128, max_new_tokens=48, seed=world.seed,
        stage=[f"{name}.{key}={value}" for name, options in STAGES.items() for key, value in options.items()],
    )  # fmt: skip
    made = finished(folder / "run", baichuan_alignment.SLUG, baichuan_alignment, config)
    return _measured(world, load_model(ModelOptions(model=str(made.path), device="cpu"), training=False))


def _pairs(world: RuledWorld) -> list[dict[str, object]]:
    """Of each prompt the answer that keeps most against the one that keeps least, with their shares as scores; none where all
    keep the same.
    """
    found = []
    answers = world.answers(world.base, world.training, SAMPLES, "pairs")
    for one, texts in zip(world.training, answers, strict=True):
        shares = [kept_share([one], [[text]])[0] for text in texts]
        best, worst = max(shares), min(shares)
        if best > worst:
            found.append(
                {
                    "prompt": one.text, "chosen": texts[shares.index(best)], "rejected": texts[shares.index(worst)],
                    "score_chosen": best, "score_rejected": worst,
                }
            )  # fmt: skip
    return found


def _packing(run: Run) -> dict[str, float]:
    """Part A: the same sequences in rows of a capacity and in padded batches, three turns of each; kept with the run."""
    with contextlib.suppress(KeyError):
        (kept,) = kept_items(run, "packing", 1)
        return {name: kept[name] for name in FIGURES}
    draw = stream(0, "lengths")
    lengths = [
        min(LONGEST, max(4, round(SHORT * math.exp(SPREAD * float(torch.randn((), generator=draw))))))
        for _ in range(CHATS)
    ]
    texts = [torch.randint(512, (length + 1,), generator=draw).tolist() for length in lengths]
    model = seeded(lambda: tiny_transformer(512, 256, 4, 4, positions=LONGEST + 1), 0)
    rows = sequential_pack(lengths, CAPACITY)
    with one_thread():
        seconds: dict[str, list[float]] = {"packed": [], "padded": []}
        losses: dict[str, list[float]] = {}
        for _ in range(3):
            for name, batches in (
                ("packed", rows.rows),
                ("padded", [range(start, min(start + WIDE, CHATS)) for start in range(0, CHATS, WIDE)]),
            ):
                began = time.process_time()
                losses[name] = _losses(model, texts, batches, packed=name == "packed")
                seconds[name].append(time.process_time() - began)
    ratios = sorted(slow / quick for slow, quick in zip(seconds["padded"], seconds["packed"], strict=True))
    found = {
        "share, packed": rows.utilisation,
        "share, padded": padded_utilisation(lengths, WIDE),
        "padded time over packed": ratios[1],
        "largest difference": max(
            abs(one - other) for one, other in zip(losses["packed"], losses["padded"], strict=True)
        ),
    }
    keep_items(run, "packing", 0, **found)
    return found


def _losses(
    model: nn.Module, texts: list[list[int]], batches: Sequence[Sequence[int]], *, packed: bool
) -> list[float]:
    """Mean loss of every text, forward and backward batch by batch."""
    found = [0.0] * len(texts)
    for batch in batches:
        part = [texts[place] for place in batch]
        responses = Responses([one[:1] for one in part], [one[1:] for one in part], list(range(len(part))))
        means = score_responses(model, responses, path="packed" if packed else "padded").means()
        (-means.sum()).backward()
        model.zero_grad()
        for place, mean in zip(batch, means.tolist(), strict=True):
            found[place] = -mean
    return found
