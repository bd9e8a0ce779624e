"""Generation with vLLM: the fast back end for large models on GPUs.

Prompts are written and tokenised here, as for the Transformers back end, so that both see the same tokens. vLLM keeps
an engine of its own on the GPU: a system that trains as well should free it first, or use Transformers.
"""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace
from typing import Any, Unpack, cast

from coalign.core.errors import ConfigError, DataError, ModelError
from coalign.core.extras import require
from coalign.core.progress import progress
from coalign.models import types
from coalign.models.backends.endpoint_format import wire_seed
from coalign.models.files.loading import load_tokenizer
from coalign.models.files.places import Location, base_of, locate
from coalign.models.generation.batching import encode_any
from coalign.models.generation.endings import Endings, stop_token_ids
from coalign.models.generation.sampling import check_sampling
from coalign.models.options import ModelOptions

CHUNK = 256
"""Prompts handed over at a time: what is finished is kept after each."""


class VllmGenerator:
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
        if options.device != "auto":
            raise ConfigError("--device has no effect with --backend vllm, which takes the GPUs it sees.")
        if options.attn_implementation != "auto":
            raise ConfigError("--attn-implementation has no effect with --backend vllm.")
        if options.quantization != "none":
            raise ConfigError("--quantization has no effect with --backend vllm.")
        place = locate(options.model, options.revision)
        self.tokenizer = load_tokenizer(options)
        base, self._adapter = (base_of(place), place.path) if place.is_adapter else (place, None)
        if max_num_seqs:
            engine["max_num_seqs"] = max_num_seqs
        if self._adapter:
            engine |= {"enable_lora": True, "max_lora_rank": _rank(place)}
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
        self.last_stats = types.GenerationStats()
        self.description = f"{options.model} on vLLM"
        self._stop_ids = _stop_ids(base, self.tokenizer, options.trust_remote_code)

    def generate(
        self, prompts: types.Prompts, sampling: types.Sampling, **how: Unpack[types.Generating]
    ) -> types.Samples:
        """Sample `sampling.n` responses to every prompt; see `coalign.models.types.Generator.generate`.

        Every prompt has a seed of its own, made of `sampling.seed` and its index. Numbers may differ in the last bits
        with what else is in a batch, so a resumed run is alike but need not be equal.

        Raises:
            ConfigError: a sampling option that cannot be used.
            DataError: a prompt that the template refuses, or that is too long.
        """
        done, on_batch, label = types.generating(**how)
        check_sampling(sampling)
        todo = [index for index in range(len(prompts)) if index not in done]
        encoded = {index: encode_any(self.tokenizer, prompts[index], index) for index in todo}
        results: list[list[types.Generation]] = [[] for _ in prompts]
        started, tokens = time.monotonic(), 0
        with progress(len(todo) * sampling.n, label, unit="sample") as bar:
            for start in range(0, len(todo), CHUNK):
                chunk = todo[start : start + CHUNK]
                found = self._work_on(chunk, [encoded[index] for index in chunk], prompts, sampling)
                tokens += sum(one.length for samples in found.values() for one in samples)
                for index, samples in found.items():
                    results[index] = samples
                on_batch(found)
                bar.advance(len(chunk) * sampling.n)
        self.last_stats = types.GenerationStats(
            len(todo),
            len(todo) * sampling.n,
            sum(map(len, encoded.values())),
            tokens,
            time.monotonic() - started,
        )
        return results

    def _work_on(
        self,
        indices: list[int],
        encoded: list[list[int]],
        prompts: types.Prompts,
        sampling: types.Sampling,
    ) -> dict[int, list[types.Generation]]:
        try:
            outputs = self._engine.generate(
                [{"prompt_token_ids": ids} for ids in encoded],
                [self._params(sampling, index) for index in indices],
                use_tqdm=False,
                lora_request=self._lora(),
            )
        except ValueError as error:  # a prompt that is longer than the model's context
            raise DataError(f"vLLM refuses a prompt: {str(error).splitlines()[0]}") from error
        endings = Endings(self.tokenizer, sampling.stop)
        copies = sampling.n // sampling.rows
        found = {}
        for index, ids, output in zip(indices, encoded, outputs, strict=True):
            before = ids[-1] if types.goes_on(prompts[index]) else None
            samples = sorted(output.outputs, key=lambda one: one.index)
            found[index] = [_generation(one, endings, before, sampling) for one in samples] * copies
        return found

    def _params(self, sampling: types.Sampling, index: int) -> Any:
        greedy = sampling.temperature == 0
        return self._vllm.SamplingParams(
            n=sampling.rows,
            temperature=sampling.temperature,
            top_p=max(sampling.top_p, 1e-9),
            top_k=sampling.top_k,
            seed=None if greedy else wire_seed(sampling, index, 0),
            max_tokens=sampling.max_new_tokens,
            stop=list(sampling.stop) or None,
            stop_token_ids=self._stop_ids,
            logprobs=max(sampling.top_logprobs, 1) if sampling.wants_logprobs else None,
        )

    def _lora(self) -> Any:
        if self._adapter is None:
            return None
        from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]

        return LoRARequest("adapter", 1, self._adapter)


def _generation(
    output: Any, endings: Endings, before: int | None, sampling: types.Sampling
) -> types.Generation:
    """A sample out of vLLM's; its text is made as everywhere else here."""
    ids = list(output.token_ids)
    text, cut = endings.text(ids, before)
    finish = "length" if output.finish_reason == "length" and not cut else "stop"
    if not sampling.wants_logprobs:
        return types.Generation(text, ids, finish)
    places = [{token: one.logprob for token, one in place.items()} for place in output.logprobs]
    tops = None
    if sampling.top_logprobs:
        ranked = [sorted(place.items(), key=lambda one: -one[1])[: sampling.top_logprobs] for place in places]
        tops = [[(endings.alternative(token), logp) for token, logp in place] for place in ranked]
    logps = [place[token] for token, place in zip(ids, places, strict=True)]
    return types.Generation(text, ids, finish, logps, endings.tokens(ids, before), tops)


def _rank(place: Location) -> int:
    """The least rank that vLLM offers for this adapter."""
    rank = place.adapter_settings.get("r", 16)
    return next((one for one in (8, 16, 32, 64, 128, 256, 320, 512) if one >= rank), rank)


def _stop_ids(base: Location, tokenizer: Any, trust_remote_code: bool) -> list[int]:
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(
        base.path, revision=base.revision, trust_remote_code=trust_remote_code
    )
    generation = None
    with contextlib.suppress(OSError):
        generation = GenerationConfig.from_pretrained(base.path, revision=base.revision or "main")
    holder = cast(Any, SimpleNamespace(config=config, generation_config=generation))
    return stop_token_ids(holder, tokenizer)
