"""How natural texts are to a language model: the guard against rewards that are satisfied with broken language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coalign.core.progress import progress
from coalign.data.encoding import encode_prompt
from coalign.data.records import Messages
from coalign.measures.texts.text_metrics import perplexity_from_logps
from coalign.models.scoring.engine import DEFAULT_BATCH_TOKENS, score_responses
from coalign.models.types import Responses

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextLogps:
    """Log-probability of texts given their prompts.

    Attributes:
        sums: [B] summed over the text's tokens, the end-of-turn token not counted; 0 for an empty text.
        tokens: [B] how many tokens; 0 for an empty text.
    """

    sums: list[float]
    tokens: list[int]

    @property
    def perplexity(self) -> float:
        """Corpus perplexity: exp of minus the mean log-probability over all tokens."""
        return perplexity_from_logps(self.sums, self.tokens)


def text_logps(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    texts: Sequence[Sequence[str]],
    *,
    label: str = "Scoring",
) -> TextLogps:
    """Score texts under `model`, each after its prompt.

    Args:
        prompts: P conversations.
        texts: for each prompt its texts; a prompt is computed once for all of them.
    """
    encoded = [[tokenizer.encode(text, add_special_tokens=False) for text in group] for group in texts]
    flat = [(index, ids) for index, group in enumerate(encoded) for ids in group]
    scored = [(index, ids) for index, ids in flat if ids]
    sums: list[float] = []
    if scored:
        responses = Responses(
            prompt_ids=[encode_prompt(tokenizer, prompt) for prompt in prompts],
            response_ids=[ids for _, ids in scored],
            prompt_index=[index for index, _ in scored],
        )
        with torch.inference_mode(), progress(len(scored), label, unit="text") as bar:
            logps = score_responses(model, responses, batch_tokens=DEFAULT_BATCH_TOKENS, on_batch=bar.advance)
        sums = logps.sums().tolist()
    values = iter(sums)
    return TextLogps([next(values) if ids else 0.0 for _, ids in flat], [len(ids) for _, ids in flat])
