"""What the two engines take and return. Any back end, trainer, judge, loop or decoder knows only these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypedDict, TypeVar, Unpack

import torch

from coalign.data.records import Messages

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.data.media.prompts import PicturePrompt
    from coalign.models.grammars.schemas import Grammar


@dataclass(frozen=True)
class Responses:
    """Tokenised prompts with one or more responses each: the input of the scoring engine.

    Attributes:
        prompt_ids: P prompts, token ids each (chat template and generation prompt included).
        response_ids: B responses, token ids each (end-of-turn included), grouped by prompt.
        prompt_index: [B] the prompt of each response, non-decreasing.
        trained: [B] for each response a mask over its tokens, None when every token counts.
        pictures: [P] the pictures of each prompt, None where it has none; None where no prompt has.
    """

    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    prompt_index: list[int]
    trained: list[list[bool]] | None = None
    pictures: list[PicturePrompt | None] | None = None

    def __post_init__(self) -> None:
        if len(self.prompt_index) != len(self.response_ids):
            raise ValueError(
                f"{len(self.response_ids)} responses but {len(self.prompt_index)} prompt indices"
            )
        if any(
            later < earlier for earlier, later in zip(self.prompt_index, self.prompt_index[1:], strict=False)
        ):
            raise ValueError("prompt_index must be non-decreasing: group the responses by prompt")
        if any(not ids for ids in self.response_ids):
            raise ValueError("a response has no tokens")


@dataclass(frozen=True)
class ResponseLogps:
    """Ragged log-probabilities: the output of the scoring engine.

    Attributes:
        token_logps: [N] natural-log probability of every counted response token, response after response.
        lengths: [B] counted tokens of each response (int64), sum N.
        prompt_index: [B] the prompt of each response.
    """

    token_logps: Tensor
    lengths: Tensor
    prompt_index: Tensor

    @property
    def segment_ids(self) -> Tensor:
        """[N] the response of each token."""
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        return torch.repeat_interleave(rows, self.lengths)

    def sums(self) -> Tensor:
        """[B] log-probability of each response: the sum over its counted tokens."""
        zeros = self.token_logps.new_zeros(len(self.lengths))
        return zeros.index_add(0, self.segment_ids, self.token_logps)

    def means(self) -> Tensor:
        """[B] length-normalised log-probability; a response without counted tokens gives 0."""
        return self.sums() / self.lengths.clamp(min=1)

    def to(self, device: torch.device) -> ResponseLogps:
        """The same on another device."""
        return ResponseLogps(
            self.token_logps.to(device), self.lengths.to(device), self.prompt_index.to(device)
        )

    def split(self) -> tuple[Tensor, ...]:
        """B tensors of token log-probabilities."""
        return torch.split(self.token_logps, self.lengths.tolist())


@dataclass(frozen=True)
class Sampling:
    """How to decode.

    `temperature=0` is greedy. `n` samples a prompt; sample k of prompt i draws from its own random stream, so what
    it says does not depend on which prompts share its batch. A stop string ends a sample and is not part of it.
    `top_logprobs` asks for so many of the most probable tokens at every sampled one; it brings `logprobs` along.
    `first` is the number of the first prompt, by which the random streams go where a call has a part of all prompts.
    `grammar` is what the text must be (`coalign.models.grammars`): only tokens that it allows are sampled, out of their
    distribution given that, and a text that nothing can follow ends.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    n: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    grammar: Grammar | None = None
    first: int = 0

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs or self.top_logprobs > 0

    @property
    def rows(self) -> int:
        """Samples of a prompt that are decoded: greedy ones are all the same, so one is."""
        return self.n if self.temperature > 0 else 1


@dataclass(frozen=True)
class Generation:
    """One sample.

    Attributes:
        text: decoded, without special tokens and without the stop string.
        token_ids: the sampled tokens, the end-of-turn token included when it was sampled.
        finish_reason: `stop` (end-of-turn or stop string) or `length`.
        logprobs: for each sampled token its log-probability under the undistorted distribution (temperature 1, no
            truncation), when asked for.
        tokens: with `logprobs`, what each sampled token adds to the text. A part of a character adds nothing, the
            token that completes it adds all of it; a special token is written as it is (`<|im_end|>`).
        top_logprobs: for each sampled token the most probable tokens at its place as (text, log-probability), in
            falling order and under the same distribution as `logprobs`, when asked for.
        n_tokens: sampled tokens, where a back end knows their number but not their ids; else `len(token_ids)`.
    """

    text: str
    token_ids: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] = "stop"
    logprobs: list[float] | None = None
    tokens: list[str] | None = None
    top_logprobs: list[list[tuple[str, float]]] | None = None
    n_tokens: int | None = None

    @property
    def length(self) -> int:
        """Sampled tokens; 0 where the back end does not say (an endpoint that counts several samples together)."""
        return len(self.token_ids) if self.n_tokens is None else self.n_tokens


@dataclass(frozen=True)
class Piece:
    """What a sample grew by while it is made.

    Attributes:
        prompt: index of the prompt.
        sample: index of the sample.
        text: new text, certain to stay: what may yet turn out to be a stop string or half a character is held back.
        generation: the whole sample, with its last piece; None before.
    """

    prompt: int
    sample: int
    text: str
    generation: Generation | None = None


@dataclass(frozen=True)
class GenerationStats:
    """What a call did.

    Attributes:
        prompts: prompts worked on.
        samples: responses sampled.
        prompt_tokens: tokens of those prompts.
        tokens: tokens sampled.
        seconds: wall time.
    """

    prompts: int = 0
    samples: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def samples_per_second(self) -> float:
        return self.samples / self.seconds if self.seconds else 0.0


Made = TypeVar("Made")
"""What stands for one response: a `Generation`, or what a decoder knows of it besides."""
OnBatch = Callable[[dict[int, list[Made]]], None]
"""Gets {prompt index: samples}."""
Prompts = Sequence[Messages | str]
"""Chat messages (rendered through the model's template with the generation prompt) or plain text (taken as it is)."""
Samples = list[list[Generation]]
"""For each prompt its samples, in order."""


class Work(TypedDict, Generic[Made], total=False):
    """How a generator goes through its prompts; every key may be left out.

    Attributes:
        done: indices that need no work (a resumed run); their entry in the result is empty. A batch is worked on whole
            when any of its prompts is missing, so that numbers do not depend on where a run was cut.
        on_batch: called after every batch with {prompt index: samples}; a loop persists rows here.
        label: text of the progress bar.
        part: the indices that this process works on, where others work on the rest; all others are `done`. Batches are
            composed from them alone.
    """

    done: Iterable[int]
    on_batch: OnBatch[Made] | None
    label: str
    part: Sequence[int]


Generating = Work[Generation]


def generating(
    *,
    done: Iterable[int] = (),
    on_batch: OnBatch[Made] | None = None,
    label: str = "Generating",
    part: Sequence[int] = (),
) -> tuple[set[int], OnBatch[Made], str]:
    """What is done, what gets the samples, and the label, of the keys of `Work` that are given."""
    return set(done), on_batch or (lambda _: None), label


def is_prefilled(prompt: Messages | str) -> bool:
    """Whether a prompt ends inside the assistant's turn, which is then to be continued."""
    return not isinstance(prompt, str) and bool(prompt) and prompt[-1]["role"] == "assistant"


def goes_on(prompt: Messages | str) -> bool:
    """Whether the text of a response goes on from the prompt's (plain text, a begun turn), so that a space leads it."""
    return isinstance(prompt, str) or is_prefilled(prompt)


class Generator(Protocol):
    """A generation back end, or a decoding method over one."""

    def generate(self, prompts: Prompts, sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        """Sample `sampling.n` responses to every prompt.

        Args:
            prompts: chat messages (rendered through the model's template with the generation prompt) or plain text
                (taken as it is). When the last message is the assistant's, that turn is continued (prefill): no
                generation prompt, no end of turn, and the text is the continuation alone.
            **how: what is done, what gets the samples, and a label; see `Work`.

        Returns:
            For each prompt its samples, in order.
        """
        ...


class Tokenised(Protocol):
    """A `Generator` that knows what a prompt becomes: a local model, or a method around one."""

    @property
    def context(self) -> int | None:
        """Most tokens of prompt and response together; None when the model does not say."""
        ...

    def encode(self, prompt: Messages | str, index: int = 0) -> list[int]:
        """The tokens that the model gets for a prompt; `index`: its number, for messages."""
        ...


def leaves_room(model: Generator, prompt: Messages | str, tokens: int) -> bool:
    """Whether a prompt leaves so many tokens in the model's context; true where the back end does not say how long that is."""
    context, encode = getattr(model, "context", None), getattr(model, "encode", None)
    return context is None or encode is None or len(encode(prompt)) + tokens <= context


class Streaming(Protocol):
    """A `Generator` that also gives its text while it is made."""

    def stream(self, prompts: Prompts, sampling: Sampling) -> Iterator[Piece]:
        """Sample as `generate` does and yield pieces as they come, the last of every sample with the whole of it.

        The texts of a sample's pieces add up to its text. Closing the iterator ends the work.
        """
        ...
