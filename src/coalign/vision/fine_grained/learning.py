"""From items with people's scores to a saved scorer."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from coalign.core.errors import DataError
from coalign.core.files import write_json
from coalign.core.runs import Run, is_main_process
from coalign.data.checking.usable import openable
from coalign.vision.fine_grained.items import Item, Items
from coalign.vision.fine_grained.loading import new_scorer, save_scorer
from coalign.vision.fine_grained.training import FineGrainedTask, make_examples

BLIP_RATE, JOINT_RATE = 1e-5, 3e-4


@dataclass(frozen=True)
class Trained:
    """What the training did.

    Attributes:
        items, held_out: learnt from, and not.
        notes: what became of the others, in words.
        read: the items as they were read; None where the training is read from its files.
    """

    steps: int
    history: list[dict[str, float]]
    items: int
    held_out: int
    notes: list[str] = field(default_factory=list)
    read: Items | None = None


def split_prompts(items: Sequence[Item], fraction: float, seed: int) -> tuple[list[Item], list[Item]]:
    """To learn from, and held out: all pictures of a prompt are on the same side."""
    prompts = sorted({one.prompt for one in items})
    random.Random(f"{seed}/held out").shuffle(prompts)
    held_out = set(prompts[: round(fraction * len(prompts))])
    sides: tuple[list[Item], list[Item]] = ([], [])
    for one in items:
        sides[one.prompt in held_out].append(one)
    return sides


def train_scorer(read: Items, base: str, config: Any, run: Run) -> Trained:
    """Train on the items and save into the run's `model`; what is done is read, not done again.

    Items without an overall score, with an element that is not found in the prompt, and with a picture that cannot be opened
    are left out and told.

    Raises:
        DataError: no item is left.
        ModelError: the base cannot be loaded.
    """
    from transformers import set_seed

    from coalign.training.modules import fit_module
    from coalign.vision.fine_grained.model import QFormerBody

    done = run.artefacts / "training.json"
    if done.exists() and run.model.exists():
        return Trained(**json.loads(done.read_text(encoding="utf-8")))
    usable, broken = openable(read.items)
    set_seed(config.seed)
    scorer, reader, about = new_scorer(base, config.revision, config.device)
    sides = split_prompts(usable, config.eval_fraction, config.seed)
    learning, held_out = (make_examples(side, reader, config.text_length) for side in sides)
    if not learning.examples:
        raise DataError(
            f"None of {len(read.items)} items can be learnt from: {learning.unscored + held_out.unscored} have no total_score, "
            f"{learning.lost + held_out.lost} an element that does not stand in the prompt, {len(broken)} a broken picture."
        )
    scorer.body.freeze()
    pretrained = isinstance(scorer.body, QFormerBody)
    rate = BLIP_RATE if pretrained else JOINT_RATE
    distance = config.distance if config.distance != "auto" else "absolute" if pretrained else "cross-entropy"
    result = fit_module(
        scorer,
        FineGrainedTask(reader, config, distance),
        learning.examples,
        config,
        run,
        held_out=held_out.examples,
        learning_rate=config.learning_rate or rate,
    ).finite()
    counted = {
        "have no total_score": learning.unscored + held_out.unscored,
        "have an element that does not stand in the prompt": learning.lost + held_out.lost,
        f"have an element beyond {config.text_length} tokens, which is not learnt": learning.cut
        + held_out.cut,
    }
    notes = [f"{count:,} items {what}." for what, count in counted.items() if count]
    if broken:
        notes.append(
            f"{len(broken):,} pictures could not be opened and were left out; the first: {broken[0]}"
        )
    trained = Trained(result.steps, result.history, len(learning.examples), len(held_out.examples), notes)
    if is_main_process():
        save_scorer(run.model, scorer, about)
        write_json(done, {**asdict(trained), "read": None})
    return trained
