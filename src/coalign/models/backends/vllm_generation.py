"""Generation with vLLM in this process: the fast back end for large models on GPUs.

vLLM keeps an engine of its own on the GPU: a system that trains as well should free it first, or use a server
(`coalign.models.backends.vllm_server`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from coalign.core.errors import DataError, ModelError
from coalign.core.extras import require
from coalign.models import types
from coalign.models.backends.vllm_model import (
    Sampled,
    VllmModel,
    adapter_rank,
    assert_takes_adapter,
    refuse_ignored,
)
from coalign.models.files.loading import load_tokenizer
from coalign.models.files.places import base_of, locate
from coalign.models.options import ModelOptions

CHUNK = 256
"""Prompts handed over at a time: what is finished is kept after each."""


class VllmGenerator(VllmModel):
    """A `Generator` over vLLM. An adapter is applied by vLLM itself.

    Args:
        options: which model.
        max_num_seqs: most samples under way, by default vLLM's.
        engine: more arguments of `vllm.LLM` (`gpu_memory_utilization`, `tensor_parallel_size`, ...).

    Raises:
        ConfigError: an option that vLLM cannot follow.
        MissingExtraError: vLLM is not installed.
        ModelError: vLLM cannot load the model.
    """

    def __init__(self, options: ModelOptions, *, max_num_seqs: int | None = None, **engine: Any) -> None:
        self._vllm: Any = require("vllm", "vllm")
        refuse_ignored(options, "vllm")
        place = locate(options.model, options.revision)
        base, self._adapter = (base_of(place), place.path) if place.is_adapter else (place, None)
        super().__init__(options, base, load_tokenizer(options))
        if max_num_seqs:
            engine["max_num_seqs"] = max_num_seqs
        if self._adapter:
            assert_takes_adapter(place)
            engine |= {"enable_lora": True, "max_lora_rank": adapter_rank(place.adapter_settings)}
        try:
            self._engine: Any = self._vllm.LLM(
                model=base.path,
                revision=base.revision,
                tokenizer=base.path,
                dtype=options.dtype,
                trust_remote_code=options.trust_remote_code,
                **engine,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"vLLM cannot load {options.model}: {str(error).splitlines()[0]}") from error
        self.description = f"{options.model} on vLLM"

    def _sample(
        self, asked: Mapping[int, list[int]], sampling: types.Sampling
    ) -> Iterator[dict[int, list[Sampled]]]:
        indices = list(asked)
        for start in range(0, len(indices), CHUNK):
            chunk = indices[start : start + CHUNK]
            try:
                outputs = self._engine.generate(
                    [{"prompt_token_ids": asked[index]} for index in chunk],
                    [self._vllm.SamplingParams(**self._parameters(sampling, index)) for index in chunk],
                    use_tqdm=False,
                    lora_request=self._lora(),
                )
            except ValueError as error:  # a prompt that is longer than the engine's context
                raise DataError(f"vLLM refuses a prompt: {str(error).splitlines()[0]}") from error
            yield {
                index: [_sampled(one) for one in sorted(output.outputs, key=lambda one: one.index)]
                for index, output in zip(chunk, outputs, strict=True)
            }

    def _lora(self) -> Any:
        if self._adapter is None:
            return None
        from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]

        return LoRARequest("adapter", 1, self._adapter)


def _sampled(output: Any) -> Sampled:
    places = output.logprobs and [
        {token: one.logprob for token, one in place.items()} for place in output.logprobs
    ]
    return Sampled(list(output.token_ids), output.finish_reason, places)
