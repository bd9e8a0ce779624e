"""The one place where a back end is chosen: every loop, judge and decoder gets its `Generator` here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from coalign.core.errors import ConfigError
from coalign.models.adapters import has_adapter, merge
from coalign.models.backends.options import BackendOptions, PolicyBackendOptions
from coalign.models.devices import decoding_dtype, describe_device
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.files.quantized import is_quantized
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.modules import unwrap
from coalign.models.options import ModelOptions
from coalign.models.types import Generator

if TYPE_CHECKING:
    from peft import PeftModel

    from coalign.models.generation.precision import Precision


Wrap = Callable[[TransformersGenerator, ModelOptions, dict[str, Any]], Generator]
"""(generator, model, other arguments of `open_transformers`) to what is used in its place."""
_wrap: Wrap | None = None


@contextlib.contextmanager
def wrapped(wrap: Wrap) -> Iterator[None]:
    """In the block `open_generator` gives what `wrap` makes of a generator over a model of this process."""
    global _wrap
    before, _wrap = _wrap, wrap
    try:
        yield
    finally:
        _wrap = before


def open_generator(
    options: ModelOptions,
    backend: BackendOptions | None = None,
    *,
    batch_size: int | None = None,
    modules: bool = False,
) -> Generator:
    """A generator over the model that `options` name, or over an endpoint.

    Args:
        options: which model. An endpoint serves its own: then `options.model` is not looked at.
        backend: which back end; by default what `options` say when they are back-end options too, else Transformers.
        batch_size: most samples in a batch (Transformers) or under way (vLLM), by default as the device allows.
        modules: others will compute with the modules of the generator's model too.

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
    if backend.chosen_backend == "vllm-server":
        from coalign.models.backends.vllm_served import VllmServerGenerator

        return VllmServerGenerator(options, backend, batch_size=batch_size)
    how = {"batch_size": batch_size, "precision": backend.generation_precision, "modules": modules}
    opened = open_transformers(options, **how)
    return opened if _wrap is None else _wrap(opened, options, how)


def open_policy(policy: ModelOptions, config: Any) -> Generator:
    """A generator over a model that a loop trains, by the loop's options.

    Args:
        policy: the model as it is at this time.
        config: of the loop; where it has no `PolicyBackendOptions`, as `open_generator`.

    Raises: as `open_generator`.
    """
    if not is_served(config):
        return open_generator(policy)
    # a device and a kernel are what it is trained with
    named = ModelOptions.of(policy, device="auto", attn_implementation="auto")
    return open_generator(named, BackendOptions.of(config))


def is_served(config: Any) -> bool:
    """Whether a loop with these options samples from its policy on a vLLM server."""
    return isinstance(config, PolicyBackendOptions) and config.backend == "vllm-server"


@contextlib.contextmanager
def policy_server(config: Any) -> Iterator[None]:
    """What is served inside the block for a loop with these options ends with it."""
    try:
        yield
    finally:
        if is_served(config):
            from coalign.models.backends.vllm_server import end_server

            end_server()


def identity_of(options: ModelOptions, backend: BackendOptions) -> str:
    """What the model is that would answer, whatever it is called; no weights are loaded.

    Raises:
        ModelError: the model cannot be found, or the endpoint cannot be reached.
    """
    if backend.chosen_backend != "endpoint":
        from coalign.models.files.identity import model_identity

        identity = model_identity(options)
        named = backend.generation_precision
        return identity if named == "auto" else f"{identity}-{named}"
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


def open_transformers(
    options: ModelOptions,
    *,
    batch_size: int | None = None,
    precision: Literal["auto", "float32", "bfloat16", "int4"] = "auto",
    modules: bool = False,
) -> TransformersGenerator:
    """The Transformers back end; an adapter is merged, which makes every token cheaper, unless weights are quantised.

    Args:
        batch_size, modules: see `open_generator`.
        precision: see `BackendOptions.generation_precision`. Where weights can be fused, they alone are in this format, and
            the model stays in the file that it was loaded from, unless `modules` is true.

    Raises:
        ConfigError: int4 for a model whose weights cannot be fused, or another precision over quantised weights.
    """
    model = load_model(options, training=False)
    tokenizer = load_tokenizer(options)
    if is_quantized(model):
        if precision != "auto":
            raise ConfigError(
                f"generation_precision: {precision} is not usable over quantization: {options.quantization}; leave it out, "
                "products are in --dtype."
            )
        return TransformersGenerator(model, tokenizer, batch_size=batch_size)
    if has_adapter(model):
        model = merge(cast("PeftModel", model))
    own = next(model.parameters())
    wanted = precision
    if precision == "auto" and options.dtype == "auto":
        wanted = cast("Precision", str(decoding_dtype(own.device)).removeprefix("torch."))
    if wanted == "auto" or getattr(torch, wanted, None) == own.dtype:
        return TransformersGenerator(model, tokenizer, batch_size=batch_size)
    if own.device.type == "cpu" and (wanted == "int4" or not modules):
        generator = TransformersGenerator(
            model, tokenizer, batch_size=batch_size, precision=wanted, compared=precision != "auto"
        )
        if generator.is_fused:
            return generator
    if wanted == "int4":
        raise ConfigError(
            f"generation_precision: int4 is not usable for {type(unwrap(model)).__name__} on {own.device}, expected a model "
            "built like Llama on a CPU with AVX2.",
            hint="Leave --generation-precision out.",
        )
    return TransformersGenerator(model.to(getattr(torch, wanted)), tokenizer, batch_size=batch_size)


def describe_generator(generator: Generator, name: str) -> str:
    """One line for people: what generates, and where."""
    if isinstance(generator, TransformersGenerator):
        parameter: Any = next(generator.model.parameters())
        fused = ", fused weights" if generator.is_fused else ""
        return f"{name} on {describe_device(parameter.device)}, {generator.precision}{fused}"
    return str(getattr(generator, "description", name))
