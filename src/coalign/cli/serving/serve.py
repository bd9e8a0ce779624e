"""`coalign serve`: a model, a run's result or a decoding method behind an OpenAI-compatible server."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import Any

import click

from coalign.cli.flags import command, method_values_of, with_declining, with_methods
from coalign.core.errors import ConfigError
from coalign.core.options import Count, option
from coalign.models.backends.options import BackendOptions
from coalign.models.options import ModelOptions
from coalign.web.local import Port


@dataclass(kw_only=True)
class Request(ModelOptions, BackendOptions):
    """What is served, and where."""

    __group__ = "General"

    name: str | None = option(None, "the model's name for clients; by default MODEL, and +METHOD")
    host: str = option("127.0.0.1", "address to listen on; elsewhere than on this machine clients need a key")
    port: Port = option(8000, "0 takes a free one")
    batch_size: Count | None = option(None, "most samples under way; by default as the device allows")
    decline_below: float | None = option(
        None, "decline where the --reward of an answer is lower: the method selective, around every other"
    )
    reward: list[str] = option(
        [],
        "what --decline-below compares: model:PATH (a grader of self-j, a reward model), judge:CRITERION, a verifier; may be given "
        "several times",
        split=False,
    )


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
    generator = open_methods(methods, values, asked, batch_size=asked.batch_size)
    name = asked.name or "+".join([_base_name(asked), *methods])
    served = Served(name, generator, key, _fingerprint(asked, generator, methods))
    app = make_app(served, hosts=() if is_loopback(asked.host) else ("*",))
    click.echo(" over ".join([*methods, describe_generator(generator, asked.model)]), err=True)
    if made:
        click.echo(f"Key for clients: {key}  (set {KEY_VARIABLE} to choose one)", err=True)
    click.echo(f"Model {name} at {address_of(socket)}/v1  (Ctrl-C ends it)", err=True)
    serve_app(app, socket)


def _fingerprint(asked: Request, generator: Any, methods: tuple[str, ...]) -> str | None:
    """A hash of the weights that answer; None where that is not all that decides: a method, another server."""
    from coalign.models.files.identity import model_identity

    if methods or asked.chosen_backend == "endpoint":
        return None
    dtype = getattr(getattr(generator, "model", None), "dtype", asked.chosen_backend)
    return f"{model_identity(asked)}-{str(dtype).removeprefix('torch.')}"


def _base_name(asked: Request) -> str:
    if asked.chosen_backend == "endpoint":
        return asked.endpoint_model or "endpoint"
    return os.path.basename(asked.model.rstrip("/")) or asked.model
