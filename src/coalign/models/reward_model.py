"""Reward models and other sequence classifiers: one number for a prompt and a response."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from coalign.core.errors import ConfigError, ModelError
from coalign.core.progress import progress
from coalign.data.encoding import encode_prompt, encode_response
from coalign.data.messages import render_transcript
from coalign.data.records import Messages
from coalign.models.batching import length_batches
from coalign.models.devices import DtypeName, pick_device, pick_dtype
from coalign.models.files.loading import load_pretrained, load_tokenizer
from coalign.models.files.places import locate
from coalign.models.generation.batching import default_batch_tokens
from coalign.models.options import ModelOptions
from coalign.models.types import Prompts

logger = logging.getLogger(__name__)

Format = Literal["chat", "pair", "transcript"]
"""How prompt and response become one input: through the tokenizer's chat template; as the two segments of an encoder;
or as `\\n\\nHuman: ...\\n\\nAssistant: ...`."""
BATCH_SIZE = 64


@dataclass(frozen=True)
class RewardModel:
    """A sequence classifier with its tokenizer. Make one with `load_reward_model`.

    Attributes:
        label: which output is the reward; None for models with one output. With a label the reward is the label's
            log-probability.
        format: see `Format`.
        max_length: tokens of an input; of longer ones the beginning is cut off, counted and said once a call.
    """

    model: nn.Module
    tokenizer: Any
    format: Format
    max_length: int
    label: int | None = None

    def score(
        self,
        prompts: Prompts,
        responses: Sequence[str],
        *,
        batch_size: int = BATCH_SIZE,
        show: str | None = None,
    ) -> list[float]:
        """Rewards of responses to prompts, one each; inputs of similar length share a batch.

        Args:
            prompts: [B] conversations, or plain text (one user turn).
            responses: [B] texts; the response may be unfinished. Equal inputs are computed once.
            show: text of a progress bar.

        Raises:
            DataError: the chat template refuses a conversation.
            ModelError: a reward that is not a number.
        """
        encoded = [self._encode(one, text) for one, text in zip(prompts, responses, strict=True)]
        cut = sum(len(ids) > self.max_length for ids, _ in encoded)
        if cut:
            logger.warning(
                "%d of %d inputs have more than %d tokens: their beginning is cut off for the reward model.",
                cut,
                len(encoded),
                self.max_length,
            )
        wanted = [
            (tuple(ids[-self.max_length :]), tuple(types[-self.max_length :])) for ids, types in encoded
        ]
        inputs = list(dict.fromkeys(wanted))
        device = next(self.model.parameters()).device
        tokens = default_batch_tokens(self.model, device)
        rewards = torch.zeros(len(inputs))
        bar = progress(len(inputs), show, "text") if show else contextlib.nullcontext()
        with torch.inference_mode(), bar as counted:
            lengths = [len(ids) for ids, _ in inputs]
            for rows in length_batches(lengths, lambda longest: min(batch_size, tokens // max(longest, 1))):
                rewards[rows] = self._forward([inputs[row] for row in rows]).cpu()
                if counted:
                    counted.advance(len(rows))
        if not bool(torch.isfinite(rewards).all()):
            raise ModelError("The reward model gave rewards that are not numbers (NaN or infinite).")
        by_input = dict(zip(inputs, rewards.tolist(), strict=True))
        return [by_input[one] for one in wanted]

    def _encode(self, prompt: Messages | str, response: str) -> tuple[list[int], list[int]]:
        """Token ids and segment ids."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        messages = cast(Messages, messages)
        if self.format == "pair":
            text = messages[0]["content"] if len(messages) == 1 else render_transcript(messages).strip()
            made = self.tokenizer(text, response, verbose=False)
            ids = made["input_ids"]
            return ids, made.get("token_type_ids", [0] * len(ids))
        if self.format == "chat":
            ids = encode_prompt(self.tokenizer, messages) + encode_response(
                self.tokenizer, messages, response
            )
        else:
            ids = self.tokenizer(f"{render_transcript(messages)} {response}", verbose=False)["input_ids"]
        return ids, [0] * len(ids)

    def _forward(self, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Tensor:
        """[B] rewards."""
        device = next(self.model.parameters()).device
        width = max(len(ids) for ids, _ in rows)
        padding = self._padding([ids for ids, _ in rows])
        inputs = {
            "input_ids": torch.tensor([[*ids, *[padding] * (width - len(ids))] for ids, _ in rows]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]),
        }
        if self.format == "pair" and "token_type_ids" in self.tokenizer.model_input_names:
            inputs["token_type_ids"] = torch.tensor(
                [[*types, *[0] * (width - len(types))] for _, types in rows]
            )
        with _pad_token(self.model, padding):
            logits = self.model(**{name: one.to(device) for name, one in inputs.items()}).logits.float()
        return logits[:, 0] if self.label is None else logits.log_softmax(-1)[:, self.label]

    def _padding(self, rows: Sequence[Sequence[int]]) -> int:
        """The id to pad with. Models that read the reward at the last token find it as the last one that is not
        padding, so it must be none that occurs: end-of-text tokens often are both. Encoders count positions by it.
        """
        if not _reads_last_token(self.model):
            return self.tokenizer.pad_token_id
        used = {one for ids in rows for one in ids}
        return next(one for one in range(len(used) + 1) if one not in used)


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
    from transformers import AutoModelForSequenceClassification

    place = locate(name, revision)
    tokenizer: Any = load_tokenizer(
        ModelOptions(model=name, revision=revision, trust_remote_code=trust_remote_code)
    )
    target = pick_device(device)
    model = load_pretrained(
        AutoModelForSequenceClassification,
        name,
        what="reward model",
        revision=revision,
        needs="A reward model is a sequence classifier, such as TRL's RewardTrainer writes.",
        dtype=pick_dtype(target, dtype),
        trust_remote_code=trust_remote_code,
    )
    return RewardModel(
        model.to(target).eval(),
        tokenizer,
        _format(place.name, model, tokenizer, format),
        max_length or _longest(model.config, tokenizer),
        _label(place.name, model.config, label),
    )


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


def _format(name: str, model: nn.Module, tokenizer: Any, wanted: Format | None) -> Format:
    encoder = not _reads_last_token(model)
    if wanted is None:
        return "chat" if tokenizer.chat_template else "pair" if encoder else "transcript"
    if wanted == "chat" and not tokenizer.chat_template:
        raise ConfigError(f"{name}: format=chat needs a chat template, and its tokenizer has none.")
    if wanted == "pair" and not encoder:
        raise ConfigError(f"{name}: format=pair is for encoders, and this is a {type(model).__name__}.")
    return wanted


def _reads_last_token(model: nn.Module) -> bool:
    """Whether the classifier reads the last token: Transformers calls the head of such models `score`."""
    return hasattr(model, "score")


def _longest(config: Any, tokenizer: Any) -> int:
    text = config.get_text_config(decoder=True)
    positions = getattr(text, "max_position_embeddings", None) or 1_000_000
    return min(int(positions), int(tokenizer.model_max_length))


@contextlib.contextmanager
def _pad_token(model: nn.Module, token: int) -> Iterator[None]:
    whole: Any = model.config
    holders = list({id(one): one for one in (whole, whole.get_text_config(decoder=True))}.values())
    before = [one.pad_token_id for one in holders]
    for one in holders:
        one.pad_token_id = token
    try:
        yield
    finally:
        for one, old in zip(holders, before, strict=True):
            one.pad_token_id = old
