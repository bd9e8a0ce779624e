"""What both ways to vLLM share, in this process and as a server: prompts are written and tokenised here, as for the Transformers
back end, so that all see the same tokens; token ids come back, and texts are made of them as everywhere else here.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Unpack, cast

from coalign.core.errors import ConfigError, ModelError, PromptError
from coalign.core.progress import progress
from coalign.models import types
from coalign.models.backends.endpoint_format import wire_seed
from coalign.models.files.places import Location
from coalign.models.generation.batching import assert_room, encode_once
from coalign.models.generation.endings import Endings, stop_token_ids
from coalign.models.generation.sampling import check_sampling
from coalign.models.options import ModelOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sampled:
    """One sample as vLLM gives it.

    Attributes:
        token_ids: what was sampled, the token that ended it included.
        finish_reason: `stop` or `length`.
        places: for each token the log-probabilities that vLLM names there, its own among them; None where none were asked for.
    """

    token_ids: list[int]
    finish_reason: str
    places: Sequence[Mapping[int, float]] | None = None


class VllmModel(ABC):
    """A `Generator` over a model that vLLM holds.

    Args:
        options: which model.
        base: where its weights are, those under an adapter.
        tokenizer: of the model.

    Raises:
        ConfigError: an option that vLLM cannot follow.
    """

    def __init__(self, options: ModelOptions, base: Location, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.last_stats = types.GenerationStats()
        self._config, self._stop_ids = _read(base, tokenizer, options.trust_remote_code)

    @abstractmethod
    def _sample(
        self, asked: Mapping[int, list[int]], sampling: types.Sampling
    ) -> Iterator[dict[int, list[Sampled]]]:
        """`sampling.rows` samples of every prompt, given as {index: token ids}, some prompts at a time, in any order."""

    @property
    def context(self) -> int | None:
        """Most tokens of prompt and response together; None when the model does not say."""
        return getattr(self._config.get_text_config(decoder=True), "max_position_embeddings", None)

    def encode(self, prompt: types.Messages | str, index: int = 0) -> list[int]:
        """The tokens that the model gets for a prompt; `index`: its number, for messages.

        Raises:
            PromptError: the template refuses it, or it shows pictures.
        """
        return encode_once(self.tokenizer, prompt, index)

    def assert_room(self, encoded: Sequence[list[int]], sampling: types.Sampling) -> None:
        """Refuse prompts that leave no room for the response.

        Raises:
            PromptError: it names the first of them and counts the others.
        """
        assert_room(self.context, encoded, sampling)

    def generate(
        self, prompts: types.Prompts, sampling: types.Sampling, **how: Unpack[types.Generating]
    ) -> types.Samples:
        """Sample `sampling.n` responses to every prompt; see `coalign.models.types.Generator.generate`.

        Every prompt has a seed of its own, made of `sampling.seed` and its index. Numbers may differ in the last bits
        with what else is in a batch, so a resumed run is alike but need not be equal.

        Raises:
            ConfigError: a sampling option that cannot be used.
            DataError: a prompt that the template refuses, or that is too long.
            ModelError: vLLM ended, or cannot be used.
        """
        done, on_batch, label = types.generating(**how)
        check_sampling(sampling)
        todo = [index for index in range(len(prompts)) if index not in done]
        encoded = {index: self.encode(prompts[index], index) for index in todo}
        self._assert_room(encoded, prompts, sampling)
        endings = Endings(self.tokenizer, sampling.stop)
        results: list[list[types.Generation]] = [[] for _ in prompts]
        started, tokens = time.monotonic(), 0
        with progress(len(todo) * sampling.n, label, unit="sample") as bar:
            for batch in self._sample(encoded, sampling) if todo else ():
                found = {}
                for index, samples in batch.items():
                    before = encoded[index][-1] if types.goes_on(prompts[index]) else None
                    made = [generation_of(one, endings, before, sampling) for one in samples]
                    found[index] = results[index] = made * (sampling.n // sampling.rows)
                    tokens += sum(one.length for one in results[index])
                on_batch(found)
                bar.advance(len(found) * sampling.n)
        self.last_stats = types.GenerationStats(
            len(todo),
            len(todo) * sampling.n,
            sum(map(len, encoded.values())),
            tokens,
            time.monotonic() - started,
        )
        return results

    def _assert_room(
        self, encoded: Mapping[int, list[int]], prompts: types.Prompts, sampling: types.Sampling
    ) -> None:
        indices = list(encoded)
        try:
            self.assert_room([*encoded.values()], sampling)
        except PromptError as error:
            index = indices[error.index]
            raise PromptError(
                index, error.field, error.problem, error.expected, hint=error.hint, prompt=prompts[index]
            ) from None

    def _parameters(self, sampling: types.Sampling, index: int) -> dict[str, Any]:
        """Sampling parameters of a prompt, as vLLM names them."""
        return {
            "n": sampling.rows,
            "temperature": sampling.temperature,
            "top_p": max(sampling.top_p, 1e-9),
            "top_k": sampling.top_k,
            "seed": None if sampling.temperature == 0 else wire_seed(sampling, index, 0),
            "max_tokens": sampling.max_new_tokens,
            "stop": list(sampling.stop) or None,
            "stop_token_ids": self._stop_ids,
            "logprobs": max(sampling.top_logprobs, 1) if sampling.wants_logprobs else None,
        }


def generation_of(
    sampled: Sampled, endings: Endings, before: int | None, sampling: types.Sampling
) -> types.Generation:
    """A sample out of vLLM's; its text is made as everywhere else here.

    Args:
        before: the last token of the prompt where the text goes on from it.
    """
    ids = sampled.token_ids
    text, cut = endings.text(ids, before)
    finish = "length" if sampled.finish_reason == "length" and not cut else "stop"
    if not sampling.wants_logprobs:
        return types.Generation(text, ids, finish)
    places = sampled.places or ()
    tops = None
    if sampling.top_logprobs:
        ranked = [sorted(place.items(), key=lambda one: -one[1])[: sampling.top_logprobs] for place in places]
        tops = [[(endings.alternative(token), logp) for token, logp in place] for place in ranked]
    logps = [place[token] for token, place in zip(ids, places, strict=True)]
    return types.Generation(text, ids, finish, logps, endings.tokens(ids, before), tops)


def refuse_ignored(options: ModelOptions, backend: str) -> None:
    """Refuse options of a model that vLLM would ignore.

    Raises:
        ConfigError: naming the first.
    """
    ignored = {
        "device": "auto",
        "attn_implementation": "auto",
        "quantization": "none",
    }
    for name, default in ignored.items():
        if getattr(options, name) != default:
            more = ", which takes the devices that it sees" if name == "device" else ""
            raise ConfigError(f"--{name.replace('_', '-')} has no effect with --backend {backend}{more}.")


def takes_adapter(settings: Mapping[str, Any]) -> bool:
    """Whether vLLM computes an adapter with these settings beside its base: LoRA and rsLoRA alone."""
    return settings.get("peft_type", "LORA") == "LORA" and not settings.get("use_dora")


def assert_takes_adapter(place: Location) -> None:
    """Refuse an adapter folder that vLLM cannot use.

    Raises:
        ModelError: it is of another kind than LoRA.
    """
    settings = place.adapter_settings
    if not takes_adapter(settings):
        kind = "DORA" if settings.get("use_dora") else settings["peft_type"]
        raise ModelError(
            f"{place.name}: vLLM has no adapters of {kind}.", hint="`coalign export` folds it into its base."
        )


def adapter_rank(settings: Mapping[str, Any]) -> int:
    """The least rank that vLLM offers for an adapter with these settings."""
    rank = max([settings.get("r", 16), *(settings.get("rank_pattern") or {}).values()])
    return next((one for one in (8, 16, 32, 64, 128, 256, 320, 512) if one >= rank), rank)


def _read(base: Location, tokenizer: Any, trust_remote_code: bool) -> tuple[Any, list[int]]:
    """The configuration of a model, and the tokens that end its responses."""
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(
        base.path, revision=base.revision, trust_remote_code=trust_remote_code
    )
    generation = None
    with contextlib.suppress(OSError):
        generation = GenerationConfig.from_pretrained(base.path, revision=base.revision or "main")
    holder = cast(Any, SimpleNamespace(config=config, generation_config=generation))
    return config, stop_token_ids(holder, tokenizer)
