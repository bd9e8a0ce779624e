"""A CTC model with what belongs to it: vocabulary, sample rate, duration of a frame. Any Hugging Face `*ForCTC`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch

from coalign.core.errors import ModelError
from coalign.core.files import atomic_path, write_json
from coalign.models.devices import pick_device
from coalign.models.files.places import locate
from coalign.models.quiet import no_weight_bars
from coalign.speech.audio.audio import SAMPLE_RATE, Samples
from coalign.speech.ctc.align import greedy
from coalign.speech.ctc.vocabulary import Vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedModel

CHUNK_SECONDS = 30.0
"""Longer audio is computed in chunks of so much."""
CONTEXT_SECONDS = 2.0
"""What a chunk sees of its neighbours on either side; its frames there are thrown away."""

Logps: TypeAlias = "NDArray[np.float32]"


@dataclass
class Recogniser:
    """A CTC model and how to use it.

    Attributes:
        normalise: give the model audio of mean 0 and deviation 1.
        samples_per_frame: audio samples between two frames of the output.
    """

    model: PreTrainedModel
    vocabulary: Vocabulary
    sample_rate: int = SAMPLE_RATE
    normalise: bool = True
    samples_per_frame: int = 320
    extractor: Any = None

    @property
    def frame_seconds(self) -> float:
        return self.samples_per_frame / self.sample_rate

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def batch(self, clips: Sequence[Samples]) -> tuple[dict[str, Tensor], Tensor]:
        """Model inputs of clips (padded on the right, on the model's device), and the output frames of each."""
        prepared = [_unit(clip) if self.normalise else clip for clip in clips]
        if self.extractor is not None:
            found = self.extractor(
                prepared,
                sampling_rate=self.sample_rate,
                padding=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
            inputs = {name: value.to(self.device) for name, value in found.items()}
        else:
            lengths = torch.tensor([len(one) for one in prepared])
            values = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(one) for one in prepared], True)
            mask = torch.arange(values.shape[1]) < lengths[:, None]
            inputs = {
                "input_values": values.to(self.device),
                "attention_mask": mask.long().to(self.device),
            }
        samples = inputs["attention_mask"].sum(1)
        return inputs, cast(Any, self.model)._get_feat_extract_output_lengths(samples).clamp(min=0)

    @property
    def normalises_over_time(self) -> bool:
        """Whether the feature encoder normalises each channel over all of a clip (group norm: Wav2Vec2 base, Hubert
        base, WavLM, ...), so that padding would change a clip's output with the clips beside it.
        """
        return getattr(self.model.config, "feat_extract_norm", None) == "group"

    def logits(self, clips: Sequence[Samples], model: torch.nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Logits [B, T, V] of clips and the frames of each [B]; with gradient where it is enabled.

        A clip's logits do not depend on the clips beside it: where padding would change them, only clips of one length
        are computed together. Frames behind a clip's own are padding.

        Args:
            model: the model as a trainer has wrapped it.
        """
        groups: dict[int, list[int]] = {}
        for place, clip in enumerate(clips):
            groups.setdefault(len(clip) if self.normalises_over_time else 0, []).append(place)
        logits: list[Tensor] = [torch.empty(0)] * len(clips)
        lengths = torch.zeros(len(clips), dtype=torch.long, device=self.device)
        for places in groups.values():
            inputs, frames = self.batch([clips[place] for place in places])
            found = (model or self.model)(**inputs).logits.float()
            lengths[places] = frames.clamp(max=found.shape[1])
            if len(groups) == 1:
                return found, lengths
            for place, one in zip(places, found, strict=True):
                logits[place] = one
        return torch.nn.utils.rnn.pad_sequence(logits, batch_first=True), lengths

    def logps(self, samples: Samples) -> Logps:
        """[T, V] log-probabilities of audio of any length, in chunks, without gradient."""
        was_training = self.model.training
        self.model.eval()
        parts = []
        per_frame = self.samples_per_frame
        chunk = max(round(CHUNK_SECONDS * self.sample_rate / per_frame), 1) * per_frame
        context = round(CONTEXT_SECONDS * self.sample_rate / per_frame) * per_frame
        for start in range(0, max(len(samples), 1), chunk):
            left = min(context, start)
            piece = samples[start - left : start + chunk + context]
            if len(piece) - left < per_frame and parts:
                break
            with torch.no_grad():
                logits, lengths = self.logits([piece])
            frames = logits[0, : int(lengths[0])].log_softmax(-1)
            end = (left + chunk) // per_frame if start + chunk < len(samples) else len(frames)
            parts.append(frames[left // per_frame : end].cpu())
        self.model.train(was_training)
        return torch.cat(parts).numpy()

    def transcribe(self, samples: Samples) -> str:
        """The text of the likeliest alignment."""
        return self.vocabulary.decode(greedy(self.logps(samples), self.vocabulary.blank))

    def save(self, path: Path) -> Path:
        """Write weights, configuration and vocabulary to a folder in Hugging Face layout, atomically."""
        with atomic_path(path) as temporary, no_weight_bars():
            temporary.mkdir()
            self.model.save_pretrained(str(temporary))
            self.vocabulary.save(temporary)
            if self.extractor is not None:
                self.extractor.save_pretrained(str(temporary))
            else:
                settings = {
                    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
                    "sampling_rate": self.sample_rate,
                    "do_normalize": self.normalise,
                    "return_attention_mask": True,
                }
                write_json(temporary / "preprocessor_config.json", settings)
        return path


def load_recogniser(name: str, *, revision: str | None = None, device: str = "auto") -> Recogniser:
    """A recogniser from a folder, a run folder or the hub: any `*ForCTC` of Transformers, the small one, or
    `default-recogniser`, which comes with the package.

    Raises:
        ModelError: absent, not a CTC model, no vocabulary, or weights that are not safetensors.
    """
    from transformers import AutoConfig, AutoModelForCTC

    from coalign.speech.ctc import small_ctc as small_ctc  # registers the small recogniser

    place = locate(name, revision)
    options: dict[str, Any] = {"revision": place.revision, "local_files_only": place.cached_only}
    try:
        config = AutoConfig.from_pretrained(place.path, **options)
        with no_weight_bars():
            model = AutoModelForCTC.from_pretrained(place.path, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{name}: not a CTC recogniser that can be loaded ({str(error).splitlines()[0]}).",
            hint="A folder or hub id of a Wav2Vec2ForCTC, HubertForCTC, ... or of a recogniser trained with coalign; "
            "default-recogniser comes with the package (English of synthesisers).",
        ) from error
    vocabulary = _vocabulary(place.path, options, config)
    if config.vocab_size < len(vocabulary):
        raise ModelError(
            f"{name}: the vocabulary has {len(vocabulary)} tokens, the model writes {config.vocab_size}."
        )
    model = cast(Any, model).float().to(pick_device(device)).eval()  # sums over alignments need float32
    settings = _settings(place.path, options)
    extractor = None
    if settings.get("feature_extractor_type") not in (None, "Wav2Vec2FeatureExtractor"):
        from transformers import AutoFeatureExtractor

        extractor = AutoFeatureExtractor.from_pretrained(place.path, **options)
    rate = int(settings.get("sampling_rate", SAMPLE_RATE))
    return Recogniser(
        model,
        vocabulary,
        rate,
        extractor is None and bool(settings.get("do_normalize", True)),
        samples_per_frame(model, rate),
        extractor,
    )


def samples_per_frame(model: PreTrainedModel, rate: int) -> int:
    """Audio samples between two output frames: what the configuration says, else counted on long audio."""
    stated = getattr(model.config, "inputs_to_logits_ratio", None)
    if stated:
        return int(stated)
    lengths: Callable[[Tensor], Tensor] = cast(Any, model)._get_feat_extract_output_lengths
    short, long = (int(lengths(torch.tensor([seconds * rate]))) for seconds in (10, 110))
    return round(100 * rate / (long - short))


def _vocabulary(path: str, options: dict[str, Any], config: Any) -> Vocabulary:
    file = _file(path, "vocab.json", options)
    if file is not None:
        _file(path, "tokenizer_config.json", options)  # of a hub repository: fetched beside it
        return Vocabulary.load(file.parent, config.pad_token_id)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: no vocabulary was found: neither vocab.json nor a tokenizer.") from error
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    blank = config.pad_token_id if config.pad_token_id is not None else len(tokens) - 1
    return Vocabulary(tokens, blank, tokenizer=tokenizer)


def _settings(path: str, options: dict[str, Any]) -> dict[str, Any]:
    file = _file(path, "preprocessor_config.json", options)
    return json.loads(file.read_text(encoding="utf-8")) if file else {}


def _file(path: str, name: str, options: dict[str, Any]) -> Path | None:
    """A file of a model folder or hub repository; None where there is none."""
    if Path(path).is_dir():
        return Path(path) / name if (Path(path) / name).is_file() else None
    from transformers.utils import cached_file

    found = cached_file(path, name, _raise_exceptions_for_missing_entries=False, **options)
    return Path(found) if found else None


def _unit(samples: Samples) -> Samples:
    """Mean 0 and deviation 1, as Wav2Vec2's feature extractor does."""
    return ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)
