"""A small CTC recogniser that trains in minutes on two cores: log-mel features, a convolution, recurrent layers.

It has the interface of `Wav2Vec2ForCTC` (`input_values`, `attention_mask` in; `logits` out; the layout of its folder),
so whatever works with one works with the other.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCTC, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from coalign.speech.ctc.losses import ctc_losses

WINDOW, HOP = 400, 160
"""Samples of an analysis window and between two (25 and 10 ms at 16 kHz)."""
LOG_FLOOR = 1e-5


class SmallCTCConfig(PretrainedConfig):
    """Size of the recogniser. `stride` feature frames of 10 ms make one frame of the output."""

    model_type = "small-ctc"

    def __init__(
        self,
        vocab_size: int = 32,
        mels: int = 40,
        channels: int = 128,
        hidden_size: int = 128,
        layers: int = 2,
        stride: int = 2,
        bidirectional: bool = True,
        pad_token_id: int | None = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.mels = mels
        self.channels = channels
        self.hidden_size = hidden_size
        self.layers = layers
        self.stride = stride
        self.bidirectional = bidirectional
        self.inputs_to_logits_ratio = HOP * stride
        super().__init__(**{"pad_token_id": pad_token_id, **kwargs})


class SmallCTC(PreTrainedModel):
    """Log-mel features, one convolution over time with a stride, GRU layers, a linear head."""

    config_class = SmallCTCConfig
    base_model_prefix = "small_ctc"
    main_input_name = "input_values"

    def __init__(self, config: SmallCTCConfig) -> None:
        super().__init__(config)
        self.convolution = nn.Conv1d(config.mels, config.channels, kernel_size=5, stride=config.stride)
        directions = 2 if config.bidirectional else 1
        sizes = [config.channels] + [config.hidden_size * directions] * (config.layers - 1)
        # One module a layer and direction, run over padded rows: much faster on a CPU than packed sequences.
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.GRU(size, config.hidden_size, batch_first=True) for _ in range(directions))
            for size in sizes
        )
        self.lm_head = nn.Linear(config.hidden_size * directions, config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own initialisation is kept."""

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> CausalLMOutput:
        """Logits [B, T, V] of audio [B, S] at 16 kHz, padded on the right.

        Args:
            attention_mask: [B, S] 1 for samples, 0 for padding; all samples by default.
            labels: [B, L] token ids, padded with -100; then `loss` is the CTC loss, summed over a sequence, mean over
                the batch.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_values, dtype=torch.long)
        samples = attention_mask.sum(dim=1)
        features = log_mel(input_values, self.config.mels)
        kept = torch.arange(features.shape[1], device=features.device) < _feature_frames(samples)[:, None]
        features = _standardised(features, kept)
        # Two frames before and after, so that output frame t sees the features around stride x t.
        hidden = F.relu(self.convolution(F.pad(features.transpose(1, 2), (2, 2)))).transpose(1, 2)
        lengths = self._get_feat_extract_output_lengths(samples)
        backwards = _reversal(lengths, hidden.shape[1])
        for layer in self.layers:
            directions = list(cast(nn.ModuleList, layer))
            outputs = [directions[0](hidden)[0]]
            if len(directions) == 2:
                outputs.append(_permuted(directions[1](_permuted(hidden, backwards))[0], backwards))
            hidden = torch.cat(outputs, dim=-1)
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            targets = [row[row >= 0].tolist() for row in labels]
            loss = ctc_losses(logits.float(), lengths, targets, self.config.pad_token_id).mean()
        return CausalLMOutput(loss=loss, logits=logits)

    def _get_feat_extract_output_lengths(self, input_lengths: Tensor) -> Tensor:
        """Output frames of so many samples."""
        return torch.div(_feature_frames(input_lengths) - 1, self.config.stride, rounding_mode="floor") + 1


def log_mel(audio: Tensor, mels: int) -> Tensor:
    """[B, F, mels] log energies of [B, S] audio at 16 kHz; audio shorter than a window is padded with zeros."""
    audio = F.pad(audio, (0, max(WINDOW - audio.shape[1], 0)))
    window, bank = _analysis(mels)
    window, bank = window.to(audio), bank.to(audio)
    spectrum = torch.stft(audio, WINDOW, HOP, window=window, center=False, return_complex=True).abs().square()
    return (spectrum.transpose(1, 2) @ bank + LOG_FLOOR).log()


def _reversal(lengths: Tensor, frames: int) -> Tensor:
    """[B, T] places that turn the first `lengths` frames of each row around and leave its padding."""
    t = torch.arange(frames, device=lengths.device)
    return torch.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)


def _permuted(rows: Tensor, places: Tensor) -> Tensor:
    return rows.gather(1, places[:, :, None].expand_as(rows))


@functools.cache
def _analysis(mels: int) -> tuple[Tensor, Tensor]:
    """Hann window [400] and mel filters [201, mels] from 50 Hz to 8 kHz."""
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(WINDOW // 2 + 1, mels, 50.0, 8000.0, 16_000)
    return torch.hann_window(WINDOW), torch.from_numpy(bank).float()


def _feature_frames(samples: Tensor) -> Tensor:
    return torch.div(samples.clamp(min=WINDOW) - WINDOW, HOP, rounding_mode="floor") + 1


def _standardised(features: Tensor, kept: Tensor) -> Tensor:
    """Each row of [B, F, M] with mean 0 and deviation 1 over the kept frames and all bands; padding becomes 0."""
    mask = kept[:, :, None].to(features)
    count = mask.sum(dim=(1, 2), keepdim=True).clamp(min=1) * features.shape[2]
    mean = (features * mask).sum(dim=(1, 2), keepdim=True) / count
    centred = (features - mean) * mask
    deviation = (centred.square().sum(dim=(1, 2), keepdim=True) / count + 1e-5).sqrt()
    return centred / deviation


AutoConfig.register(SmallCTCConfig.model_type, SmallCTCConfig, exist_ok=True)
AutoModelForCTC.register(SmallCTCConfig, SmallCTC, exist_ok=True)
