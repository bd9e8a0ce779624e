"""`coalign serve`: a model, a run's result or a decoding method behind an OpenAI-compatible server."""

from __future__ import annotations

import os
import secrets
from typing import Any

import click

from coalign.cli.flags import GroupedCommand, built_models, flags_of, method_values_of, with_methods
from coalign.models.backends.options import BackendOptions
from coalign.models.options import TRAINING, ModelOptions


@click.command(
    cls=GroupedCommand,
    params=[*flags_of(ModelOptions, leave_out={*TRAINING, "model"}), *flags_of(BackendOptions)],
)
@click.argument("model", metavar="[MODEL|RUN]", required=False)
@with_methods("--align", "--method")
@click.option("--name", help="The model's name for clients.  [default: MODEL, and +METHOD]")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Elsewhere than on this machine clients need a key.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Most samples under way.  [default: by device]"
)
def serve(
    model: str | None,
    methods: tuple[str, ...],
    method_values: tuple[str, ...],
    name: str | None,
    host: str,
    port: int,
    batch_size: int | None,
    **given: Any,
) -> None:
    """Serve a model to any OpenAI client: `default`, a hub id, a model folder or a run folder.

    The key that clients must send is COALIGN_SERVE_KEY where it is set; a server that other machines can reach makes
    one and prints it. Ctrl-C ends the server.
    """
    from coalign.models.backends.open import describe_generator
    from coalign.models.methods import open_methods
    from coalign.web.local import address_of, is_loopback, listen, serve_app
    from coalign.web.serve import KEY_VARIABLE, Served, make_app

    which, backend = built_models({**given, "model": model})
    values = method_values_of(methods, method_values)
    key = os.environ.get(KEY_VARIABLE) or None
    socket = listen(host, port)
    made = key is None and not is_loopback(host)
    if made:
        key = secrets.token_urlsafe(24)
    generator = open_methods(methods, values, which, backend, batch_size=batch_size)
    name = name or "+".join([_base_name(which, backend), *methods])
    app = make_app(Served(name, generator, key), hosts=() if is_loopback(host) else ("*",))
    click.echo(" over ".join([*methods, describe_generator(generator, which.model)]), err=True)
    if made:
        click.echo(f"Key for clients: {key}  (set {KEY_VARIABLE} to choose one)", err=True)
    click.echo(f"Model {name} at {address_of(socket)}/v1  (Ctrl-C ends it)", err=True)
    serve_app(app, socket)


def _base_name(which: ModelOptions, backend: BackendOptions) -> str:
    if backend.chosen_backend == "endpoint":
        return backend.endpoint_model or "endpoint"
    return os.path.basename(which.model.rstrip("/")) or which.model
