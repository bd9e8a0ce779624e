"""`coalign serve`: a model, a run's result or a decoding method behind an OpenAI-compatible server."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

from coalign.cli.flags import command, method_values_of, with_declining, with_methods
from coalign.core.errors import ConfigError
from coalign.core.options import Count, option
from coalign.models.backends.options import BackendOptions
from coalign.models.generation.prefix_cache.options import PromptCacheOptions, keep_prompts
from coalign.models.options import ModelOptions
from coalign.web.local import Port

if TYPE_CHECKING:
    from coalign.models.generation.adapter_bank import AdapterBank


@dataclass(kw_only=True)
class Request(ModelOptions, BackendOptions, PromptCacheOptions):
    """What is served, and where."""

    __group__ = "General"

    name: str | None = option(None, "the model's name for clients; by default MODEL, and +METHOD")
    host: str = option("127.0.0.1", "address to listen on; elsewhere than on this machine clients need a key")
    port: Port = option(8000, "0 takes a free one")
    batch_size: Count | None = option(None, "most samples under way; by default as the device allows")
    adapter: list[str] = option(
        [],
        "NAME=FOLDER: an adapter of MODEL, a model of its own for clients; may be given several times, and without MODEL, "
        "which is then what the first one adapts",
        split=False,
    )
    embedding_model: str | None = option(
        None,
        "sentence encoder that answers /v1/embeddings: default-encoder, a folder or a hub id; by default a local model answers "
        "itself, less well",
    )
    embedding_pooling: Literal["mean", "last"] = option(
        "mean",
        "which states of a local model are its embedding of a text: their mean, or that at the last token",
    )
    reward_model: str | None = option(
        None, "reward model that answers /v1/score: a folder, a run or a hub id"
    )
    decline_below: float | None = option(
        None, "decline where the --reward of an answer is lower: the method selective, around every other"
    )
    reward: list[str] = option(
        [],
        "what --decline-below compares: model:PATH (a grader of self-j, a reward model), judge:CRITERION, a verifier; may be given "
        "several times",
        split=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding_model is not None:
            self.refuse(["embedding_pooling"], "beside embedding_model, which has its own")


@command(Request)
@click.argument("model", metavar="[MODEL|RUN]", required=False)
@with_methods("--align", "--method")
def serve(asked: Request, methods: tuple[str, ...], method_values: tuple[str, ...]) -> None:
    """Serve a model to any OpenAI client: `default`, a hub id, a model folder or a run folder.

    The key that clients must send is COALIGN_SERVE_KEY where it is set; a server that other machines can reach makes
    one and prints it. Ctrl-C ends the server.
    """
    from coalign.models.backends.open import describe_generator
    from coalign.models.methods import open_methods
    from coalign.models.tools.asking import ToolPrompts
    from coalign.web.local import address_of, is_loopback, listen, serve_app
    from coalign.web.serve import KEY_VARIABLE, Served, make_app

    if asked.reward and asked.decline_below is None:
        raise ConfigError(
            "--reward has no effect here without --decline-below.", hint="A method takes --option reward=..."
        )
    methods, method_values = with_declining(methods, method_values, asked.decline_below, asked.reward)
    values = method_values_of(methods, method_values)
    key = os.environ.get(KEY_VARIABLE) or None
    socket = listen(asked.host, asked.port)
    made = key is None and not is_loopback(asked.host)
    if made:
        key = secrets.token_urlsafe(24)
    bank = _adapters(asked, methods)
    if bank is not None:
        asked, generator, name = bank.options, bank.generators[bank.base], bank.base
    else:
        generator = open_methods(methods, values, asked, batch_size=asked.batch_size)
        name = asked.name or "+".join([_base_name(asked), *methods])
    fingerprint = _fingerprint(asked, generator, methods)
    prefixes, told = keep_prompts(asked, bank.generators.values() if bank else [generator])
    served = Served(
        name,
        generator,
        key,
        fingerprint,
        bank,
        _encoder(asked),
        _rewards(asked),
        prefixes,
        asked.embedding_pooling,
    )
    app = make_app(served, hosts=() if is_loopback(asked.host) else ("*",))
    click.echo(" over ".join([*methods, describe_generator(generator, asked.model)]), err=True)
    for line in told:
        click.echo(line, err=True)
    click.echo(f"Where clients offer tools: {ToolPrompts(generator).description}.", err=True)
    if made:
        click.echo(f"Key for clients: {key}  (set {KEY_VARIABLE} to choose one)", err=True)
    names = " and ".join(bank.generators) if bank else name
    for one in (served.encoder, served.rewards):
        if one is not None:
            route = "embeddings" if one is served.encoder else "score"
            click.echo(f"{one[0]} answers /v1/{route}", err=True)
    click.echo(f"Model {names} at {address_of(socket)}/v1  (Ctrl-C ends it)", err=True)
    serve_app(app, socket)


def _encoder(asked: Request) -> Any:
    from coalign.models.embedding import load_encoder

    name = asked.embedding_model
    return None if name is None else (_short(name), load_encoder(name, device=asked.device))


def _rewards(asked: Request) -> Any:
    from coalign.models.reward_model import load_reward_model

    name = asked.reward_model
    return None if name is None else (_short(name), load_reward_model(name, device=asked.device))


def _fingerprint(asked: Request, generator: Any, methods: tuple[str, ...]) -> str | None:
    """A hash of the weights that answer; None where that is not all that decides: a method, another server."""
    from coalign.models.files.identity import model_identity

    if methods or asked.chosen_backend == "endpoint":
        return None
    dtype = getattr(getattr(generator, "model", None), "dtype", asked.chosen_backend)
    return f"{model_identity(asked)}-{str(dtype).removeprefix('torch.')}"


def _adapters(asked: Request, methods: tuple[str, ...]) -> AdapterBank[Request] | None:
    """The adapters that were given and their base model; None where there are none."""
    if not asked.adapter:
        return None
    if methods or asked.chosen_backend != "transformers":
        raise ConfigError(
            "--adapter goes with a local model alone: neither with --align nor with another back end."
        )
    from coalign.models.files.places import base_of, locate
    from coalign.models.generation.adapter_bank import AdapterBank, named_adapters

    adapters = named_adapters(asked.adapter)
    if not asked.changed(["model"]):
        first = locate(next(iter(adapters.values())))
        asked = asked.at(base_of(first).name) if first.is_adapter else asked
    name = asked.name or _base_name(asked)
    if name in adapters:
        raise ConfigError(
            f"--adapter: {name} is the name of the base model; write NAME=FOLDER, or give --name."
        )
    return AdapterBank(asked, name, adapters, batch_size=asked.batch_size)


def _base_name(asked: Request) -> str:
    if asked.chosen_backend == "endpoint":
        return asked.endpoint_model or "endpoint"
    return _short(asked.model)


def _short(name: str) -> str:
    return os.path.basename(name.rstrip("/")) or name
