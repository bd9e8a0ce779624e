"""`coalign chat`: talk to a model or a run's result, alone or beside its base."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from coalign.core.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Write = Callable[[str], None]
HELP = "/reset forgets the conversation, /exit leaves"


@click.command()
@click.argument("model", metavar="MODEL|RUN", default="default")
@click.option("--compare", metavar="base|MODEL", help="Answer with a second model too; base: before the run.")
@click.option("--system", help="System message; by default the model's own.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.7,
    show_default=True,
    help="0 takes the likeliest token.",
)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.95, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
def chat(
    model: str,
    compare: str | None,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    device: str,
) -> None:
    """Talk to a model: `default`, a hub id, a model folder or a run folder.

    Reads lines from standard input when that is not a terminal, one message a line.
    """
    sampling: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": temperature > 0}
    if temperature > 0:
        sampling |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
    speakers = load_speakers(model, compare, system, device, seed)
    interactive = sys.stdin.isatty()
    if interactive:
        click.echo(f"{' and '.join(one.label for one in speakers)}. {HELP}.", err=True)
    for line in lines(interactive):
        if line == "/exit":
            return
        if line == "/reset":
            for one in speakers:
                one.reset()
            click.echo("The conversation was forgotten.", err=True)
        elif line.startswith("/"):
            click.echo(f"Unknown command {line.split()[0]}: {HELP}.", err=True)
        elif line:
            _answer(speakers, line, sampling)


def _answer(speakers: list[Speaker], line: str, sampling: dict[str, Any]) -> None:
    for one in speakers:
        if len(speakers) > 1:
            click.echo(click.style(f"{one.label}:", bold=True))
        try:
            one.reply(line, sampling, lambda text: click.echo(text, nl=False))
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            click.echo(" (stopped)", nl=False)
        except ConfigError as error:  # too long a message should not end a conversation
            if not sys.stdin.isatty():
                raise
            click.echo(str(error), err=True, nl=False)
        click.echo()
    if len(speakers) > 1:
        click.echo()


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
        as_base: answer with the adapter switched off.
        seed: of the random stream, which starts again at `reset`.
    """

    label: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    system: str | None = None
    as_base: bool = False
    seed: int = 0
    messages: list[dict[str, str]] = field(default_factory=list)
    turns: int = 0

    def __post_init__(self) -> None:
        if self.system and not self.tokenizer.chat_template:
            raise ConfigError(f"--system: {self.label} has no chat template, so it takes no system message.")

    def reset(self) -> None:
        self.messages, self.turns = [], 0

    def reply(self, text: str, sampling: dict[str, Any], write: Write) -> str:
        """Answer `text`, streaming to `write`, and remember both.

        Without a chat template the text is continued as it is, and nothing is remembered. The oldest turns are
        dropped, with a notice, when the conversation does not fit the model's context.
        """
        import torch

        from coalign.models.adapters import disabled_adapter

        said = [*self.messages, {"role": "user", "content": text}] if self.tokenizer.chat_template else []
        said, ids = self._fitting(said, text, sampling["max_new_tokens"])
        inputs = torch.tensor([ids], device=self.model.device)
        pieces: list[str] = []

        def take(piece: str) -> None:
            pieces.append(piece)
            write(piece)

        torch.manual_seed(self.seed + self.turns)
        self.turns += 1
        with torch.no_grad(), disabled_adapter(self.model) if self.as_base else contextlib.nullcontext():
            cast(Any, self.model).generate(
                inputs=inputs,
                attention_mask=torch.ones_like(inputs),
                pad_token_id=self.tokenizer.pad_token_id,
                streamer=_streamer(self.tokenizer, take),
                **sampling,
            )
        answer = "".join(pieces).strip()
        if said:
            self.messages = [*said, {"role": "assistant", "content": answer}]
        return answer

    def _fitting(
        self, said: list[dict[str, str]], text: str, room: int
    ) -> tuple[list[dict[str, str]], list[int]]:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        dropped = 0
        while True:
            ids = self._ids(said, text)
            if limit is None or len(ids) + room <= limit:
                break
            if len(said) < 3:
                raise ConfigError(
                    f"The message has {len(ids)} tokens; with --max-new-tokens {room} the model has room for "
                    f"{max(limit - room, 0)}."
                )
            said, dropped = said[2:], dropped + 1
        if dropped:
            click.echo(f"({self.label}: context full, the oldest {dropped} turns were dropped)", err=True)
        return said, ids

    def _ids(self, said: list[dict[str, str]], text: str) -> list[int]:
        if not said:
            return list(self.tokenizer(text)["input_ids"])  # type: ignore[arg-type]
        head = [{"role": "system", "content": self.system}] if self.system else []
        rendered = self.tokenizer.apply_chat_template(
            [*head, *said], add_generation_prompt=True, tokenize=False
        )
        return list(self.tokenizer(str(rendered), add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]


def _streamer(tokenizer: PreTrainedTokenizerBase, take: Write) -> Any:
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            take(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)  # type: ignore[arg-type]


def load_speakers(
    name: str, compare: str | None, system: str | None, device: str, seed: int = 0
) -> list[Speaker]:
    """The model, and the one to compare it with.

    Raises:
        ConfigError: `--compare base` for a model that has no base: neither an adapter nor the result of a run.
        ModelError: a model cannot be loaded.
    """
    from coalign.models.adapters import has_adapter
    from coalign.models.devices import describe_device

    first = _load(name, device, system, seed)
    click.echo(f"{name} on {describe_device(first.model.device, first.model.dtype)}", err=True)
    if compare is None:
        return [first]
    if compare == "base" and has_adapter(first.model):
        return [Speaker("base", first.model, first.tokenizer, system, as_base=True, seed=seed), first]
    if compare == "base":
        return [_load(_base_of_run(name), device, system, seed, label="base"), first]
    return [_load(compare, device, system, seed), first]


def _load(name: str, device: str, system: str | None, seed: int, label: str | None = None) -> Speaker:
    from coalign.models.loading import load_model, load_tokenizer
    from coalign.models.options import ModelOptions

    tokenizer = load_tokenizer(name)
    model = load_model(ModelOptions(model=name, device=device), training=False)
    return Speaker(label or name, model, tokenizer, system, seed=seed)


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
