"""The one place where a back end is chosen: every loop, judge and decoder gets its `Generator` here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from coalign.models.adapters import has_adapter, merge
from coalign.models.backends.options import BackendOptions
from coalign.models.devices import decoding_dtype, describe_device
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions
from coalign.models.types import Generator

if TYPE_CHECKING:
    from peft import PeftModel


def open_generator(
    options: ModelOptions, backend: BackendOptions | None = None, *, batch_size: int | None = None
) -> Generator:
    """A generator over the model that `options` name, or over an endpoint.

    Args:
        options: which model. An endpoint serves its own: then `options.model` is not looked at.
        backend: which back end; by default what `options` say when they are back-end options too, else Transformers.
        batch_size: most samples in a batch (Transformers) or under way (vLLM), by default as the device allows.

    Raises:
        ConfigError: options that the back end cannot follow.
        MissingExtraError: the back end's library is not installed.
        ModelError: the model cannot be loaded, or the endpoint cannot be used.
    """
    if backend is None:
        backend = options if isinstance(options, BackendOptions) else BackendOptions()
    if backend.chosen_backend == "endpoint":
        from coalign.models.backends.endpoint import EndpointGenerator

        return EndpointGenerator(backend)
    if backend.chosen_backend == "vllm":
        from coalign.models.backends.vllm_generation import VllmGenerator

        return VllmGenerator(options, max_num_seqs=batch_size)
    return open_transformers(options, batch_size=batch_size)


def identity_of(options: ModelOptions, backend: BackendOptions) -> str:
    """What the model is that would answer, whatever it is called; no weights are loaded.

    Raises:
        ModelError: the model cannot be found, or the endpoint cannot be reached.
    """
    if backend.chosen_backend != "endpoint":
        from coalign.models.files.identity import model_identity

        return model_identity(options)
    from coalign.models.backends.endpoint import EndpointGenerator

    generator = EndpointGenerator(backend)
    try:
        return generator.identity
    finally:
        generator.close()


def open_named(name: str | None, *, endpoint: str | None = None, device: str = "auto") -> Generator:
    """A model by name alone: on the server at `endpoint` (None: the only one that it lists), else on this machine.

    Raises: as `open_generator`.
    """
    if endpoint:
        return open_generator(ModelOptions(), BackendOptions(endpoint=endpoint, endpoint_model=name))
    return open_generator(ModelOptions(model=name or "default", device=device))


def open_transformers(options: ModelOptions, *, batch_size: int | None = None) -> TransformersGenerator:
    """The Transformers back end; an adapter is merged, which makes every token cheaper.

    With `dtype: auto` the merged weights are put into the format in which this device samples fastest.
    """
    model = load_model(options, training=False)
    if has_adapter(model):
        model = merge(cast("PeftModel", model))
    if options.dtype == "auto":
        model = cast(torch.nn.Module, model).to(decoding_dtype(next(model.parameters()).device))
    tokenizer = load_tokenizer(options)
    return TransformersGenerator(model, tokenizer, batch_size=batch_size)


def describe_generator(generator: Generator, name: str) -> str:
    """One line for people: what generates, and where."""
    if isinstance(generator, TransformersGenerator):
        parameter: Any = next(generator.model.parameters())
        fused = ", fused weights" if generator.is_fused else ""
        return f"{name} on {describe_device(parameter.device, parameter.dtype)}{fused}"
    return str(getattr(generator, "description", name))
