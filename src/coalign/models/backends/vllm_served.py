"""Generators over a vLLM server of this process (`coalign.models.backends.vllm_server`): a model by name, or one that is in training.

Token ids go in and come out, as from vLLM in this process, so what is sampled can be learnt from as it is.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import save_file

from coalign.core.errors import DataError, EndpointError, ModelError
from coalign.core.files import atomic_path, write_json
from coalign.models import types
from coalign.models.adapters import has_start
from coalign.models.backends.endpoint_client import EndpointClient, RefusedError
from coalign.models.backends.options import BackendOptions, VllmServerOptions
from coalign.models.backends.side_by_side import side_by_side
from coalign.models.backends.vllm_model import (
    Sampled,
    VllmModel,
    adapter_rank,
    assert_takes_adapter,
    refuse_ignored,
    takes_adapter,
)
from coalign.models.backends.vllm_server import BASE, KEY_VARIABLE, Serving, VllmServer, server_for
from coalign.models.devices import decoding_dtype, pick_device
from coalign.models.files.loading import load_tokenizer
from coalign.models.files.places import Location, base_of, locate
from coalign.models.files.saving import base_name, save_model
from coalign.models.merged import can_merge
from coalign.models.modules import unwrap
from coalign.models.options import ModelOptions

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 64
"""Prompts under way; vLLM puts them into batches itself."""
ANSWERING = 3600.0
"""Seconds that all samples of one prompt may take, waiting for others included; a server that ended is noticed at once."""
_marks = itertools.count()
_TOKEN = "token_id:"


class ServedModel(VllmModel):
    """A `Generator` over a server of this process."""

    def __init__(
        self,
        options: ModelOptions,
        backend: VllmServerOptions,
        base: Location,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(options, base, tokenizer)
        dtype = options.dtype
        if dtype == "auto":  # vLLM's own makes bfloat16 of float32 wherever it runs
            dtype = str(self._dtype()).removeprefix("torch.")
        self._serving = Serving(
            model=base.path,
            revision=base.revision,
            dtype=dtype,
            trust_remote_code=options.trust_remote_code,
            command=backend.vllm_command,
            arguments=tuple(backend.vllm_argument),
            seconds=backend.vllm_start_seconds,
        )
        self._at_once = batch_size or AT_ONCE
        self.description = f"{options.model} on a vLLM server"

    @abstractmethod
    def _ready(self, server: VllmServer) -> str:
        """Bring the weights to the server; the name under which they answer."""

    def _dtype(self) -> torch.dtype:
        """The number format of the server where none is named."""
        return decoding_dtype(pick_device())

    def _sample(
        self, asked: Mapping[int, list[int]], sampling: types.Sampling
    ) -> Iterator[dict[int, list[Sampled]]]:
        with server_for(self._serving) as server, _client(server, self._at_once) as client:
            name = self._ready(server)

            def ask(index: int) -> list[Sampled]:
                body = self._body(name, asked[index], sampling, index)
                answer = client.post("completions", body)
                return _samples(answer, sampling, server.version)

            failure: BaseException | None = None
            for index, outcome in side_by_side([*asked], ask, self._at_once):
                if not isinstance(outcome, BaseException):
                    yield {index: outcome}
                elif failure is None:
                    failure = _named(outcome, index)
            if failure is not None:
                if isinstance(failure, EndpointError):
                    server.assert_alive()
                raise failure

    def _body(self, name: str, ids: list[int], sampling: types.Sampling, index: int) -> dict[str, Any]:
        wanted = {**self._parameters(sampling, index), "model": name, "prompt": ids}
        wanted |= {"return_token_ids": True, "return_tokens_as_token_ids": True}
        return {key: value for key, value in wanted.items() if value is not None}


class VllmServerGenerator(ServedModel):
    """A model by name; an adapter is pushed to a server that has its base.

    Args:
        options: which model.
        backend: how the server is started.
        batch_size: most prompts under way.

    Raises:
        ConfigError: an option that vLLM cannot follow.
        ModelError: there is no such model.
    """

    def __init__(
        self, options: ModelOptions, backend: VllmServerOptions, *, batch_size: int | None = None
    ) -> None:
        refuse_ignored(options, "vllm-server")
        place = locate(options.model, options.revision)
        base = base_of(place) if place.is_adapter else place
        super().__init__(options, backend, base, load_tokenizer(options), batch_size=batch_size)
        self._adapter = Path(place.path) if place.is_adapter else None
        self._mark = next(_marks) if self._adapter else None
        if self._adapter:
            assert_takes_adapter(place)
            self._serving = serving_adapters(self._serving, place.adapter_settings)

    def _ready(self, server: VllmServer) -> str:
        return server.use(self._adapter, self._mark)


class PolicyOnServer(ServedModel):
    """A model in training as it was when it was first asked: its adapter is pushed, or all of its weights.

    An adapter goes to a server that has its base, under a new name for every state. Weights that vLLM cannot take as an adapter
    (all of them, kinds other than LoRA, layers trained whole, a base that lies nowhere or gave a part away) are written as a whole model, and read by the running server.

    Args:
        model: in training; it must not change while it is asked.
        tokenizer: of the model.
        options: it was loaded with.
        backend: how the server is started.
        folder: where weights are written for the server to read.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        options: ModelOptions,
        backend: VllmServerOptions,
        folder: Path,
    ) -> None:
        # a device and a kernel are what it is trained with
        refuse_ignored(ModelOptions.of(options, device="auto", attn_implementation="auto"), "vllm-server")
        self._policy, self._folder, self._mark = model, folder, next(_marks)
        self._base = _base_under(model)
        start = locate(options.model, options.revision)
        whole = base_of(start) if start.is_adapter else start
        super().__init__(options, backend, self._base or whole, tokenizer)
        if self._base is not None:
            self._serving = serving_adapters(self._serving, vars(_settings(model)))
        else:
            self._serving = replace(self._serving, model=str(folder / "whole"), revision=None, reloads=True)
        self._written = False

    def _dtype(self) -> torch.dtype:
        """What samples computes as what learns: on a CPU in the format of the weights."""
        own = next(self._policy.parameters())
        return own.dtype if own.device.type == "cpu" else super()._dtype()

    def _sample(
        self, asked: Mapping[int, list[int]], sampling: types.Sampling
    ) -> Iterator[dict[int, list[Sampled]]]:
        self._write()
        return super()._sample(asked, sampling)

    def _write(self) -> None:
        """Write the weights for the server, before it is started where it reads them then."""
        if self._written:
            return
        policy = cast(Any, self._policy)
        if self._base is None:
            with _as_trained(policy):
                save_model(policy, self.tokenizer, self._folder / "whole", merge=True)
            _untie(self._folder / "whole", policy)
        else:
            with atomic_path(self._folder / "adapter") as temporary:
                policy.save_pretrained(str(temporary), save_embedding_layers=False)
        self._written = True

    def _ready(self, server: VllmServer) -> str:
        if self._base is not None:
            return server.use(self._folder / "adapter", self._mark)
        server.reload(self._folder / "whole", self._mark)
        return BASE


def serving_adapters(serving: Serving, settings: Mapping[str, Any]) -> Serving:
    """The same server, which takes adapters with these settings."""
    return replace(serving, rank=adapter_rank(settings))


def _base_under(model: nn.Module) -> Location | None:
    """Where the base of an adapter lies that vLLM takes; None where there is no such adapter."""
    if not can_merge(model) or not takes_adapter(vars(_settings(model))) or has_start(model):
        return None
    name = base_name(cast("PeftModel", model))
    return locate(name, _settings(model).revision, as_base=True) if name else None


def _settings(model: nn.Module) -> Any:
    """The configuration of a model's adapter."""
    return next(iter(cast(Any, model).peft_config.values()))


def _untie(folder: Path, model: nn.Module) -> None:
    """Write the output layer of a saved model beside its weights where it shares those of the input: vLLM 0.32 reads such a model
    rightly when it starts, but keeps the old output layer when it reads it anew.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if not config.get("tie_word_embeddings"):
        return
    bare: Any = unwrap(model)
    head = bare.get_output_embeddings()
    name = next(name for name, one in bare.named_modules() if one is head)
    key = f"{name.replace('base_model.model.', '')}.weight"
    save_file({key: head.weight.detach().cpu().clone()}, folder / "head.safetensors", {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        listed = json.loads(index.read_text(encoding="utf-8"))
        write_json(index, {**listed, "weight_map": {**listed["weight_map"], key: "head.safetensors"}})
    write_json(path, {**config, "tie_word_embeddings": False})


@contextlib.contextmanager
def _as_trained(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is saved in the format in which it is trained, not in that of its files (rounded to bfloat16 the
    weights that sample are not those that learn), and as a language model alone (PPO trains a head beside it).
    """
    head, kept = getattr(model, "value_head", None), vars(model).pop("saved_dtype", None)
    if head is not None:
        del model.value_head
    try:
        yield
    finally:
        if head is not None:
            model.add_module("value_head", head)
        if kept is not None:
            model.saved_dtype = kept


@contextlib.contextmanager
def _client(server: VllmServer, at_once: int) -> Iterator[EndpointClient]:
    """What asks the server. It is not tried again: a server of this machine that fails has ended."""
    options = BackendOptions(
        endpoint=f"{server.address}/v1",
        endpoint_key_variable=KEY_VARIABLE,
        endpoint_concurrency=at_once,
        endpoint_timeout=ANSWERING,
        endpoint_retries=0,
    )
    client = EndpointClient(options)
    try:
        yield client
    finally:
        client.close()


def _samples(answer: dict[str, Any], sampling: types.Sampling, version: str) -> list[Sampled]:
    """The samples of an answer, in order.

    Raises:
        ModelError: it has not what was asked for.
    """
    try:
        choices = sorted(answer["choices"], key=lambda one: one["index"])
        found = [_sample_of(one, sampling) for one in choices]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"vLLM {version} gives no token ids, or no log-probabilities of them ({type(error).__name__}: {error}).",
            hint="Name another version with --vllm-command.",
        ) from error
    if len(found) != sampling.rows:
        raise ModelError(f"vLLM {version} gave {len(found)} of {sampling.rows} samples.")
    return found


def _sample_of(choice: dict[str, Any], sampling: types.Sampling) -> Sampled:
    ids = [int(one) for one in choice["token_ids"]]
    if not sampling.wants_logprobs:
        return Sampled(ids, choice["finish_reason"])
    said = choice["logprobs"]
    places = [
        {_id(token): float(logp) for token, logp in {**(tops or {}), text: logp}.items()}
        for text, logp, tops in zip(said["tokens"], said["token_logprobs"], said["top_logprobs"], strict=True)
    ]
    if [token in place for token, place in zip(ids, places, strict=True)].count(False):
        raise ValueError("the tokens of its log-probabilities are others than those that it sampled")
    return Sampled(ids, choice["finish_reason"], places)


def _id(text: str) -> int:
    return int(text.removeprefix(_TOKEN))


def _named(error: BaseException, index: int) -> BaseException:
    if isinstance(error, RefusedError):
        return DataError(f"prompt {index}: vLLM refuses it: {error}")
    return error
