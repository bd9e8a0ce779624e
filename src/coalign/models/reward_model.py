"""Reward models and other sequence classifiers: one number for a prompt and a response."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from coalign.core.errors import ConfigError, DataError, ModelError
from coalign.core.progress import progress
from coalign.data.media.conversations import pictures_of, without_pictures
from coalign.data.records import Demonstration, Messages, Record
from coalign.models.batching import length_batches
from coalign.models.devices import DtypeName, pick_device, pick_dtype
from coalign.models.files.classifiers import choose_pad_token, load_classifier
from coalign.models.files.loading import load_tokenizer
from coalign.models.files.places import locate
from coalign.models.generation.batching import default_batch_tokens
from coalign.models.modules import unwrap
from coalign.models.options import ModelOptions
from coalign.models.reward_inputs import (
    Format,
    RewardInputs,
    RewardText,
    grouped,
    read_settings,
    too_long_to_show,
)
from coalign.models.reward_mixture import MANIFEST, load_reward_mixture
from coalign.models.scoring.sequence_states import reads_last_token
from coalign.models.types import Prompts

logger = logging.getLogger(__name__)

BATCH_SIZE = 64


@dataclass(frozen=True)
class RewardModel:
    """A sequence classifier and how it reads texts. Make one with `load_reward_model`."""

    model: nn.Module
    inputs: RewardInputs

    def score(
        self,
        prompts: Prompts,
        responses: Sequence[str],
        *,
        batch_size: int = BATCH_SIZE,
        show: str | None = None,
    ) -> list[float]:
        """Rewards of responses to prompts, one each. Responses to one prompt share its computation.

        Args:
            prompts: [B] conversations, whose messages may hold pictures, or plain text (one user turn).
            responses: [B] texts; the response may be unfinished. Equal inputs are computed once.
            batch_size: most texts in a forward pass, but for those that share a prompt.
            show: text of a progress bar.

        Raises:
            DataError: the chat template refuses a conversation.
            ModelError: a reward that is not a number.
        """
        if shown := [place for place, one in enumerate(prompts) if pictures_of(one)]:
            return self._score_shown(prompts, responses, shown, batch_size=batch_size, show=show)
        texts = [self.inputs.text(one, text) for one, text in zip(prompts, responses, strict=True)]
        return self.score_texts(prompts, texts, batch_size=batch_size, show=show)

    def _score_shown(
        self, prompts: Prompts, responses: Sequence[str], shown: Sequence[int], **how: Any
    ) -> list[float]:
        """As `score`; the prompts at `shown` hold pictures, and their responses are whole."""
        records = [
            Demonstration(
                prompt=without_pictures(cast(Messages, prompts[place])),
                pictures=pictures_of(prompts[place]),
                completion=responses[place],
            )
            for place in shown
        ]
        found = dict(zip(shown, [one for (one,) in self.score_records(records)], strict=True))
        rest = [place for place in range(len(prompts)) if place not in found]
        others = self.score([prompts[one] for one in rest], [responses[one] for one in rest], **how)
        found |= dict(zip(rest, others, strict=True))
        return [found[place] for place in range(len(prompts))]

    def score_records(self, records: Sequence[Record], *, show: str | None = None) -> list[list[float]]:
        """For each record the rewards of its responses; with everything that a chat template is given, and its pictures.

        Raises:
            DataError: a record with pictures that has more tokens than the model reads: it is not shortened.
        """
        groups = self.inputs.texts(records)
        problems = [
            record.problem(
                "images", f"more than {self.inputs.max_length} tokens with its pictures", "a shorter record"
            )
            for record, group in zip(records, groups, strict=True)
            if too_long_to_show(group)
        ]
        if problems:
            raise DataError(f"{len(problems)} of {len(records)} records cannot be scored.", problems)
        return self.score_groups(records, groups, show=show)

    def score_groups(
        self, records: Sequence[Record], groups: Sequence[Sequence[RewardText]], *, show: str | None = None
    ) -> list[list[float]]:
        """`score_records` of records whose responses are inputs already (`inputs.texts`)."""
        prompts = [record.prompt for record, group in zip(records, groups, strict=True) for _ in group]
        rewards = iter(self.score_texts(prompts, [one for group in groups for one in group], show=show))
        return [[next(rewards) for _ in group] for group in groups]

    def score_texts(
        self,
        prompts: Prompts,
        texts: Sequence[RewardText],
        *,
        batch_size: int = BATCH_SIZE,
        show: str | None = None,
    ) -> list[float]:
        """The rewards of inputs that are encoded already; `prompts` say which begin alike."""
        cut = sum(one.cut for one in texts)
        if cut:
            logger.warning(
                "%d of %d inputs have more than %d tokens: their beginning is cut off for the reward model.",
                cut,
                len(texts),
                self.inputs.max_length,
            )
        from coalign.models.scoring.products import inference

        groups = grouped(prompts, texts)
        device = next(self.model.parameters()).device
        tokens = default_batch_tokens(self.model, device)
        known: dict[RewardText, float] = {}
        total = sum(map(len, groups))
        bar = progress(total, show, "text") if show else contextlib.nullcontext()
        with inference(), bar as counted:
            lengths = [max(len(texts[place].ids) for place in group) for group in groups]
            sizes = max(map(len, groups), default=1)
            for rows in length_batches(
                lengths, lambda longest: min(batch_size, tokens // max(longest, 1)) // sizes
            ):
                batch = [[texts[place] for place in groups[row]] for row in rows]
                rewards = self.inputs.rewards(self.model, batch).tolist()
                known.update(zip((one for group in batch for one in group), rewards, strict=True))
                if counted:
                    counted.advance(len(rewards))
        found = [known[one] for one in texts]
        bad = sum(not math.isfinite(one) for one in found)
        if bad:
            raise ModelError(
                f"The reward model gave {bad} of {len(found)} rewards that are not numbers (NaN or infinite)."
            )
        return found


def load_reward_model(
    name: str,
    *,
    label: str | None = None,
    format: Format | None = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: DtypeName = "auto",
    max_length: int | None = None,
    trust_remote_code: bool = False,
) -> RewardModel:
    """A sequence-classification model by folder, run folder or hub id. Safetensors only.

    Args:
        label: name or number of the output that is the reward; needed where there are several.
        format: by default the chat template where the tokenizer has one, else two segments for an encoder, else a
            transcript.
        revision: on the hub.
        max_length: by default what the model's positions allow.
        trust_remote_code: run Python code that the model's repository brings.

    Raises:
        ModelError: it cannot be found or read, or has no trained classification head.
        ConfigError: the label is missing or unknown, or the format does not fit.
    """
    place = locate(name, revision)
    if (Path(place.path) / MANIFEST).is_file():
        if label is not None or format is not None:
            raise ConfigError(f"{place.name} is a mixture of reward models: label and format have no effect.")
        return cast(RewardModel, load_reward_mixture(Path(place.path), pick_device(device)))
    tokenizer: Any = load_tokenizer(
        ModelOptions(model=name, revision=revision, trust_remote_code=trust_remote_code)
    )
    target = pick_device(device)
    model = load_classifier(
        place,
        what="reward model",
        dtype=pick_dtype(target, dtype),
        trust_remote_code=trust_remote_code,
    )
    stored = read_settings(place)
    inputs = RewardInputs(
        tokenizer,
        pick_format(place.name, model, tokenizer, format or stored.get("format")),
        max_length or stored.get("max_length") or longest_text(model, tokenizer),
        _label(place.name, model.config, label),
    )
    if stored:
        choose_pad_token(model, tokenizer)
    return RewardModel(model.to(target).eval(), inputs)


def _label(name: str, config: Any, label: str | None) -> int | None:
    names = {str(text).lower(): int(number) for number, text in config.id2label.items()}
    listed = ", ".join(f"{number} ({text})" for number, text in config.id2label.items())
    if label is None:
        if config.num_labels == 1:
            return None
        raise ConfigError(
            f"{name} has {config.num_labels} outputs: {listed}.", hint="Say which is the reward: label=NAME."
        )
    number = names.get(label.lower(), int(label) if label.isdigit() else -1)
    if config.num_labels == 1 or not 0 <= number < config.num_labels:
        raise ConfigError(f"{name} has no output {label!r}, expected one of: {listed}")
    return number


def pick_format(name: str, model: nn.Module, tokenizer: Any, wanted: Format | None) -> Format:
    """The format that is wanted, or by default the chat template where the tokenizer has one, else two segments for an
    encoder, else a transcript.

    Raises:
        ConfigError: the format does not fit the model.
    """
    encoder = not reads_last_token(model)
    if wanted is None:
        return "chat" if tokenizer.chat_template else "pair" if encoder else "transcript"
    if wanted == "chat" and not tokenizer.chat_template:
        raise ConfigError(f"{name}: format=chat needs a chat template, and its tokenizer has none.")
    if wanted == "pair" and not encoder:
        raise ConfigError(f"{name}: format=pair is for encoders, and this is a {type(model).__name__}.")
    return wanted


def longest_text(model: nn.Module, tokenizer: Any) -> int:
    """Tokens that model and tokenizer allow."""
    text = unwrap(model).config.get_text_config(decoder=True)  # type: ignore[operator, union-attr]
    positions = getattr(text, "max_position_embeddings", None) or 1_000_000
    return min(int(positions), int(tokenizer.model_max_length))
