"""Rewards of responses under a published reward model: a sequence classifier with one output."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from coalign.core.errors import ModelError
from coalign.core.progress import progress
from coalign.data.messages import render_transcript
from coalign.data.records import Message, Messages
from coalign.models.devices import pick_device, pick_dtype
from coalign.models.loading import load_tokenizer, locate
from coalign.models.quiet import no_weight_bars

logger = logging.getLogger(__name__)

BATCH_TOKENS = 8192
"""Most tokens of a padded batch."""


@dataclass(frozen=True)
class RewardModel:
    """A reward model with its tokenizer. Make one with `load_reward_model`.

    Attributes:
        model: in evaluation mode, one output a text.
        tokenizer: of the model; its chat template writes prompt and response, without one they are given as a pair.
        max_length: tokens that the model reads; longer texts lose the beginning of their prompt, which is counted in
            the log. None: no limit is known.
    """

    model: nn.Module
    tokenizer: Any
    max_length: int | None

    def score(self, pairs: Sequence[tuple[Messages, str]], *, label: str = "Scoring rewards") -> list[float]:
        """The reward of every response to its prompt, higher is better, in the model's own unit.

        Args:
            pairs: (prompt, response); equal ones are computed once.
        """
        encoded = [self._encode(prompt, response) for prompt, response in pairs]
        distinct = list(dict.fromkeys(encoded))
        rewards: dict[tuple[int, ...], float] = {}
        with progress(len(distinct), label, unit="response") as bar:
            for batch in _batches(sorted(distinct, key=len)):
                rewards.update(zip(batch, self._forward(batch), strict=True))
                bar.advance(len(batch))
        return [rewards[one] for one in encoded]

    def _encode(self, prompt: Messages, response: str) -> tuple[int, ...]:
        if self.tokenizer.chat_template:
            conversation = [*prompt, Message(role="assistant", content=response)]
            text = self.tokenizer.apply_chat_template(conversation, tokenize=False)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            question = prompt[0]["content"] if len(prompt) == 1 else render_transcript(prompt)
            ids = self.tokenizer(question, response)["input_ids"]
        if self.max_length is not None and len(ids) > self.max_length:
            logger.warning(
                "A text of %d tokens is longer than the %d that the reward model reads: the beginning of its "
                "prompt is left out.",
                len(ids),
                self.max_length,
            )
            ids = ids[-self.max_length :]
        return tuple(ids)

    @torch.inference_mode()
    def _forward(self, batch: Sequence[tuple[int, ...]]) -> list[float]:
        device = next(self.model.parameters()).device
        width = max(map(len, batch))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[*one, *[pad] * (width - len(one))] for one in batch], device=device)
        lengths = torch.tensor(list(map(len, batch)), device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        return self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()


def load_reward_model(
    name: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    trust_remote_code: bool = False,
) -> RewardModel:
    """A reward model by folder or hub id: a sequence classifier with one output. Safetensors only.

    Raises:
        ModelError: it cannot be found or read, is not a classifier with one output, or its head is missing.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    place = locate(name, revision)
    arguments: dict[str, Any] = {
        "revision": place.revision,
        "local_files_only": place.cached_only,
        "trust_remote_code": trust_remote_code,
    }
    target = pick_device(device)
    try:
        config = AutoConfig.from_pretrained(place.path, **arguments)
        kinds = config.architectures or []
        if not any("SequenceClassification" in one or "Reward" in one for one in kinds):
            raise ModelError(
                f"{place.name} is a {', '.join(kinds) or 'model of unknown kind'}, not a reward model.",
                hint="A reward model is a sequence classifier with one output.",
            )
        if config.num_labels != 1:
            raise ModelError(f"{place.name} has {config.num_labels} outputs, a reward model has one.")
        with no_weight_bars():
            model, info = cast(Any, AutoModelForSequenceClassification).from_pretrained(
                place.path,
                config=config,
                dtype=pick_dtype(target, dtype, training=False),
                use_safetensors=True,
                output_loading_info=True,
                **arguments,
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{place.name} cannot be loaded as a reward model: {error}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"{place.name}: {len(missing)} weights are missing and would be random, first {missing[0]}."
        )
    tokenizer = load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code)
    # Decoders find the last token of a padded row by this id.
    model.config.pad_token_id = tokenizer.pad_token_id
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return RewardModel(model.to(target).eval(), tokenizer, limit)


def _batches(ordered: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Neighbours in length, `BATCH_TOKENS` after padding or one text."""
    found: list[list[tuple[int, ...]]] = []
    for one in ordered:
        if found and (len(found[-1]) + 1) * len(one) <= BATCH_TOKENS:
            found[-1].append(one)
        else:
            found.append([one])
    return found
