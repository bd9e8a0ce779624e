"""Check of `itta`: single objects in four drawing styles, each of which is new to the classifier in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.worlds.drawn.domains import CLASSES, STYLES, StagedNetwork, styled_objects
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.vision.domains.classifier import BlockClassifier
from coalign.vision.domains.files import Adaptable
from coalign.vision.domains.options import ConsistencyOptions
from coalign.vision.domains.stream import StreamClassifier, StreamSettings, style_bank
from coalign.vision.domains.training import ALIGNING, CLASSIFYING, Consistency

STEPS, PER_DOMAIN, RATE = 500, 12, 3e-3
TRAINING, TESTED, BATCH, BANK = 1000, 480, 32, 256
ERM, VIEWS, PLAIN, OURS, NAIVE = (
    "ERM", "ERM + mixed views", "ITTA without adaptation", "ITTA", "squared consistency, extractor adapted",
)  # fmt: skip
NEUTRAL = 0.003

Drawn = tuple[Tensor, Tensor]
"""Pixels [n, 3, 32, 32] and classes [n]."""


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share: pictures of every style, and the classifiers with a learned consistency, by the style
    that each has not seen.
    """

    seed: int
    training: dict[str, Drawn]
    tested: dict[str, Drawn]
    learned: dict[str, Adaptable]


def check(run: Run, *, seeds: int = 3) -> Verdict:
    """Adapted classifiers are better on a style that they have not seen than those of plain training.

    Rule:
        Seen: the mean accuracy of ITTA with adaptation is above that of ERM by 1.0 point or more, in 8 of 12 runs (seed and
        style) it is above it, and it is not below that of the squared consistency whose extractor is adapted. Otherwise not
        seen. Less than 0.3 points between ITTA with and without adaptation are told as neutral.

    Setting:
        Single objects of 12 classes (6 shapes in 2 sizes) in four styles: plain, on a tinted ground with noise, outlined,
        inverted; each is left out in turn. 1,000 pictures a style to learn from, 480 to test. Four convolutions of stride 2
        (16 to 96 channels, group norm), 500 steps of 12 pictures a style, Adam 3e-3. Test batches of 32, styles of a bank of
        256, one step of Adam a batch on the maps, at a tenth of the training's rate.
    """
    arms: dict[str, Callable[[Material], Measures]] = {
        ERM: lambda given: _over_styles(given, lambda style: _trained(given, style, views=False), None),
        VIEWS: lambda given: _over_styles(given, lambda style: _trained(given, style, consistency="none"), None),
        PLAIN: lambda given: _over_styles(given, given.learned.__getitem__, None),
        OURS: lambda given: _over_styles(given, given.learned.__getitem__, StreamSettings(test_rate=RATE / 10)),
        NAIVE: lambda given: _over_styles(
            given,
            lambda style: _trained(given, style, consistency="squared"),
            StreamSettings(adapted="extractor", test_rate=RATE / 10),
        ),
    }  # fmt: skip
    rows = measure_arms(run, seeds=seeds, prepare=_material, arms=arms)
    gains = {f"{seed}/{style}": gap for style in STYLES for seed, gap in rows.gaps(style, OURS, ERM).items()}
    gain, naive = mean_of(rows.gaps("accuracy", OURS, ERM)), rows.gap("accuracy", OURS, NAIVE)
    above = sum(one > 0 for one in gains.values())
    adaptation = rows.gap("accuracy", OURS, PLAIN)
    return rows.verdict(
        check,
        outcome=decide(seen=gain >= 0.01 and 12 * above >= 8 * len(gains) and naive >= 0),
        summary={
            "accuracy, ITTA - ERM": gain,
            "runs above ERM": f"{above} of {len(gains)}",
            "accuracy, ITTA - naive adaptation": naive,
            "accuracy, with - without adaptation": adaptation,
            "adaptation": "neutral" if abs(adaptation) < NEUTRAL else "better" if adaptation > 0 else "worse",
            "accuracy, mixed views - ERM": rows.gap("accuracy", VIEWS, ERM),
            **{f"accuracy, {arm}": rows.mean("accuracy", arm) for arm in arms},
        },
    )


def _material(seed: int) -> Material:
    training, tested = (
        {style: styled_objects(style, count, seed, place, part) for place, style in enumerate(STYLES)}
        for part, count in enumerate((TRAINING, TESTED))
    )
    material = Material(seed, training, tested, {})
    return Material(seed, training, tested, {style: _trained(material, style) for style in STYLES})


def _trained(given: Material, left_out: str, *, steps: int = STEPS, **objective: object) -> Adaptable:
    """A classifier that has seen the other styles, trained as `coalign.vision.domains.training` does it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(given.seed)
        model = BlockClassifier(StagedNetwork())
    options = ConsistencyOptions(**objective)  # type: ignore[arg-type]
    consistency = Consistency(options, StagedNetwork.width, learning_rate=RATE, seed=given.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    known = [given.training[style] for style in STYLES if style != left_out]
    draw = torch.Generator().manual_seed(given.seed)
    for step in range(steps):
        rows = [torch.randint(len(one), (PER_DOMAIN,), generator=draw) for _, one in known]
        pixels = torch.cat([one[picked] for (one, _), picked in zip(known, rows, strict=True)])
        labels = torch.cat([one[picked] for (_, one), picked in zip(known, rows, strict=True)])
        classifying, regularised, _ = consistency.losses(model, pixels, labels, step, CLASSIFYING)
        optimizer.zero_grad()
        (classifying + regularised).mean().backward()
        optimizer.step()
        if consistency.learns:
            consistency.align(model, pixels, labels, step, ALIGNING)
    bank = style_bank(model, [torch.cat([one[: BANK // len(known) + 1] for one, _ in known])])
    return Adaptable(model.eval(), None, list(CLASSES), consistency.layers, bank, options.kind)


def _over_styles(
    given: Material, start: Callable[[str], Adaptable], settings: StreamSettings | None
) -> Measures:
    """The accuracy on each style by a classifier that has not seen it, and their mean."""
    found = {style: _accuracy(start(style), given.tested[style], settings, given.seed) for style in STYLES}
    return {**found, "accuracy": sum(found.values()) / len(found)}


def _accuracy(start: Adaptable, tested: Drawn, settings: StreamSettings | None, seed: int) -> float:
    """Of a stream in batches, adapted to as it goes, or as it is."""
    pixels, labels = tested
    stream = StreamClassifier(start, settings or StreamSettings(), pixels[:1], seed)
    right = 0
    for number in range(0, len(pixels), BATCH):
        batch = pixels[number : number + BATCH]
        if settings is not None:
            stream.adapt(batch, number)
        right += int((stream.probabilities(batch).argmax(-1) == labels[number : number + BATCH]).sum())
    return right / len(pixels)
