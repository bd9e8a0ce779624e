"""Any base model as an assistant: the options of its prompt, and a generator that writes prompts and reads answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import CountOrZero, Seed, option
from coalign.data.records import Messages
from coalign.decoding.in_context import prefix as prefixes
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.generation.sampling import check_sampling
from coalign.models.types import Generating, Generation, Generator, Prompts, Samples, Sampling, generating


@dataclass(kw_only=True)
class InContextOptions:
    """What stands before a conversation, and how answers are read."""

    __group__ = "Prompt"

    style: str = option(
        "default",
        "system text and examples: default, help (no refusal), short, brief, plain, a .json file, or a .txt file that is the whole prefix",
    )
    examples: CountOrZero = option(
        3, "how many examples, from the first; 0: system text alone", source="paper"
    )
    shuffle: Seed | None = option(None, "seed by which the examples are shuffled")
    keep_inner_fences: bool = option(False, "keep blocks of code in answers; else every fence is deleted")
    legacy_spacing: bool = option(False, "queries on the line of their fence, as in the first version")


@dataclass
class InContextGenerator:
    """Any generator of a base model, as an assistant.

    Attributes:
        inner: the base model.
        prefix: what stands before every conversation.
        options: how prompts are written and answers read.
    """

    inner: Generator
    prefix: str
    options: InContextOptions

    @property
    def description(self) -> str:
        return f"in-context examples ({self.options.style}) around {getattr(self.inner, 'description', 'a model')}"

    def __getattr__(self, name: str) -> Any:
        """Where the back end is a local model: `context` as it is, `encode` with the examples before the prompt."""
        if name not in ("context", "encode"):
            raise AttributeError(name)
        found = getattr(self.inner, name)
        return found if name == "context" else lambda prompt, *rest: found(self.prompt(prompt, 1), *rest)

    def prompt(self, messages: Messages | str, max_new_tokens: int) -> str:
        """The whole prompt of a conversation; its oldest turns are left out where the model's context is too short.

        A system message of the conversation stands before its first query.
        """
        system, turns = prefixes.turns_of(messages)
        if system:
            turns = [f"{system}\n\n{turns[0]}", *turns[1:]]
        while True:
            text = prefixes.conversation_prompt(
                self.prefix, turns, legacy_spacing=self.options.legacy_spacing
            )
            if not self.prefix:
                text = text.removeprefix("\n")
            if len(turns) == 1 or self._fits(text, max_new_tokens):
                return text
            turns = turns[2:]

    def generate(self, prompts: Prompts, sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        """See `coalign.models.types.Generator.generate`; token ids and log-probabilities are those of the raw text."""
        done, on_batch, label = generating(**how)
        check_sampling(sampling)  # answers are cut at the format's own marks, whatever a grammar says
        self._assert_room(sampling.max_new_tokens)
        written = []
        for index, one in enumerate(prompts):
            try:
                written.append(self.prompt(one, sampling.max_new_tokens))
            except DataError as error:
                raise DataError(f"prompt {index}: {error.message}", hint=error.hint) from error
        stops = tuple(dict.fromkeys((*sampling.stop, *prefixes.STOPS)))

        def hand_over(found: dict[int, list[Generation]]) -> None:
            on_batch({index: self._cleaned(mine) for index, mine in found.items()})

        found = self.inner.generate(
            written, replace(sampling, stop=stops), done=done, on_batch=hand_over, label=label
        )
        return [self._cleaned(one) for one in found]

    def _cleaned(self, samples: Sequence[Generation]) -> list[Generation]:
        keep = self.options.keep_inner_fences
        return [replace(one, text=prefixes.clean_answer(one.text, keep_inner_fences=keep)) for one in samples]

    def _assert_room(self, max_new_tokens: int) -> None:
        """Refuse a prefix that leaves no room for any query and answer.

        Raises:
            ConfigError: it says how long the prefix is and what there is.
        """
        if self._fits(self.prefix, max_new_tokens):
            return
        assert isinstance(self.inner, TransformersGenerator)
        raise ConfigError(
            f"style: the prefix has {len(self.inner.encode(self.prefix))} tokens, but the model's context of "
            f"{self.inner.context} less max_new_tokens {max_new_tokens} leaves {max(0, self.inner.context - max_new_tokens)}.",  # type: ignore[operator]
            hint="Take fewer --examples, a shorter --style (brief), or lower --max-new-tokens.",
        )

    def _fits(self, text: str, max_new_tokens: int) -> bool:
        if not isinstance(self.inner, TransformersGenerator) or self.inner.context is None:
            return True
        return len(self.inner.encode(text)) + max_new_tokens <= self.inner.context


def make_prefix(options: InContextOptions) -> str:
    """The constant text that the options name.

    Raises:
        ConfigError: no such style or file, or too few examples.
    """
    if options.style.endswith(".txt"):
        if options.examples != 3 or options.shuffle is not None:
            raise ConfigError("examples, shuffle: have no effect on a .txt file, which is the whole prefix.")
        try:
            return Path(options.style).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"style: {options.style}: cannot be read ({error.strerror}).") from error
    return prefixes.prefix_of(prefixes.load_style(options.style, options.examples, options.shuffle))
