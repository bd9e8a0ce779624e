"""How likely a model finds each of the answers that a question offers, and each of some sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.progress import progress
from coalign.data.encoding import encode_records
from coalign.data.multiple_choice import as_text
from coalign.models.scoring.engine import DEFAULT_BATCH_TOKENS, score_responses
from coalign.models.types import Responses

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from coalign.data.records import Ranking


def choice_logps(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Ranking], *, label: str
) -> list[list[float]]:
    """[questions][K] log-probability of each choice, summed over its tokens.

    A model with a chat template is asked in a turn, another in plain text (`coalign.data.multiple_choice.as_text`).

    Args:
        label: of the progress bar.
    """
    asked = questions if tokenizer.chat_template else [as_text(one) for one in questions]
    encoded = encode_records(asked, tokenizer).records
    return _sums(model, [(one.prompt_ids, one.response_ids) for one in encoded], label, "choice")


def sentence_logps(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, groups: Sequence[Sequence[str]], *, label: str
) -> list[list[float]]:
    """[groups][K] log-probability of whole sentences, after the token that begins a text (else the one that ends it)."""
    begin: Any = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    rows: list[Any] = [
        ([begin], [tokenizer(text, add_special_tokens=False)["input_ids"] for text in group])
        for group in groups
    ]
    return _sums(model, rows, label, "sentence")


def _sums(
    model: nn.Module, rows: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], label: str, unit: str
) -> list[list[float]]:
    responses = Responses(
        [list(prompt) for prompt, _ in rows],
        [list(ids) for _, several in rows for ids in several],
        [index for index, (_, several) in enumerate(rows) for _ in several],
    )
    with torch.inference_mode(), progress(len(responses.response_ids), label, unit=unit) as bar:
        sums = score_responses(
            model, responses, batch_tokens=DEFAULT_BATCH_TOKENS, on_batch=bar.advance
        ).sums()
    return [part.tolist() for part in torch.split(sums, [len(several) for _, several in rows])]
