"""A sequence classifier over any image-text-to-text model, which Transformers has none of: its trunk, and a head `score`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

if TYPE_CHECKING:
    from torch import Tensor


class ImageTextForSequenceClassification(PreTrainedModel):
    """The outputs of `score` at the last token of each text.

    The trunk is what `AutoModel` makes of the configuration (`LlavaModel`, `Idefics3Model`, ...); it is saved and read back
    as any model of Transformers is, by this class.
    """

    config_class = PretrainedConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: Any, trunk: nn.Module | None = None) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model: Any = AutoModel.from_config(config) if trunk is None else trunk
        self.score = nn.Linear(config.get_text_config().hidden_size, config.num_labels, bias=False)
        self.post_init()

    @classmethod
    def over(cls, language_model: Any, outputs: int) -> ImageTextForSequenceClassification:
        """A classifier with a new head that has taken over the trunk of an image-text-to-text model."""
        config = copy.deepcopy(language_model.config)
        config.num_labels = outputs
        trunk = language_model.model
        made = cls(config, trunk)
        with torch.no_grad():
            made.score.weight.normal_(std=getattr(config.get_text_config(), "initializer_range", 0.02))
        return made.to(next(trunk.parameters()))  # type: ignore[arg-type]

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **inputs: Any
    ) -> SequenceClassifierOutput:
        """[B, L] logits.

        Args:
            input_ids, attention_mask: [B, T]; padding on either side.
            inputs: of the trunk (`pixel_values`, ...); None is left out.
        """
        given = {name: value for name, value in inputs.items() if value is not None}
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, **given).last_hidden_state
        logits = self.score(states)
        if attention_mask is None or attention_mask.dim() != 2:
            return SequenceClassifierOutput(logits=logits[:, -1])
        last = attention_mask.long().cumsum(1).argmax(1)
        return SequenceClassifierOutput(logits=logits[torch.arange(len(last), device=last.device), last])
