"""From ranked captions to a saved reward with its figures on pictures that were held out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import DataError
from coalign.core.files import write_json
from coalign.core.progress import progress
from coalign.core.runs import Run, is_main_process
from coalign.curation.image_text.annotations import RankedCaptions
from coalign.curation.image_text.quality import Picture as RankedPicture
from coalign.curation.image_text.quality import count_words, preference_accuracy, shortcuts
from coalign.curation.image_text.scorers import Blip, MatchScorer, Towers, save_reward
from coalign.curation.image_text.training import (
    Learnt,
    RewardTrainingOptions,
    fit_reward,
    make_example,
    rewards_of,
    split_pictures,
)
from coalign.data.checking.usable import openable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coalign.curation.image_text.encoders import Encoder
    from coalign.curation.image_text.reward import RewardModel
    from coalign.training.reward_models.task import RewardExample

FEATURE_BATCH = 64


@dataclass
class FeatureInputs:
    """Features of a frozen encoder, computed once; a caption is (row of its picture, its own row)."""

    images: Tensor
    texts: Tensor
    words: Tensor

    def rewards(self, model: nn.Module, groups: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
        """[B] rewards of all captions, in order."""
        rows = torch.tensor([one for group in groups for one in group])
        device = next(model.parameters()).device
        given = self.images[rows[:, 0]], self.texts[rows[:, 1]], self.words[rows[:, 1]]
        return model(*(one.to(device) for one in given))

    def cosines(self, examples: Sequence[RewardExample]) -> list[float]:
        rows = torch.tensor([one for each in examples for one in each.inputs])
        return torch.nn.functional.cosine_similarity(self.images[rows[:, 0]], self.texts[rows[:, 1]]).tolist()


@dataclass
class BlipInputs:
    """What BLIP reads, opened when it is asked for; a caption is (picture, text)."""

    blip: Blip

    def rewards(self, model: nn.Module, groups: Sequence[Sequence[tuple[Any, str]]]) -> Tensor:
        """[B] rewards of all captions, in order; each picture goes through the vision tower once."""
        pictures = [group[0][0].open() for group in groups]
        which = [place for place, group in enumerate(groups) for _ in group]
        captions = [text for group in groups for _, text in group]
        return model(**self.blip.inputs(pictures, which, captions))


def learn_reward(
    records: Sequence[RankedCaptions], encoder: Encoder, options: RewardTrainingOptions, run: Run
) -> Learnt:
    """Train on the records, measure on held-out pictures, save into the run's `model`; what is done is read, not done again.

    Pictures that cannot be opened are left out and told. The figures are in `artefacts/preferences.json`.

    Raises:
        DataError: no record is left in which a caption is better than another.
    """
    from transformers import set_seed

    done = run.artefacts / "training.json"
    if done.exists() and run.model.exists():
        return Learnt(**json.loads(done.read_text(encoding="utf-8")))
    usable, broken = openable(records)
    told = [one for one in usable if one.pairs]
    learning, held_out = split_pictures(told, options.eval_fraction, options.seed)
    if not learning:
        raise DataError(
            f"{len(records)} annotated pictures, of which {len(told)} can be opened and have a caption that is better than another, "
            "expected at least one to learn from.",
            hint="Equal ranks are ties and teach nothing; --eval-fraction holds out a share of the pictures.",
        )
    set_seed(options.seed)
    model, inputs, examples = _prepare([*learning, *held_out], encoder, options)
    training, testing = examples[: len(learning)], examples[len(learning) :]
    result = fit_reward(model, inputs, training, testing, options, run)
    learnt = Learnt(
        result.steps, result.history, len(learning), sum(one.pairs for one in learning), len(held_out),
        len(usable) - len(told), broken, sorted({one for each in learning for one in each.origins if one}),
    )  # fmt: skip
    if is_main_process():
        scores = {
            "reward": rewards_of(model, inputs, testing, options.batch_size).tolist(),
            encoder.plain_name: plain_scores(encoder, inputs, testing, options.batch_size),
        }
        write_json(run.artefacts / "preferences.json", preference_figures(held_out, scores))
        about = {**encoder.about(), "origins": learnt.origins, "options": _constants(options)}
        save_reward(run.model, model, about, getattr(encoder.reads, "processor", None))
        write_json(done, asdict(learnt))
    return learnt


def preference_figures(records: Sequence[RankedCaptions], scores: dict[str, list[float]]) -> dict[str, Any]:
    """How each score orders the held-out captions: all strict pairs, and those of captions of one length.

    Args:
        scores: name to the scores of all captions, in the order of the records.
    """
    pictures, place = [], 0
    scores = {**scores, "length": [float(count_words(one)) for each in records for one in each.captions]}
    for one in records:
        part = slice(place, place + len(one.captions))
        place = part.stop
        words = [count_words(text) for text in one.captions]
        pictures.append(RankedPicture(one.ranks, words, {name: each[part] for name, each in scores.items()}))
    found: dict[str, Any] = {
        "pictures": len(records),
        "pairs": sum(one.pairs for one in records),
        "scores": {},
    }
    if not records:
        return found
    words = [count for one in pictures for count in one.words]
    origins = [origin for one in records for origin in one.origins]
    plain = [name for name in scores if name not in ("reward", "length")]
    for name in scores:
        accuracy = preference_accuracy(pictures, name)
        matched = preference_accuracy(pictures, name, alike=1)
        found["scores"][name] = {
            "accuracy": accuracy and accuracy.to_dict(),
            "accuracy, same length": matched and matched.to_dict(),
            "shortcuts": shortcuts(scores[name], words, origins),
        }
    for name in plain:
        gap = preference_accuracy(pictures, "reward", against=name)
        found[f"reward - {name}"] = gap and gap.to_dict()
    return found


def plain_scores(
    encoder: Encoder, inputs: Any, examples: Sequence[RewardExample], batch_size: int
) -> list[float]:
    """What the encoder alone says of the captions: the cosine, or BLIP's matching head."""
    if isinstance(inputs, FeatureInputs):
        return inputs.cosines(examples) if examples else []
    scorer, found = MatchScorer(inputs.blip), []
    for start in range(0, len(examples), batch_size):
        groups = [one.inputs for one in examples[start : start + batch_size]]
        which = [place for place, group in enumerate(groups) for _ in group]
        captions = [text for group in groups for _, text in group]
        found += scorer.score([group[0][0].open() for group in groups], which, captions)
    return found


def _prepare(
    records: Sequence[RankedCaptions], encoder: Encoder, options: RewardTrainingOptions
) -> tuple[RewardModel, Any, list[RewardExample]]:
    """A new reward on the encoder, what it reads, and the records as examples."""
    from coalign.curation.image_text.reward import EmbeddingReward, FusionReward

    if isinstance(encoder.reads, Blip):
        model = FusionReward(encoder.reads.model, dropout=options.dropout, frozen=options.frozen)
        examples = [make_example(one, [(one.image, text) for text in one.captions]) for one in records]
        return model.to(encoder.device), BlipInputs(encoder.reads), examples
    inputs, examples = caption_features(records, encoder.reads)
    return (
        EmbeddingReward(inputs.images.shape[1], dropout=options.dropout).to(encoder.device),
        inputs,
        examples,
    )


def caption_features(
    records: Sequence[RankedCaptions], towers: Towers
) -> tuple[FeatureInputs, list[RewardExample]]:
    """Features of all pictures and captions, on the CPU, and the records that name them by row."""
    texts = list(dict.fromkeys(text for one in records for text in one.captions))
    rows = {text: row for row, text in enumerate(texts)}
    images, captions = [], []
    with progress(len(records) + len(texts), "Encoding", "picture or text") as bar:
        for start in range(0, len(records), FEATURE_BATCH):
            part = records[start : start + FEATURE_BATCH]
            images.append(towers.images([one.image.open() for one in part]).cpu())
            bar.advance(len(part))
        for start in range(0, len(texts), FEATURE_BATCH):
            captions.append(towers.texts(texts[start : start + FEATURE_BATCH]).cpu())
            bar.advance(len(texts[start : start + FEATURE_BATCH]))
    words = torch.tensor([count_words(text) for text in texts])
    examples = [
        make_example(one, [(place, rows[text]) for text in one.captions]) for place, one in enumerate(records)
    ]
    return FeatureInputs(torch.cat(images), torch.cat(captions), words), examples


def _constants(options: RewardTrainingOptions) -> dict[str, Any]:
    names = ("ties", "average", "frozen", "dropout", "seed")
    return {name: getattr(options, name) for name in names}
