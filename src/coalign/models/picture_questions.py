"""Questions about pictures, answered by any image-text-to-text model of Transformers or behind an endpoint."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack, cast

import torch

from coalign.core.errors import ModelError
from coalign.core.progress import progress
from coalign.data.media.pictures import Picture
from coalign.models.backends.options import BackendOptions
from coalign.models.devices import pick_device, pick_dtype
from coalign.models.files.failures import explained, first_line
from coalign.models.files.places import locate
from coalign.models.quiet import no_weight_bars
from coalign.models.types import Generating, Generation, Samples, Sampling, generating

if TYPE_CHECKING:
    from PIL.Image import Image

    from coalign.models.backends.endpoint import EndpointGenerator

Question = tuple[Picture, str]
SENT_SIDE = 1024
"""Pixels of the longer side of a picture that is sent to an endpoint, at most."""


class PictureAnswerer(Protocol):
    """Answers questions about pictures."""

    def answer(self, questions: Sequence[Question], sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        """Samples for every question, as `coalign.models.types.Generator.generate` gives them for prompts."""
        ...


def open_picture_answerer(
    name: str | None, *, revision: str | None = None, device: str = "auto", endpoint: str | None = None
) -> PictureAnswerer:
    """A model that answers questions about pictures.

    Args:
        name: folder or hub id; with an endpoint its name there, None for the only one that it lists.
        endpoint: base address of an OpenAI-compatible server whose model takes pictures.

    Raises:
        ModelError, EndpointError, ConfigError: it cannot be loaded or reached.
    """
    if endpoint is not None:
        from coalign.models.backends.endpoint import EndpointGenerator

        return EndpointAnswerer(EndpointGenerator(BackendOptions(endpoint=endpoint, endpoint_model=name)))
    assert name is not None
    return LocalAnswerer(name, revision=revision, device=device)


class LocalAnswerer:
    """An image-text-to-text model of Transformers with its processor and chat template (LLaVA, Idefics, Qwen-VL, ...); a
    processor without a template gets the question as it is (BLIP-2).

    One picture at a time, each under a random stream of its own.
    """

    def __init__(self, name: str, *, revision: str | None = None, device: str = "auto") -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        place = locate(name, revision)
        hub: dict[str, Any] = {"revision": place.revision, "local_files_only": place.cached_only}
        self.device = pick_device(device)
        try:
            self.processor: Any = AutoProcessor.from_pretrained(place.path, **hub)
            with no_weight_bars():
                model = AutoModelForImageTextToText.from_pretrained(
                    place.path, use_safetensors=True, dtype=pick_dtype(self.device), **place.of_weights
                )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise explained(error, place, "image-text-to-text model") from error
        if not hasattr(self.processor, "tokenizer"):
            raise ModelError(
                f"{name}: its processor takes no text, expected that of an image-text-to-text model."
            )
        self.name = name
        self.model: Any = cast(Any, model).to(self.device).eval()

    def answer(self, questions: Sequence[Question], sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        done, on_batch, label = generating(**how)
        results: Samples = [[] for _ in questions]
        todo = [index for index in range(len(questions)) if index not in done]
        with progress(len(todo), label, "picture") as bar:
            for index in todo:
                picture, question = questions[index]
                results[index] = self._answer(picture.open(), question, sampling, index)
                on_batch({index: results[index]})
                bar.advance()
        return results

    def _answer(self, picture: Image, question: str, sampling: Sampling, index: int) -> list[Generation]:
        text = question
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        try:
            inputs = self.processor(images=[picture], text=[text], return_tensors="pt").to(
                self.device, self.model.dtype
            )
        except (ValueError, TypeError, RuntimeError) as error:
            raise ModelError(
                f"{self.name}: its processor cannot take picture and question ({first_line(error)})."
            ) from error
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        how = {"do_sample": True, **drawn} if sampling.temperature > 0 else {"do_sample": False}
        with (
            torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []),
            torch.inference_mode(),
        ):
            torch.manual_seed(sampling.seed * 1_000_003 + index)
            found = self.model.generate(
                **inputs,
                max_new_tokens=sampling.max_new_tokens,
                num_return_sequences=sampling.rows,
                pad_token_id=self.processor.tokenizer.pad_token_id or self.processor.tokenizer.eos_token_id,
                **how,
            )
        # An encoder-decoder and BLIP-2 give the answer alone, the others question and answer.
        asked = inputs["input_ids"].shape[1]
        begun = found.shape[1] > asked and bool((found[:, :asked] == inputs["input_ids"]).all())
        rows = found[:, asked:] if begun else found
        ends = self.processor.tokenizer.eos_token_id
        samples = [
            Generation(
                self.processor.tokenizer.decode(row, skip_special_tokens=True).strip(),
                row.tolist(),
                "stop" if ends in row.tolist() else "length",
            )
            for row in rows
        ]
        return samples * (sampling.n // sampling.rows)


class EndpointAnswerer:
    """A model behind an OpenAI-compatible server; pictures are sent as data URLs, and answers kept as all are."""

    def __init__(self, generator: EndpointGenerator) -> None:
        self.generator = generator

    def answer(self, questions: Sequence[Question], sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        prompts: Any = [
            [{"role": "user", "content": [_sent(picture), {"type": "text", "text": question}]}]
            for picture, question in questions
        ]
        return self.generator.generate(prompts, sampling, **how)


def _sent(picture: Picture) -> dict[str, Any]:
    one = picture.open()
    one.thumbnail((SENT_SIDE, SENT_SIDE))
    stream = io.BytesIO()
    one.save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
