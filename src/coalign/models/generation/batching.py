"""Which prompts are decoded together, the same on every run, whatever is done already; and what every batch needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from coalign.core.errors import DataError, PromptError
from coalign.data.frame import EncodingError
from coalign.data.media.conversations import pictures_of
from coalign.data.media.errors import MediaError
from coalign.data.messages import FieldError
from coalign.data.records import Messages
from coalign.models.batching import length_batches
from coalign.models.modules import unwrap
from coalign.models.types import Sampling, is_prefilled

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from coalign.data.media.prompts import PicturePrompt
    from coalign.models.generation.incremental import Rows
    from coalign.models.grammars.matching import Matcher
    from coalign.models.grammars.schemas import Grammar

CACHE_BYTES = 2**30
"""Keys and values of one batch on a CPU."""
CACHE_SHARE = 0.35
"""Of a GPU's memory, less the weights, for keys and values."""


class Decodes(Protocol):
    """A model with its tokenizer and the limits of a batch; see `TransformersGenerator`."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    batch_tokens: int
    batch_size: int
    stop_ids: list[int]

    def open_rows(self) -> Rows:
        """New rows of the model."""
        ...

    def remember(self, prompt: list[int], answer: list[int]) -> None:
        """Take note of an answer, as tokens."""
        ...

    def matcher(self, grammar: Grammar) -> Matcher:
        """What follows a grammar through one text."""
        ...


def plan_batches(
    lengths: Sequence[int],
    sampling: Sampling,
    batch_tokens: int,
    batch_size: int,
    shown: Sequence[bool] | None = None,
) -> list[list[int]]:
    """Prompts of each batch, longest first; a prompt's samples stay together.

    Args:
        lengths: tokens of each prompt.
        batch_tokens: rows x (longest prompt + new tokens) stay below it, one prompt at least.
        batch_size: most rows, one prompt at least.
        shown: which prompts have pictures, and are decoded apart from the others; by default none.
    """
    found = []
    for kind in (False, True):
        places = [place for place, one in enumerate(shown or [False] * len(lengths)) if one is kind]
        batches = length_batches(
            [lengths[place] for place in places],
            lambda longest: most_rows(longest, sampling, batch_tokens, batch_size) // sampling.rows,
        )
        found += [[places[one] for one in batch] for batch in batches]
    return found


def most_rows(length: int, sampling: Sampling, batch_tokens: int, batch_size: int) -> int:
    """Rows of prompts of up to `length` tokens that may be decoded together; at least one."""
    return max(1, min(batch_size, batch_tokens // (length + sampling.max_new_tokens)))


def default_batch_tokens(model: nn.Module, device: torch.device) -> int:
    """Tokens whose keys and values fit. From total, not free memory: batches must be the same on every run."""
    config: Any = unwrap(model).config.get_text_config(decoder=True)  # type: ignore[union-attr]
    heads = getattr(config, "num_attention_heads", None) or 1
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    parameters = list(model.parameters())
    token_bytes = 2 * config.num_hidden_layers * kv_heads * head_size * parameters[0].element_size()
    budget = CACHE_BYTES
    if device.type == "cuda":
        weights = sum(one.numel() * one.element_size() for one in parameters)
        total = torch.cuda.get_device_properties(device).total_memory
        budget = max(int(CACHE_SHARE * (total - weights)), CACHE_BYTES // 4)
    return max(budget // token_bytes, 1)


def encode_any(tokenizer: PreTrainedTokenizerBase, prompt: Messages | str, index: int) -> list[int]:
    """The tokens of messages, of messages that end in a begun turn, or of plain text.

    Args:
        index: number of the prompt, for messages.

    Raises:
        PromptError: the template refuses it, or it shows pictures.
    """
    from coalign.data.encoding import encode_continued, encode_prompt

    with of_prompt(index, prompt):
        if isinstance(prompt, str):
            return encode_prompt(tokenizer, [{"role": "user", "content": prompt}], plain=True)
        return (encode_continued if is_prefilled(prompt) else encode_prompt)(tokenizer, prompt)


def encode_once(tokenizer: PreTrainedTokenizerBase, prompt: Messages | str, index: int) -> list[int]:
    """`encode_any` without a second start token: plain text may have brought its own.

    Raises:
        PromptError: as `encode_any`.
    """
    ids = encode_any(tokenizer, prompt, index)
    bos = tokenizer.bos_token_id
    return ids[1:] if isinstance(prompt, str) and bos is not None and ids[:2] == [bos, bos] else ids


def assert_room(context: int | None, encoded: Sequence[Sequence[int]], sampling: Sampling) -> None:
    """Refuse prompts that leave no room for the response.

    Args:
        context: most tokens of prompt and response together; None where nobody says.

    Raises:
        PromptError: it names the first of them and counts the others.
    """
    if not context:
        return
    room = context - sampling.max_new_tokens
    long = [index for index, ids in enumerate(encoded) if len(ids) > room]
    if long:
        more = f" ({len(long)} prompts are too long)" if len(long) > 1 else ""
        raise PromptError(
            long[0],
            "prompt",
            f"{len(encoded[long[0]])} tokens{more}",
            f"at most {max(room, 0)}: the model's context of {context} less max_new_tokens {sampling.max_new_tokens}",
            hint="Shorten the prompt or lower max_new_tokens.",
        )


def encode_seen(
    tokenizer: PreTrainedTokenizerBase, prompt: Messages | str, index: int
) -> tuple[list[int], PicturePrompt | None]:
    """`encode_any` for whoever passes pictures on: also the pictures of messages that hold some, else None.

    Raises:
        PromptError: also a picture that cannot be decoded, or pictures for a model of text alone.
    """
    from coalign.data.encoding import encode_shown

    if isinstance(prompt, str) or not pictures_of(prompt):
        return encode_any(tokenizer, prompt, index), None
    with of_prompt(index, prompt):
        return encode_shown(tokenizer, prompt)


@contextlib.contextmanager
def of_prompt(index: int, prompt: Messages | str) -> Iterator[None]:
    """Errors of data, and of pictures and templates, as errors of the prompt with this number."""
    try:
        yield
    except MediaError as error:
        raise PromptError(
            index, "images", f"{error.file}: {error.problem}", error.expected, prompt=prompt
        ) from error
    except FieldError as error:
        raise PromptError(
            index, error.field or "prompt", error.problem, error.expected, prompt=prompt
        ) from error
    except DataError as error:
        cause = error.__cause__
        if isinstance(cause, EncodingError):
            raise PromptError(
                index, cause.field, cause.problem, cause.expected, hint=error.hint, prompt=prompt
            ) from error
        raise DataError(f"prompt {index}: {error.message}", hint=error.hint) from error


def left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """[P, T] token ids and mask. Padding is masked, so its id (0) does not matter."""
    width = max(map(len, prompts))
    ids = torch.tensor([[*[0] * (width - len(one)), *one] for one in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=device)
    return ids, mask
