"""Questions about pictures, answered by any image-text-to-text model of Transformers or behind an endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import torch

from coalign.core.errors import ModelError, PromptError
from coalign.core.progress import progress
from coalign.data.media.conversations import MARK, pictures_of
from coalign.data.media.prompts import processor_of
from coalign.data.records import Messages
from coalign.models.backends.open import open_named, open_transformers
from coalign.models.devices import pick_device, pick_dtype
from coalign.models.files.failures import first_line
from coalign.models.files.loading import load_pretrained, load_tokenizer
from coalign.models.files.places import locate
from coalign.models.generation.batching import of_prompt
from coalign.models.options import ModelOptions
from coalign.models.types import Generating, Generation, Generator, Prompts, Samples, Sampling, generating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def open_picture_answerer(
    name: str | None, *, revision: str | None = None, device: str = "auto", endpoint: str | None = None
) -> Generator:
    """A model that answers questions about pictures (`question_about`).

    Args:
        name: folder or hub id; with an endpoint its name there, None for the only one that it lists.
        endpoint: base address of an OpenAI-compatible server whose model takes pictures.

    Raises:
        ModelError, EndpointError, ConfigError: it cannot be loaded or reached.
    """
    if endpoint is not None:
        return open_named(name, endpoint=endpoint)
    assert name is not None
    options = ModelOptions(model=name, revision=revision, device=device)
    tokenizer = load_tokenizer(options)
    if processor_of(tokenizer) is None:
        raise ModelError(f"{name}: its processor takes no pictures, expected an image-text-to-text model.")
    return open_transformers(options) if tokenizer.chat_template else UntemplatedAnswerer(options, tokenizer)


class UntemplatedAnswerer:
    """An image-text-to-text model without a chat template, which gets a question as it is (BLIP-2).

    One picture at a time, each under a random stream of its own. Prompts are of `question_about`.
    """

    def __init__(self, options: ModelOptions, tokenizer: PreTrainedTokenizerBase) -> None:
        from transformers import AutoModelForImageTextToText

        place = locate(options.model, options.revision)
        self.device = pick_device(options.device)
        self.name, self.tokenizer = options.model, tokenizer
        self.processor: Any = processor_of(tokenizer)
        self.model: Any = load_pretrained(
            AutoModelForImageTextToText,
            place,
            what="image-text-to-text model",
            dtype=pick_dtype(self.device),
        )
        self.model.to(self.device).eval()

    def generate(self, prompts: Prompts, sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        """See `coalign.models.types.Generator.generate`.

        Raises:
            PromptError: a picture that cannot be decoded, or none.
            ModelError: the processor takes no such question.
        """
        done, on_batch, label = generating(**how)
        results: Samples = [[] for _ in prompts]
        todo = [index for index in range(len(prompts)) if index not in done]
        with progress(len(todo), label, "picture") as bar:
            for index in todo:
                results[index] = self._answer(prompts[index], sampling, index)
                on_batch({index: results[index]})
                bar.advance()
        return results

    def _answer(self, prompt: Messages | str, sampling: Sampling, index: int) -> list[Generation]:
        shown = pictures_of(prompt)
        if len(shown) != 1 or len(prompt) != 1 or isinstance(prompt, str):
            raise PromptError(index, "prompt", f"{len(shown)} pictures", "one question about one picture")
        with of_prompt(index, prompt):
            picture = shown[0].open()
        try:
            inputs = self.processor(
                images=[picture], text=[prompt[0]["content"].replace(MARK, "")], return_tensors="pt"
            ).to(self.device, self.model.dtype)
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
            torch.manual_seed(sampling.seed * 1_000_003 + sampling.first + index)
            found = self.model.generate(
                **inputs,
                max_new_tokens=sampling.max_new_tokens,
                num_return_sequences=sampling.rows,
                pad_token_id=self.tokenizer.pad_token_id,
                **how,
            )
        # An encoder-decoder and BLIP-2 give the answer alone, the others question and answer.
        asked = inputs["input_ids"].shape[1]
        begun = found.shape[1] > asked and bool((found[:, :asked] == inputs["input_ids"]).all())
        rows = found[:, asked:] if begun else found
        ends = self.tokenizer.eos_token_id
        samples = [
            Generation(
                str(self.tokenizer.decode(row, skip_special_tokens=True)).strip(),
                row.tolist(),
                "stop" if ends in row.tolist() else "length",
            )
            for row in rows
        ]
        return samples * (sampling.n // sampling.rows)
