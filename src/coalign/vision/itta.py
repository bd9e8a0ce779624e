"""ITTA: an image classifier that adapts itself to a new domain while it works there, from the pictures alone.

Improved Test-Time Adaptation for Domain Generalization (arXiv 2304.04494, CVPR 2023).

    coalign run itta --data pacs/ --model microsoft/resnet-18
    coalign run itta --data pacs/ --target sketch --no-adapt
    coalign run itta --data pacs/ --stream incoming/
    coalign run itta --model runs/itta-1 --stream incoming/

The classifier learns from pictures of several domains, and from a view of each whose style is mixed with another's inside the
network. Features of picture and view shall be consistent under a loss that is learned as well: elementwise layers that are
turned, between two steps, so that the gradient of their loss agrees with that of the classification loss. On a new domain
all of that stays as it is. Elementwise maps behind the network's blocks, which change nothing at first, take one step down
the consistency loss of every batch before it is classified; no label and no training picture is needed. Each domain is left
out in turn (`--data` alone), or a stream is followed. Every batch has a row in `batches.jsonl`.

Differences from the authors' code, whose test step changes nothing numerically: it mixes a batch of one with itself and
multiplies the loss by 1e-6, below Adam's epsilon. Here the styles come from a bank of training pictures (or from a batch of
two or more), the loss counts once, and the rate is an option; `--released` is the code's step. The maps start anew in
every domain, and only the left-out domain is adapted to. Alignment is the code's mean of squares where the paper writes
a norm. Maps behind blocks whose outputs can be negative (ConvNeXt, transformers) have no ReLU between their layers, so that they
too begin by changing nothing.

In the check's small world adaptation did harm, and more at higher rates (docs/results): measure it on labelled pictures of the
new domain, where there are any, before it is trusted. Models of Hugging Face were run here on random weights alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import option, options_of
from coalign.core.runs import Run
from coalign.loops.rounds import STAGES, Round, run_rounds, timings
from coalign.vision.domains.options import (
    ClassifierOptions,
    ConsistencyOptions,
    DomainTraining,
    StreamOptions,
)
from coalign.vision.domains.pictures import DomainPicture, DomainSet, read_pictures
from coalign.vision.domains.report import write_domain_report

if TYPE_CHECKING:
    from coalign.vision.domains.stream import StreamSettings

RELEASED_WEIGHT = 1e-6


@dataclass(kw_only=True)
class Config(ClassifierOptions, ConsistencyOptions, DomainTraining, StreamOptions):
    """Options of `coalign run itta`."""

    __group__ = "Method"

    data: str | None = option(
        None,
        "labelled pictures of two or more domains: a folder DOMAIN/CLASS/picture, or records with image, label, domain",
    )
    target: list[str] = option(
        [], "domains to leave out in turn; by default every one of data", only_with="data"
    )
    stream: str | None = option(
        None,
        "pictures of a new domain to follow: a folder, or records with image; labels are only measured with",
    )
    split: str = option("train", "split of a hub data set")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail", "stop at pictures that cannot be used, or count them"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stream is not None:
            self.refuse(["target"], "with stream: all domains are learnt from")
        if self.data is None:
            used = {"seed", "concentration", *(["learning_rate"] if self.released else [])}
            trained = {
                one.name for group in (DomainTraining, ConsistencyOptions) for one in options_of(group)
            }
            self.refuse({*trained, "bank"} - used, "without data: nothing is trained")
        elif self.adapt and self.kind == "none":
            raise ValueError(
                "adapt lowers the consistency, and there is none to learn; say no_adapt (adapt: false)"
            )


def run(config: Config, run: Run) -> None:
    """Leave out a domain at a time, or take all: train, choose the step by the training domains, follow the new domain, report.

    Raises:
        ConfigError: neither data nor a stream, or a target that data does not have.
        DataError: pictures that cannot be used, or too few domains or classes.
        ModelError: no image classifier, or one that was not trained here where nothing is to be.
    """
    if config.data is None and config.stream is None:
        raise ConfigError(
            "There is nothing to do: neither --data (to learn from) nor --stream (to follow) is given."
        )
    known = _read(config, config.data, labelled=True) if config.data is not None else None
    stream = _read(config, config.stream, labelled=False) if config.stream is not None else None
    targets = [""] if known is None or stream is not None else _targets(config, known)

    def fit(round: Round) -> None:
        assert known is not None
        from coalign.vision.domains.fitting import train_classifier

        target = targets[round.number - 1]
        train_classifier(config, round, [one for one in known.pictures if one.domain != target])

    def evaluate(round: Round) -> None:
        target = targets[round.number - 1]
        if stream is not None:
            pictures = stream.pictures
        else:
            assert known is not None
            pictures = [one for one in known.pictures if one.domain == target]
        follow_round(config, round, pictures)

    stages = {"evaluate": evaluate} if known is None else {"fit": fit, "evaluate": evaluate}
    rounds = run_rounds(run, stages, rounds=len(targets))
    if known is not None and len(rounds) == 1:
        run.publish_model(rounds[0].folder / "model")
    read = [one for one in (known, stream) if one is not None]
    write_domain_report(
        run,
        config,
        rounds,
        [one or "stream" for one in targets],
        pictures={one.id: one.picture for one in read[-1].pictures},
        notes=[note for one in read for note in one.notes],
        times=timings(rounds, STAGES),
    )


def follow_round(config: Config, round: Round, pictures: list[DomainPicture]) -> None:
    """Classify the pictures of a new domain in batches, without and with adaptation."""
    from coalign.vision.domains.files import load_adaptable
    from coalign.vision.domains.stream import follow

    folder = config.model if config.data is None else str(round.folder / "model")
    start = load_adaptable(ClassifierOptions(model=folder, device=config.device))
    if config.adapt and start.consistency == "none":
        raise ConfigError(
            f"{folder} was trained without a consistency, so there is nothing to adapt by.",
            hint="Say --no-adapt.",
        )
    follow(
        start,
        pictures,
        settings_of(config) if config.adapt else None,
        round.folder,
        batch=1 if config.released else config.test_batch,
        seed=config.seed,
        shuffled=config.order == "shuffled",
    )


def settings_of(config: Config) -> StreamSettings:
    """How the stream is followed."""
    from coalign.vision.domains.stream import StreamSettings

    if config.released:
        return StreamSettings(
            styles="released",
            map_layers=config.map_layers,
            test_rate=config.learning_rate / 10,
            test_weight=RELEASED_WEIGHT,
        )
    return StreamSettings(
        config.adapted, config.styles, config.map_layers, config.test_rate, config.test_weight,
        config.test_steps, config.concentration,
    )  # fmt: skip


def _read(config: Config, source: str, *, labelled: bool) -> DomainSet:
    return read_pictures(source, labelled=labelled, split=config.split, on_bad_record=config.on_bad_record)


def _targets(config: Config, known: DomainSet) -> list[str]:
    """The domains to leave out.

    Raises:
        DataError: there are no two domains.
        ConfigError: no such domain.
    """
    domains = sorted({one.domain for one in known.pictures})
    if len(domains) < 2:
        raise DataError(
            f"{config.data}: {len(domains)} domain, expected two at least: one to learn from, one to leave out."
        )
    if unknown := [one for one in config.target if one not in domains]:
        raise ConfigError(
            f"--target: {', '.join(unknown)} is no domain of {config.data}, expected {', '.join(domains)}."
        )
    return config.target or domains
