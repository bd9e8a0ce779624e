"""`coalign chat`: talk to a model, a decoding method or an endpoint, alone or beside another."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from annotated_types import Gt, Le

from coalign.cli.flags import command, method_values_of, with_methods
from coalign.core.errors import CoalignError, ConfigError
from coalign.core.options import Count, NonNegative, Seed, option
from coalign.models.backends.options import BackendOptions
from coalign.models.generation.prefix_cache.options import PromptCacheOptions, keep_prompts
from coalign.models.options import ModelOptions
from coalign.models.tools.options import ToolOptions

if TYPE_CHECKING:
    from coalign.data.media.pictures import Picture
    from coalign.data.records import Message, Messages
    from coalign.models.tools.agent import Agent
    from coalign.models.tools.toolbox import Toolbox
    from coalign.models.types import Generator, Sampling

Write = Callable[[str], None]
HELP = "/image FILE shows a picture with the next message, /reset forgets the conversation, /exit leaves"
NARROW = 70
"""Columns of a terminal below which two answers stand below each other."""


@dataclass(kw_only=True)
class Request(ModelOptions, BackendOptions, PromptCacheOptions, ToolOptions):
    """Who talks, and how."""

    __group__ = "General"

    compare: str | None = option(
        None, "answer with a second model too; base: before the run, or without the method"
    )
    system: str = option("", "system message; by default the model's own")
    max_new_tokens: Count = option(256, "most tokens of an answer")
    temperature: NonNegative = option(0.7, "0 takes the likeliest token")
    top_p: Annotated[float, Gt(0), Le(1)] = option(0.95, "nucleus of the sampling")
    seed: Seed = option(0, "seed of the sampling")
    image: list[str] = option(
        [],
        "file of a picture that is shown with the first message; may be given several times",
        split=False,
    )


@command(Request)
@click.argument("model", metavar="[MODEL|RUN]", required=False)
@with_methods("--method", "--align")
def chat(asked: Request, methods: tuple[str, ...], method_values: tuple[str, ...]) -> None:
    """Talk to a model: `default`, a hub id, a model folder or a run folder; or to an endpoint's.

    Reads lines from standard input when that is not a terminal, one message a line. Image-text-to-text models and
    endpoints are shown pictures with --image FILE or /image FILE.
    """
    values = method_values_of(methods, method_values)
    toolbox = asked.open_tools() if asked.tools else None
    speakers = [
        Speaker(
            label,
            generator,
            asked.system,
            place,
            asked.seed,
            agent=_agent(generator, toolbox, asked.max_steps),
        )
        for label, generator, place in open_speakers(asked, methods, values)
    ]

    for line in keep_prompts(asked, [one.generator for one in speakers])[1]:
        click.echo(line, err=True)

    from coalign.models.types import Sampling

    sampling = Sampling(asked.max_new_tokens, asked.temperature, asked.top_p)
    interactive = sys.stdin.isatty()
    shown = [opened_picture(one) for one in asked.image]
    if interactive:
        click.echo(f"{' and '.join(one.label for one in speakers)}. {HELP}.", err=True)
    for line in lines(interactive):
        if line == "/exit":
            return
        if line == "/reset":
            for one in speakers:
                one.reset()
            click.echo("The conversation was forgotten.", err=True)
        elif line.startswith("/image "):
            shown += _picture_of(line.removeprefix("/image").strip(), interactive)
        elif line.startswith("/"):
            click.echo(f"Unknown command {line.split()[0]}: {HELP}.", err=True)
        elif line and len(speakers) > 1 and _has_room():
            _answer_in_columns(speakers, line, sampling, shown)
            shown = []
        elif line:
            _answer(speakers, line, sampling, shown)
            shown = []


def opened_picture(name: str) -> Picture:
    """The picture of a file, which is decoded once to see that it can be shown.

    Raises:
        MediaError: it cannot.
    """
    from coalign.data.media.pictures import Picture

    found = Picture(name)
    found.open()
    return found


def _picture_of(name: str, interactive: bool) -> list[Picture]:
    """The picture, or none where it cannot be shown, which ends a conversation that is read from a file."""
    try:
        return [opened_picture(name)]
    except CoalignError as error:
        if not interactive:
            raise
        click.echo(str(error), err=True)
        return []


def _agent(generator: Generator, toolbox: Toolbox | None, max_steps: int) -> Agent | None:
    if toolbox is None:
        return None
    from coalign.models.tools.agent import Agent

    agent = Agent(generator, toolbox, max_steps=max_steps)
    click.echo(f"With {', '.join(toolbox.names)}: {agent.prompts.description}.", err=True)
    return agent


def _answer(speakers: list[Speaker], line: str, sampling: Sampling, shown: Sequence[Picture]) -> None:
    for one in speakers:
        if len(speakers) > 1:
            click.echo(click.style(f"{one.label}:", bold=True))
        problem = _reply(one, line, sampling, lambda text: click.echo(text, nl=False), shown)
        if problem:
            click.echo(problem, err=True, nl=False)
        click.echo()
        one.settle()
    if len(speakers) > 1:
        click.echo()


def _answer_in_columns(
    speakers: list[Speaker], line: str, sampling: Sampling, shown: Sequence[Picture]
) -> None:
    """Answers side by side, growing as they come."""
    from rich.console import Console
    from rich.live import Live

    said = ["" for _ in speakers]
    with Live(_columns(speakers, said), console=Console(), refresh_per_second=12) as live:
        live.vertical_overflow = "visible"
        for place, one in enumerate(speakers):

            def write(text: str, place: int = place) -> None:
                said[place] += text
                live.update(_columns(speakers, said))

            write(_reply(one, line, sampling, write, shown) or "")
    for one in speakers:
        one.settle()


def _columns(speakers: list[Speaker], said: list[str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, expand=True, padding=(0, 2, 1, 0))
    for one in speakers:
        table.add_column(Text(one.label, style="bold"), ratio=1, overflow="fold")
    table.add_row(*(Text(text.strip()) for text in said))
    return table


def _reply(one: Speaker, line: str, sampling: Sampling, write: Write, shown: Sequence[Picture]) -> str | None:
    """Let a speaker answer. In a terminal an error or Ctrl-C does not end the conversation: what to say of it."""
    try:
        one.reply(line, sampling, write, shown)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        return " (stopped)"
    except CoalignError as error:
        if not sys.stdin.isatty():
            raise
        return str(error)
    return None


def _has_room() -> bool:
    import shutil

    return sys.stdout.isatty() and shutil.get_terminal_size().columns >= NARROW


def lines(interactive: bool) -> Iterator[str]:
    """What the user says, stripped. Ends at the end of input, or in a terminal at Ctrl-C."""
    if not interactive:
        yield from (line.strip() for line in sys.stdin)
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  editing and history of `input`
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        yield line.strip()


@dataclass
class Speaker:
    """One model in a conversation, with its own history and random stream.

    Attributes:
        place: gives the context in which the model answers (its adapter switched off).
        seed: of the random stream, which starts again at `reset`.
        agent: lets the model call tools.
    """

    label: str
    generator: Generator
    system: str | None = None
    place: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    seed: int = 0
    messages: Messages = field(default_factory=list)
    turns: int = 0
    agent: Agent | None = None

    def __post_init__(self) -> None:
        tokenizer = getattr(self.generator, "tokenizer", None)
        self._plain = tokenizer is not None and not tokenizer.chat_template
        if self.system and self._plain:
            raise ConfigError(f"--system: {self.label} has no chat template, so it takes no system message.")

    def reset(self) -> None:
        self.messages, self.turns = [], 0

    def settle(self) -> None:
        """What the generator has to say once an answer stands."""
        settle = getattr(self.generator, "settle", None)
        if settle is not None:
            settle()

    def reply(self, text: str, sampling: Sampling, write: Write, shown: Sequence[Picture] = ()) -> str:
        """Answer `text` and the pictures before it, streaming to `write`, and remember all.

        Without a chat template the text is continued as it is, and nothing is remembered. The oldest turns are
        dropped, with a notice, when the conversation does not fit the model's context.

        Raises:
            ConfigError: pictures without a chat template, or a message that does not fit.
            PromptError: pictures for a model of text alone.
        """
        from coalign.data.media.conversations import MARK, showing

        if shown and self._plain:
            raise ConfigError(f"{self.label} has no chat template, so it is shown no picture.")
        if self.agent is not None:
            if shown:
                raise ConfigError("Pictures do not go with --tools.")
            return self._reply_with_tools(self.agent, text, sampling, write)
        new = showing([{"role": "user", "content": MARK * len(shown) + text}], shown)
        said = [] if self._plain else [*self.messages, *new]
        said, prompt = self._fitting(said, text, sampling.max_new_tokens)
        sampling = replace(sampling, seed=self.seed + self.turns)
        self.turns += 1
        pieces: list[str] = []
        with self.place():
            for piece in pieces_of(self.generator, prompt, sampling):
                pieces.append(piece)
                write(piece)
        answer = "".join(pieces).strip()
        if said:
            self.messages = [*said, {"role": "assistant", "content": answer}]
        return answer

    def _reply_with_tools(self, agent: Agent, text: str, sampling: Sampling, write: Write) -> str:
        """Answer `text` by a loop of calls, each told as it comes, and remember all of it."""

        def tell(message: Message) -> None:
            if message["role"] == "tool":
                write(f"  = {_indented(message['content'])}\n")
                return
            calls = message.get("tool_calls")
            write(f"{message['content']}\n" if calls and message["content"] else message["content"])
            for call in calls or ():
                given = json.dumps(call["function"]["arguments"], ensure_ascii=False)
                write(f"  > {call['function']['name']} {_indented(given)}\n")

        head: Any = [{"role": "system", "content": self.system}] if self.system else []
        said: list[Any] = [*self.messages, {"role": "user", "content": text}]
        sampling = replace(sampling, seed=self.seed + self.turns)
        self.turns += 1
        with self.place():
            (found,) = agent.run([[*head, *said]], sampling, tell=tell)
        if found.ending == "length" and not found.answer:
            write("(the context has no room for another turn: /reset forgets the conversation)")
        self.messages = [*said, *found.messages]
        return found.answer

    def _fitting(self, said: Messages, text: str, room: int) -> tuple[Messages, Any]:
        from coalign.models.generation.generator import TransformersGenerator

        head = [{"role": "system", "content": self.system}] if self.system else []
        generator = self.generator
        limit = generator.context if isinstance(generator, TransformersGenerator) else None
        dropped = 0
        while True:
            prompt: Any = [*head, *said] if said else text
            length = generator.encode_seen(prompt)[0] if isinstance(generator, TransformersGenerator) else []
            if limit is None or len(length) + room <= limit:
                break
            if len(said) < 3:
                raise ConfigError(
                    f"The message has {len(length)} tokens; with --max-new-tokens {room} the model has room for "
                    f"{max(limit - room, 0)}."
                )
            said, dropped = said[2:], dropped + 1
        if dropped:
            click.echo(f"({self.label}: context full, the oldest {dropped} turns were dropped)", err=True)
        return said, prompt


def _indented(text: str) -> str:
    return text.strip().replace("\n", "\n    ")


def pieces_of(generator: Any, prompt: Any, sampling: Sampling) -> Iterator[str]:
    """The text of one sample as it comes; at once where the generator has no streams."""
    if not hasattr(generator, "stream"):
        yield generator.generate([prompt], sampling)[0][0].text
        return
    for piece in generator.stream([prompt], sampling):
        if piece.text:
            yield piece.text


Opened = tuple[str, Any, Callable[[], contextlib.AbstractContextManager[Any]]]


def open_speakers(which: Request, methods: Sequence[str], values: dict[str, Any]) -> list[Opened]:
    """(label, generator, context to answer in) of the model, after those of the one to compare it with.

    Raises:
        ConfigError: `--compare base` for a model that has no base: neither an adapter nor the result of a run.
        ModelError: a model cannot be loaded.
    """
    from coalign.models.methods import open_methods

    compare, backend = which.compare, which.chosen_backend
    if compare == "base" and not methods and backend == "transformers":
        pair = _base_and_adapter(which)
        if pair:
            return pair
        compare = _base_of_run(which.model)
        return [_plain(which, compare, "base"), _plain(which, which.model)]
    if backend == "endpoint":
        which = replace(which, model="endpoint")
    if compare == "base" and not methods:
        raise ConfigError(f"--compare base: not with --backend {backend}.", hint="Name a model to load.")
    generator = open_methods(methods, values, which)
    label = "+".join([getattr(generator, "description", which.model), *methods])
    first: Opened = (label, generator, contextlib.nullcontext)
    _announce(generator, label)
    if compare is None:
        return [first]
    if compare == "base":
        plain = open_methods([], {}, which)
        return [("base", plain, contextlib.nullcontext), first]
    return [_plain(which, compare), first]


def _base_and_adapter(which: ModelOptions) -> list[Opened] | None:
    """Both sides of an adapter over one copy of the weights; None where there is no adapter."""
    from coalign.models.adapters import disabled_adapter, has_adapter
    from coalign.models.files.loading import load_model, load_tokenizer
    from coalign.models.files.places import locate
    from coalign.models.generation.generator import TransformersGenerator

    if not locate(which.model, which.revision).is_adapter:
        return None
    model = load_model(which, training=False)
    assert has_adapter(model)
    tokenizer = load_tokenizer(which)
    generator = TransformersGenerator(model, tokenizer)
    _announce(generator, which.model)
    return [
        ("base", generator, lambda: disabled_adapter(model)),
        (which.model, generator, contextlib.nullcontext),
    ]


def _plain(which: ModelOptions, name: str, label: str | None = None) -> Opened:
    from coalign.models.backends.open import open_transformers

    generator = open_transformers(which if name == which.model else which.at(name))
    _announce(generator, name)
    return (label or name, generator, contextlib.nullcontext)


def _announce(generator: Generator, name: str) -> None:
    from coalign.models.backends.open import describe_generator

    click.echo(describe_generator(generator, name), err=True)


def _base_of_run(name: str) -> str:
    from coalign.core.runs import Run

    path = Path(name)
    base = Run.open(path).config().get("model") if (path / "status.json").is_file() else None
    if not base:
        raise ConfigError(
            f"--compare base: {name} is neither an adapter nor a run, so its base is unknown.",
            hint="Name the other model: --compare MODEL.",
        )
    return str(base)
