"""Tuning on few shots, as a run: measure the model as it is, train every arm under every seed, measure, report."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.files import atomic_path
from coalign.core.progress import progress
from coalign.core.runs import Run
from coalign.loops.rounds import Round, run_rounds
from coalign.pairs.encoders import ImageTextEncoder
from coalign.pairs.features import FeatureCache, encoder_identity, image_features, stacked
from coalign.training.checkpoints import Keys
from coalign.training.modules import fit_module
from coalign.vision.tuning.augment import rand_augment
from coalign.vision.tuning.few_shot import draw_shots
from coalign.vision.tuning.material import Material, TestSet, read_material, test_sets
from coalign.vision.tuning.prompted import PromptedEncoder, plain_name
from coalign.vision.tuning.report import write_tuning_report
from coalign.vision.tuning.training import (
    ConsistentTuning,
    class_features,
    predictions,
    prompted_text,
    rate_callback,
)

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.data.media.records import MediaRecord

ZERO_SHOT = "zero-shot"


def run_tuning(config: Any, run: Run) -> None:
    """The stages `baseline`, `fit` and `evaluate` of a round a seed, and the report."""
    material = read_material(config)
    encoder = ImageTextEncoder.load(config.model, device=config.device, revision=config.revision)
    cache = FeatureCache(encoder_identity(encoder))
    read = [material.data, *filter(None, [material.test]), *material.transfer.values()]
    run.log(
        "data",
        pictures=[len(one) for one in read],
        base=len(material.base),
        novel=len(material.novel),
        left_out=sum(len(one.problems) for one in read),
    )

    def baseline(round: Round) -> None:
        shots = draw_shots(material.data.records, material.base, config.shots, config.seeds[round.number - 1])
        round.write("shots", ({"id": one.id, "class": one.label} for one in shots.records))
        rows: list[dict[str, Any]] = []
        for one in test_sets(config, material, config.seeds[round.number - 1]):
            features = image_features(
                encoder, [r.picture for r in one.records], cache=cache, batch_size=config.eval_batch_size
            )
            names = [f"{config.context} {plain_name(name)}{config.ending}".strip() for name in one.classes]
            text = torch.cat(class_features(encoder, {name: [name] for name in names}))
            found = predictions(lambda pooled: pooled, text.cpu(), [stacked(features)])
            rows += _rows(ZERO_SHOT, one, found)
        round.write("baseline", rows)

    def fit(round: Round) -> None:
        for arm in config.arms:
            if not (round.folder / arm).exists():
                _train(config, round, encoder, material, arm)

    def evaluate(round: Round) -> None:
        rows: list[dict[str, Any]] = []
        for arm in config.arms:
            model = PromptedEncoder.load(round.folder / arm, encoder)
            for one in test_sets(config, material, config.seeds[round.number - 1]):
                with torch.no_grad():
                    batches = _pixels(encoder, one.records, config.eval_batch_size, f"{arm}: {one.name}")
                    found = predictions(model.image, prompted_text(model, one.classes), batches)
                rows += _rows(arm, one, found)
        round.write("evaluate", rows)

    stages = {"baseline": baseline, "fit": fit, "evaluate": evaluate}
    rounds = run_rounds(run, stages, rounds=len(config.seeds))
    run.publish_model(rounds[0].folder / config.arms[0])
    write_tuning_report(config, run, rounds, material)


def _train(config: Any, round: Round, encoder: ImageTextEncoder, material: Material, arm: str) -> None:
    seed = config.seeds[round.number - 1]
    shots = draw_shots(material.data.records, material.base, config.shots, seed).records
    places = {name: at for at, name in enumerate(material.base)}
    adapters = arm in ("coprompt", "no-consistency")
    weight = config.resolved()[2] if arm in ("coprompt", "no-adapters") else 0.0
    model = PromptedEncoder(encoder, config.settings(adapters=adapters), seed=seed)

    def plain(index: int, _draw: random.Random) -> Tensor:
        return encoder.pixels([shots[index].picture])[0]

    def changed(index: int, draw: random.Random) -> Tensor:
        picture: Any = shots[index].picture
        return encoder.pixels([rand_augment(picture.open(), draw)])[0]

    random_view = changed if config.augmentation == "randaugment" else plain
    task = ConsistentTuning(
        encoder=encoder,
        class_ids=model.class_ids(material.base),
        descriptions=class_features(encoder, material.descriptions) if weight else [],
        views=(plain if config.clean_student else random_view, random_view),
        labels=[places[str(one.label)] for one in shots],
        weight=weight,
        criterion=config.criterion,
        seed=seed,
    )
    steps = -(-len(shots) // (config.batch_size * config.gradient_accumulation))
    by_epoch = config.schedule == "epochs"
    settings: Any = copy.copy(config)
    momentum: dict[str, Any] = (
        {"optim_args": f"momentum={config.momentum}"} if config.optimizer == "sgd" else {}
    )
    settings.seed, settings.schedule = seed, "constant" if by_epoch else config.schedule
    fitted = fit_module(
        model,
        task,
        Keys(len(shots)),
        settings,
        round.run,
        name=f"seed-{seed}/{arm}",
        callbacks=[rate_callback(config, steps)] if by_epoch else [],
        quiet=round.number > 1 or arm != config.arms[0],
        **momentum,
    )
    round.write(f"history-{arm}", fitted.history)
    with atomic_path(round.folder / arm) as folder:
        model.save(folder, classes=material.base, arm=arm, seed=seed, shots=config.shots)


def _pixels(
    encoder: ImageTextEncoder, records: Sequence[MediaRecord], batch_size: int, label: str
) -> Iterator[Tensor]:
    with progress(len(records), label, "picture") as bar:
        for start in range(0, len(records), batch_size):
            part = records[start : start + batch_size]
            yield encoder.pixels(one.picture for one in part)
            bar.advance(len(part))


def _rows(arm: str, tests: TestSet, found: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "arm": arm,
            "set": tests.name,
            "id": one.id,
            "class": one.label,
            "predicted": tests.classes[said],
            "correct": tests.classes[said] == one.label,
        }
        for one, said in zip(tests.records, found, strict=True)
    ]
