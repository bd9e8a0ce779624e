"""`coalign ui`: the workbench, local pages over runs, reports, methods and models."""

from __future__ import annotations

from pathlib import Path

import click

from coalign.core.errors import ConfigError


@click.command()
@click.option(
    "--root", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, metavar="DIR"
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="MODEL",
    default=("default",),
    show_default=True,
    help="A model to generate with besides those of the runs; may be given several times.",
)
@click.option("--annotate", metavar="PAIRS", help="Pairs to judge blind, as `coalign annotate` takes them.")
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Where the preferences go; with --annotate.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; loopback only.")
@click.option("--port", type=click.IntRange(0, 65535), default=8600, show_default=True, help="0: a free one.")
@click.option("--open/--no-open", "browse", default=True, show_default=True, help="Open the browser.")
def ui(
    root: Path,
    models: tuple[str, ...],
    annotate: str | None,
    annotations: Path | None,
    host: str,
    port: int,
    browse: bool,
) -> None:
    """Show runs, reports and methods in the browser, and try two models side by side.

    The pages are for this machine alone. From elsewhere, use a tunnel: ssh -L 8600:localhost:8600 HOST.
    """
    from coalign.web.local import address_of, is_loopback, listen, serve_app
    from coalign.web.workbench import workbench

    if not is_loopback(host):
        raise ConfigError(
            f"--host: {host} can be reached from other machines; the workbench has no accounts.",
            hint="Leave --host out and use a tunnel: ssh -L 8600:localhost:8600 HOST.",
        )
    if (annotate is None) != (annotations is None):
        raise ConfigError(
            "--annotate and --annotations go together: pairs to judge, and where to keep what is said."
        )
    session = None
    if annotate is not None and annotations is not None:
        from coalign.web.annotate import annotation_app, open_session

        session = open_session(annotate, annotations)
    app = workbench(root, models, annotation=annotation_app(session) if session else None)
    server = listen(host, port)
    click.echo(f"Workbench: {address_of(server)} (Ctrl-C ends it)", err=True)
    if browse:
        click.launch(address_of(server))
    try:
        serve_app(app, server)
    finally:
        if session:
            session.close()
