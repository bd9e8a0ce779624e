"""Complete the prompt before it is answered: a small model adds what the user left unsaid, the main model sees one turn.

    coalign generate --method complement --option complement_model=runs/complements --prompts FILE --out FILE
    coalign serve default --align complement

A complement is about thirty words on the form, scope or setting of a good answer, never an answer itself (the prompt
augmentation of the Baichuan Alignment report, arXiv 2410.14940, sections 2.3 and 4.6). Without `complement_model` the model
completes its own prompts. A complement that is empty, too long or repeats the prompt is left out: the plain prompt is answered.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Unpack

from coalign.core.errors import DataError
from coalign.core.options import Count, Fraction, option
from coalign.data.records import Messages
from coalign.models.methods import Method
from coalign.models.types import Generating, Generator, Prompts, Samples, Sampling, generating

_WORD = re.compile(r"\w+")


@dataclass(kw_only=True)
class Options:
    """Options of completed prompts."""

    __group__ = "Completed prompts"

    complement_model: str | None = option(
        None,
        "model that writes the complements: a folder, a run or a hub id; by default the model that answers",
    )
    complement_words: Count = option(
        60, "a complement of more words is left out", source="about 30 are asked for; the paper's section 4.6"
    )
    complement_overlap: Fraction = option(
        0.8, "a complement is left out when more than this share of its words stands in the prompt already"
    )


def complement_request(text: str, words: int = 30) -> Messages:
    """What a model is asked that writes the complement of a user's prompt: its role, its limits, the prompt, a cue."""
    return [
        {
            "role": "user",
            "content": "You help people to ask for what they want. Below is a request to an assistant. Write what it leaves "
            f"unsaid about a good answer: its scope, its form, its reader. At most {words} words, in the language of the "
            "request. Do not answer the request and do not repeat it.\n\n"
            f"Request:\n{text}\n\nAddition:",
        }
    ]


def with_complement(prompt: Messages | str, complement: str) -> Messages | str:
    """The prompt with the complement behind its last user turn."""
    if isinstance(prompt, str):
        return f"{prompt.rstrip()}\n{complement}"
    last = max(place for place, one in enumerate(prompt) if one["role"] == "user")
    completed: Any = {**prompt[last], "content": f"{str(prompt[last]['content']).rstrip()}\n\n{complement}"}
    return [*prompt[:last], completed, *prompt[last + 1 :]]


def is_usable(complement: str, text: str, options: Options) -> bool:
    """Whether a complement adds something to a prompt and is short enough."""
    words = _WORD.findall(complement.lower())
    if not words or len(words) > options.complement_words:
        return False
    known = Counter(_WORD.findall(text.lower()))
    repeated = sum(min(count, known[word]) for word, count in Counter(words).items())
    return repeated <= options.complement_overlap * len(words)


class CompletedPrompts:
    """A `Generator` that answers completed prompts with another one.

    Args:
        inner: any back end or method.

    Attributes:
        completed, plain: prompts so far that were answered with and without a complement.
    """

    def __init__(self, inner: Generator, options: Options) -> None:
        self.inner, self.options = inner, options
        self.completed = self.plain = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("tokenizer", "last_stats", "description"):  # of what it stands around
            return getattr(self.inner, name)
        raise AttributeError(name)

    @cached_property
    def writer(self) -> Generator:
        """The model that writes complements."""
        if self.options.complement_model is None:
            return self.inner
        from coalign.models.backends.open import open_transformers
        from coalign.models.options import ModelOptions

        return open_transformers(ModelOptions(model=self.options.complement_model))

    def generate(self, prompts: Prompts, sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        """As `coalign.models.types.Generator.generate`. Complements are the likeliest ones, so that a run that goes on has the same."""
        done, on_batch, label = generating(**how)
        # of all prompts: a batch that goes on must have the prompts that it began with
        wanted = [index for index in range(len(prompts)) if self._text(prompts[index])]
        greedy = replace(
            sampling,
            n=1,
            temperature=0.0,
            max_new_tokens=4 * self.options.complement_words,
            stop=("\n\n",),
            grammar=None,
        )
        written = self.writer.generate(
            [complement_request(self._text(prompts[index])) for index in wanted],
            greedy,
            label="Completing prompts",
        )
        answered = [*prompts]
        for index, samples in zip(wanted, written, strict=True):
            text = samples[0].text.strip()
            if is_usable(text, self._text(prompts[index]), self.options):
                answered[index] = with_complement(prompts[index], text)
                self.completed += 1
            else:
                self.plain += 1
        return self.inner.generate(answered, sampling, done=done, on_batch=on_batch, label=label)

    @staticmethod
    def _text(prompt: Messages | str) -> str:
        """The last user turn; empty where the prompt ends with a begun answer, which is not to be completed."""
        if isinstance(prompt, str):
            return prompt
        if not prompt or prompt[-1]["role"] != "user":
            return ""
        content = prompt[-1]["content"]
        if not isinstance(content, str):
            raise DataError("complement: a prompt whose content is not text cannot be completed.")
        return content


METHOD = Method(
    "complement",
    "A small model adds what the prompt leaves unsaid",
    Options,
    wrap=lambda options, inner: CompletedPrompts(inner, options),
)
