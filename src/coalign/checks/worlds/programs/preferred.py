"""A world of small Python functions that are written under a preference: real code of few words, which is parsed and run.

A prompt is a preference, two operations and a number: a function of x and y that comes to (x op y) op number. A response is a
function, word by word, with telling or short names, with or without a docstring and a comment, in one step or two, with needless
parentheses or without; it may be wrong or no Python. Each preference likes some of that. Answers come from sources of different
skill: how often they follow the preference, and how often they are right.
"""

from __future__ import annotations

import ast
import functools
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from coalign.checks.arms import Measures
from coalign.checks.starts import pretrained
from coalign.checks.steps import example
from coalign.checks.tiny_models import TinyGRU, sample, seeded, stream
from coalign.measures.texts.source_code import parse_python
from coalign.training.batches import Example

PREFERENCES = ("instruction-following", "readability", "complexity", "style", "explanation")
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    " + ": lambda x, y: x + y,
    " - ": lambda x, y: x - y,
    " * ": lambda x, y: x * y,
}
NUMBERS = ("2", "3", "4", "5", "6")
SHORT, TELLING = (
    ("def f(a, b):\n", "a", "b", "r"),
    ("def combine(first, second):\n", "first", "second", "result"),
)
DOCSTRING, COMMENT = '    """Combine two numbers."""\n', "    # Both first, then the number.\n"
RETURN, BE, OPEN, CLOSE, LINE, END = "    return ", " = ", "(", ")", "\n", "<end>"
WORDS = (
    *SHORT, *TELLING, DOCSTRING, COMMENT, "    ", RETURN, BE, OPEN, CLOSE, LINE, *OPERATIONS, *NUMBERS, END,
)  # fmt: skip
PROMPT = (
    "<pad>",
    *PREFERENCES,
    *(f"first{one}" for one in OPERATIONS),
    *(f"then{one}" for one in OPERATIONS),
    *(f"number {one}" for one in NUMBERS),
)
VOCABULARY = (*PROMPT, *WORDS)
TOKENS = {word: token for token, word in enumerate(VOCABULARY)}
LONGEST = 24
INPUTS = ((0, 1), (2, 3), (5, 2), (-4, 7), (9, 9))


@dataclass(frozen=True)
class Task:
    """What is asked for."""

    preference: str
    first: str
    then: str
    number: str

    @property
    def prompt(self) -> list[int]:
        names = (self.preference, f"first{self.first}", f"then{self.then}", f"number {self.number}")
        return [TOKENS[one] for one in names]

    def value(self, x: int, y: int) -> int:
        return OPERATIONS[self.then](OPERATIONS[self.first](x, y), int(self.number))


@dataclass(frozen=True)
class Source:
    """Who writes.

    Attributes:
        follows: share of programs in the style that the preference likes; the others are in any style.
        right: share of programs that are right; half of the others are no Python.
    """

    name: str
    follows: float
    right: float


@dataclass
class Style:
    """How a program is written."""

    telling: bool
    docstring: bool
    comment: bool
    steps: bool
    needless: bool


LIKED: dict[str, dict[str, bool]] = {
    "instruction-following": {},
    "readability": {"telling": True, "comment": True, "steps": True},
    "complexity": {"steps": False, "needless": False},
    "style": {"telling": True, "docstring": True, "needless": False},
    "explanation": {"docstring": True, "comment": True},
}


def write(task: Task, source: Source, draw: random.Random) -> list[int]:
    """A program of a source, token ids with the end."""
    style = Style(*(draw.random() < share for share in (0.3, 0.2, 0.2, 0.5, 0.3)))
    if draw.random() < source.follows:
        for name, value in LIKED[task.preference].items():
            setattr(style, name, value)
    first, then, number = task.first, task.then, task.number
    broken = False
    if draw.random() >= source.right:
        broken = draw.random() < 0.5
        if not broken:
            first, then = draw.choice(
                [one for one in itertools.product(OPERATIONS, repeat=2) if one != (first, then)]
            )
    words = _words(style, first, then, number)
    if broken:
        del words[
            draw.choice([place for place, one in enumerate(words) if one in (*OPERATIONS, OPEN, CLOSE, LINE)])
        ]
    return [TOKENS[one] for one in (*words, END)]


def _words(style: Style, first: str, then: str, number: str) -> list[str]:
    head, x, y, kept = TELLING if style.telling else SHORT
    words = [head, *([DOCSTRING] if style.docstring else []), *([COMMENT] if style.comment else [])]
    inner = [OPEN, x, first, y, CLOSE] if style.needless or not style.steps else [x, first, y]
    if style.steps:
        return [*words, "    ", kept, BE, *inner, LINE, RETURN, kept, then, number, LINE]
    inner = [OPEN, *inner, CLOSE] if style.needless else inner
    return [*words, RETURN, *inner, then, number, LINE]


def text_of(tokens: Sequence[int]) -> str:
    """The program as text, up to its end."""
    words = [VOCABULARY[one] for one in tokens]
    return "".join(words[: words.index(END)] if END in words else words)


@functools.lru_cache(maxsize=65_536)
def is_right(code: str, task: Task) -> bool:
    """Whether a program comes to what is asked for. Its words are those of this world: it is run as it is, without names but its
    own.
    """
    if parse_python(code) is None:
        return False
    space: dict[str, Any] = {"__builtins__": {}}
    try:
        exec(code, space)
        (function,) = (one for one in space.values() if callable(one))
        return all(function(x, y) == task.value(x, y) for x, y in INPUTS)
    except Exception:
        return False


def rating(code: str, task: Task) -> int:
    """1 to 5: what a judge without mistakes gives a program under the task's preference."""
    tree = parse_python(code)
    functions = [one for one in tree.body if isinstance(one, ast.FunctionDef)] if tree else []
    if not functions:
        return 1
    function = functions[0]
    docstring, comment = ast.get_docstring(function) is not None, "#" in code
    telling = all(len(one.arg) > 3 for one in function.args.args)
    steps = sum(not isinstance(one, ast.Expr) for one in function.body) > 1
    # the parentheses of the only step are needed
    needless = code.replace(SHORT[0], "").replace(TELLING[0], "").count(OPEN) > (0 if steps else 1)
    points = {
        "instruction-following": 4 * is_right(code, task),
        "readability": 2 * telling + comment + steps,
        "complexity": 2 * (not steps) + 2 * (not needless),
        "style": 2 * docstring + telling + (not needless),
        "explanation": 2 * docstring + 2 * comment,
    }
    return 1 + int(points[task.preference])


@dataclass(frozen=True)
class ProgramWorld:
    """Tasks, programs and a judge, drawn from a seed.

    Attributes:
        off: how often the judge is one off; it says N/A and writes what cannot be read in `unclear` of its ratings and replies.
        temperature: of every sample.
    """

    seed: int
    off: float = 0.3
    unclear: float = 0.02
    temperature: float = 0.8
    vocabulary: int = field(default=len(VOCABULARY), init=False)

    def draw(self, purpose: str) -> random.Random:
        return random.Random(f"{self.seed}/{purpose}")

    def tasks(self, n: int, purpose: str) -> list[Task]:
        """`n` tasks, each preference equally often."""
        draw = self.draw(f"tasks/{purpose}")
        names = [*OPERATIONS]
        return [
            Task(PREFERENCES[place % 5], draw.choice(names), draw.choice(names), draw.choice(NUMBERS))
            for place in range(n)
        ]

    def demonstrations(self, n: int, source: Source, purpose: str) -> list[Example]:
        """`n` tasks with a program each."""
        draw = self.draw(f"programs/{purpose}")
        return [example(one.prompt, [write(one, source, draw)]) for one in self.tasks(n, purpose)]

    def model(self, rows: int, source: Source, epochs: int) -> nn.Module:
        """A two-layer GRU of width 96 that has learned to write as a source does."""
        model = seeded(lambda: TinyGRU(self.vocabulary, width=96, layers=2), self.seed)
        shown = self.demonstrations(rows, source, "base")
        return pretrained(model, shown, self.seed, steps=epochs * rows // 32, batch_size=32)

    def reply(self, task: Task, codes: Sequence[str], draw: random.Random) -> str:
        """What the judge writes about several programs, in the order in which it is shown them."""
        if draw.random() < self.unclear:
            return "All of these programs have their merits."
        blocks = []
        for place, code in enumerate(codes, start=1):
            shift = draw.choice((-1, 1)) if draw.random() < self.off else 0
            said: int | str = min(5, max(1, rating(code, task) + shift))
            said = "N/A" if draw.random() < self.unclear else said
            blocks.append(f"#### Answer {place}\nRating: {said}\nRationale: as it is written.")
        return "\n\n".join(blocks)

    def measure(self, model: nn.Module, tasks: int = 400) -> Measures:
        """Of one program for each of the held-out tasks: the mean of the preferences' mean ratings by a judge without mistakes, the share
        that is right (pass@1), the share that is no Python.
        """
        from coalign.curation.code.benchmark import preference_scores

        asked = self.tasks(tasks, "evaluation")
        drawn = sample(
            model,
            [one.prompt for one in asked],
            stream(self.seed, "evaluation"),
            n=1,
            max_new_tokens=LONGEST,
            temperature=self.temperature,
            end=TOKENS[END],
        )
        codes = [text_of(row[0]) for row in drawn]
        ratings = [rating(code, one) for code, one in zip(codes, asked, strict=True)]
        names = [one.preference for one in asked]
        by_name, score = preference_scores(ratings, names)
        return {
            "score": score,
            "pass@1": sum(map(is_right, codes, asked)) / tasks,
            "no Python": sum(parse_python(one) is None for one in codes) / tasks,
            **{f"score, {name}": one for name, one in by_name.items()},
        }


def as_examples(pairs: Sequence[Mapping[str, Any]]) -> list[Example]:
    """Pairs of token ids under `prompt`, `chosen` and `rejected`."""
    return [example(one["prompt"], [one["chosen"], one["rejected"]], [1.0, 0.0]) for one in pairs]
