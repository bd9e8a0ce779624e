"""The loop of an agent: the model says what to call, the calls are run, it sees what they return, until it answers.

GLM-4 All Tools (arXiv 2406.12793, figure 4): analyse, call one or more tools, append the feedback, repeat, then answer. The
number of rounds is bounded; after the last one an answer is asked for without tools.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from coalign.data.records import Message, Messages
from coalign.data.tools.parsing import Parsed, parse_calls
from coalign.models.tools.asking import ToolPrompts
from coalign.models.tools.toolbox import ERROR, Toolbox
from coalign.models.types import Generator, Sampling, leaves_room

Ending = Literal["answer", "steps", "length"]
Tell = Callable[[Message], None]
"""Gets each message as it is made."""
NO_MORE = "\n\nNo more calls are possible. Answer now."
"""Added to the last observation, in the prompt alone, when the rounds are used up."""


@dataclass
class Trajectory:
    """What an agent did with one prompt.

    Attributes:
        messages: after the prompt: the assistant's calls, what they returned (`tool`), and last the assistant's answer.
        ending: `answer`: the model answered by itself; `steps`: it was asked for its answer after the last round; `length`:
            the answer was cut, or the context had no room for another turn.
        tokens: sampled in all turns.
    """

    messages: Messages = field(default_factory=list)
    ending: Ending = "answer"
    tokens: int = 0

    @property
    def answer(self) -> str:
        """The text of the last message."""
        return self.messages[-1]["content"] if self.messages else ""

    @property
    def calls(self) -> list[dict[str, Any]]:
        """All calls, in order."""
        return [call for one in self.messages for call in one.get("tool_calls", ())]


class Agent:
    """A model with tools.

    Args:
        generator: the model; any back end or decoding method.
        toolbox: what it may call.
        max_steps: rounds of calls.
    """

    def __init__(self, generator: Generator, toolbox: Toolbox, *, max_steps: int = 8) -> None:
        self.generator = generator
        self.toolbox = toolbox
        self.max_steps = max_steps
        self.prompts = ToolPrompts(generator)

    def run(
        self, prompts: Sequence[Messages], sampling: Sampling, *, tell: Tell | None = None
    ) -> list[Trajectory]:
        """One trajectory for every prompt; their turns are decoded together, round by round.

        What a tool returns or raises, and a call that cannot be read, is an observation. The same prompts, settings and
        results of tools give the same trajectories.

        Args:
            sampling: of every turn; `n` is not looked at.
            tell: for a single conversation that is followed while it runs.

        Raises:
            DataError: a prompt that the chat template refuses.
        """
        found = [Trajectory() for _ in prompts]
        active = list(range(len(prompts)))
        for step in range(self.max_steps + 1):
            last = step == self.max_steps
            tools = [] if last else self.toolbox.schemas
            given = {place: self._prompt(prompts[place], found[place], tools) for place in active}
            fit = [one for one in active if leaves_room(self.generator, given[one], sampling.max_new_tokens)]
            for place in set(active) - set(fit):
                _add(found[place], {"role": "assistant", "content": ""}, tell)
                found[place].ending = "length"
            if not fit:
                break
            turn = replace(
                sampling,
                n=1,
                seed=sampling.seed + step * 1_000_003,
                stop=tuple(dict.fromkeys((*sampling.stop, *self.prompts.stops()))),
            )
            said = self.generator.generate([given[one] for one in fit], turn, label=f"Turn {step + 1}")
            active = []
            for place, (one, *_) in zip(fit, said, strict=True):
                mine = found[place]
                mine.tokens += one.length
                parsed = parse_calls(one.text, self.toolbox.names)
                if parsed.calls and not last:
                    for message in self._round(parsed, one.text, len(mine.calls)):
                        _add(mine, message, tell)
                    active.append(place)
                    continue
                _add(mine, {"role": "assistant", "content": parsed.content}, tell)
                mine.ending = "length" if one.finish_reason == "length" else "steps" if last else "answer"
        return found

    def _prompt(self, prompt: Messages, mine: Trajectory, tools: Sequence[Any]) -> Messages | str:
        messages = [*prompt, *mine.messages]
        if not tools and mine.messages:
            messages[-1] = cast(Message, {**messages[-1], "content": messages[-1]["content"] + NO_MORE})
        return self.prompts.prompt(messages, tools)

    def _round(self, parsed: Parsed, text: str, earlier: int) -> Messages:
        """The assistant's message and what its calls return. Where one cannot be read, none is run: the model sees why."""
        unreadable = [call.problem for call in parsed.calls if call.arguments is None]
        if unreadable:
            problem = f"{ERROR}{'; '.join(map(str, unreadable))}. Nothing was run."
            return [{"role": "assistant", "content": text.strip()}, {"role": "tool", "content": problem}]
        # nine letters and digits, which Mistral's templates insist on
        names = [f"call{earlier + place:05d}" for place in range(len(parsed.calls))]
        calls = [one.message(name) for one, name in zip(parsed.calls, names, strict=True)]
        said = {"role": "assistant", "content": parsed.content, "tool_calls": calls}
        results = [
            {"role": "tool", "content": result, "name": call.name, "tool_call_id": name}
            for call, name, result in zip(parsed.calls, names, self.toolbox.answer(parsed.calls), strict=True)
        ]
        return cast(Messages, [said, *results])


def _add(trajectory: Trajectory, message: Message, tell: Tell | None) -> None:
    trajectory.messages.append(message)
    if tell is not None:
        tell(message)
