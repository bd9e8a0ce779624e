"""From pictures of several domains to a saved classifier that can be adapted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from coalign.core.files import write_json
from coalign.loops.rounds import Round
from coalign.training.modules import fit_module
from coalign.vision.domains.classifier import assert_mixable
from coalign.vision.domains.files import Adaptable, load_new, save_adaptable
from coalign.vision.domains.pictures import (
    DomainPicture,
    TrainingPictures,
    collator,
    pixels_of,
    split_domains,
)
from coalign.vision.domains.stream import style_bank
from coalign.vision.domains.training import Consistency, DomainTask, keep_best, take_best


def train_classifier(config: Any, round: Round, pictures: Sequence[DomainPicture]) -> None:
    """Train on the pictures, take the step that is best on the held-out ones, and save into the round's folder: the model, its
    history, and `training.json` with what it learnt from.

    Args:
        config: `ClassifierOptions`, `ConsistencyOptions`, `DomainTraining` and `bank`.
    """
    from transformers import set_seed

    classes = sorted({one.label or "" for one in pictures})
    training, held_out = split_domains(pictures, config.held_out, config.seed)
    names = sorted({one.domain for one in training})
    set_seed(config.seed)  # the head's first weights
    model, processor = load_new(config, classes)
    collate = collator(processor, classes)
    first = pixels_of(processor, [training[0].picture.open()]).to(model.device)
    assert_mixable(model, first)
    consistency = Consistency(
        config,
        model.eval()(first)[0].shape[-1],
        learning_rate=config.learning_rate,
        seed=config.seed,
        device=model.device,
    )
    task = DomainTask(consistency, collate, [names.index(one.domain) for one in training])
    best = round.folder / "best"
    fitted = fit_module(
        model,
        task,
        TrainingPictures(training, augment=config.augment, seed=config.seed),
        config,
        round.run,
        name=f"round-{round.number}",
        held_out=TrainingPictures(held_out),
        callbacks=[keep_best(best, model, consistency)],
        per_device_train_batch_size=config.batch_per_domain * len(names),
        optim="adamw_torch",
    )
    round.write("history", fitted.history)
    chosen = take_best(best, model, consistency)
    kept = [training[place] for place in _sample(len(training), config.bank, config.seed)]
    batches = [
        pixels_of(processor, [one.picture.open() for one in kept[start : start + config.batch_size]])
        for start in range(0, len(kept), config.batch_size)
    ]
    save_adaptable(
        Adaptable(model, processor, classes, consistency.layers, style_bank(model, batches), config.kind),
        round.folder / "model",
    )
    facts = {"training": len(training), "held out": len(held_out), "domains": names, "chosen": chosen}
    write_json(round.path("training", ".json"), facts)


def _sample(size: int, count: int, seed: int) -> list[int]:
    return sorted(random.Random(f"{seed}/bank").sample(range(size), min(count, size)))
