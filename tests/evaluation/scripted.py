"""Back ends that answer by a script: judges are tested without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from coalign.judging.protocol import JudgeItem
from coalign.models.types import Generating, Generation, Prompts, Samples, Sampling, generating


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


def longer_is_better(prompt: str) -> str:
    first, second = shown(prompt)
    return "I compared them.\n[[A]]" if len(first) > len(second) else "[[B]]"


class ScriptedGenerator:
    """Answers each prompt by a function of its text, in batches; keeps what it was asked, and how.

    Args:
        answer: text of the prompt to text of the reply.
        kill_after: raise when so many prompts were answered.
    """

    def __init__(
        self,
        answer: Callable[[str], str],
        *,
        batch: int = 2,
        kill_after: int | None = None,
        finish_reason: str = "stop",
        odds: Callable[[str], list[tuple[str, float]]] | None = None,
    ) -> None:
        self.asked: list[str] = []
        self.samplings: list[Sampling] = []
        self.answer, self._batch, self._kill_after = answer, batch, kill_after
        self._finish_reason = finish_reason
        self._odds = odds

    def generate(self, prompts: Prompts, sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        done, on_batch, _ = generating(**how)
        self.samplings.append(sampling)
        missing = [index for index in range(len(prompts)) if index not in done]
        results: list[list[Generation]] = [[] for _ in prompts]
        for start in range(0, len(missing), self._batch):
            if self._kill_after is not None and len(self.asked) >= self._kill_after:
                raise KilledError
            batch = {}
            for index in missing[start : start + self._batch]:
                prompt = prompts[index]
                text = prompt if isinstance(prompt, str) else "\n".join(one["content"] for one in prompt)
                self.asked.append(text)
                reply = self.answer(text)
                top = [self._odds(text)] if self._odds else None
                more: Any = {"finish_reason": self._finish_reason, "top_logprobs": top}
                batch[index] = [Generation(reply, n_tokens=len(reply.split()), **more)] * sampling.n
                results[index] = batch[index]
            on_batch(batch)
        return results


def item(*responses: str, id: str = "i", question: str = "Why?", **more: Any) -> JudgeItem:
    return JudgeItem(id=id, prompt=[{"role": "user", "content": question}], responses=responses, **more)


def shown(prompt: str) -> tuple[str, str]:
    """The two answers as the shipped template shows them."""
    found = []
    for letter in "AB":
        start = prompt.index(f"<<answer {letter} ")
        start = prompt.index(">>\n", start) + 3
        found.append(prompt[start : prompt.index(f"\n<<end of answer {letter} ", start)])
    return found[0], found[1]
