"""Rewards that are functions of the user: those written for TRL's trainers work as they are."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from coalign.core.errors import CoalignError, ConfigError, in_one_line
from coalign.core.own_code import load_code

if TYPE_CHECKING:
    from coalign.data.records import Record
    from coalign.judging.rewards.mix import Draft

Function = Callable[..., Sequence[float | None]]


@dataclass(frozen=True)
class FunctionReward:
    """The numbers that a function gives.

    It is called with what it has parameters for: `prompts` and `completions` as TRL gives them (texts where the
    file has text, lists of messages where it has conversations), and each further column of the prompts by its name, as a list. It
    returns a number a completion, None for one that it cannot score. Where it raises an error it is asked for each
    completion alone, and those at which it fails again cannot be scored.

    Attributes:
        function: the function.
        name: what reports call it.
        columns: the prompts by their numbers, where they are read from a file.

    Raises (when called):
        CoalignError: it fails at every completion, or returns something else.
    """

    function: Function
    name: str
    columns: Mapping[int, Record] = field(default_factory=dict)

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        try:
            return self._called(drafts)
        except CoalignError:
            raise
        except Exception as error:
            found = [self._alone(one) for one in drafts] if len(drafts) > 1 else [math.nan]
            if all(map(math.isnan, found)):
                raise CoalignError(f"The reward {self.name} fails: {in_one_line(error)}") from error
            return found

    def _alone(self, draft: Draft) -> float:
        try:
            return self._called([draft])[0]
        except Exception:
            return math.nan

    def _called(self, drafts: Sequence[Draft]) -> list[float]:
        prompts, completions = zip(*map(self._as_in_the_file, drafts), strict=True)
        known = {**self._columns(drafts), "prompts": list(prompts), "completions": list(completions)}
        wanted = inspect.signature(self.function).parameters.values()
        if not any(one.kind is one.VAR_KEYWORD for one in wanted):
            known = {one.name: known[one.name] for one in wanted if one.name in known}
        found: Any = self.function(**known)
        if not isinstance(found, Sequence) and hasattr(found, "tolist"):
            found = found.tolist()  # an array or a tensor
        if not isinstance(found, Sequence) or len(found) != len(drafts):
            raise CoalignError(
                f"The reward {self.name} returned {_shown(found)} for {len(drafts)} completions."
            )
        return [self._number(one) for one in found]

    def _as_in_the_file(self, draft: Draft) -> tuple[Any, Any]:
        """Prompt and completion: texts where the file has a text as prompt, though the model is shown a conversation."""
        record = self.columns.get(draft.index)
        if isinstance(draft.prompt, str) or (record is not None and record.plain and len(draft.prompt) == 1):
            return draft.question, draft.text
        return draft.prompt, [{"role": "assistant", "content": draft.text}]

    def _columns(self, drafts: Sequence[Draft]) -> dict[str, list[Any]]:
        """Those that every prompt may have, None where one has not."""
        rows = [self.columns[one.index].extra if one.index in self.columns else {} for one in drafts]
        return {name: [row.get(name) for row in rows] for row in rows for name in row}

    def _number(self, value: Any) -> float:
        if value is None:
            return math.nan
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise CoalignError(
                f"The reward {self.name} returned {value!r}, expected a number or None."
            ) from error


def load_function(code: str) -> Function:
    """The function that `file.py:name` names.

    Raises:
        ConfigError: it cannot be imported, or is no function that takes `completions`.
    """
    found = load_code(code, "reward")
    taken = inspect.signature(found).parameters if callable(found) else {}
    if "completions" not in taken and not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        raise ConfigError(
            f"reward: {code} is not a reward, expected a function of `completions` (and `prompts`, and columns of "
            "the prompts) that returns a number for each."
        )
    return cast(Function, found)


def _shown(found: Any) -> str:
    return f"{len(found)} values" if isinstance(found, Sequence) else type(found).__name__
