"""`coalign ui`: the workbench, local pages over runs, reports, methods and models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from coalign.cli.browser import open_page
from coalign.cli.flags import command
from coalign.core.errors import ConfigError
from coalign.core.options import option
from coalign.web.local import PageOptions, address_of, listen_here, serve_app


@dataclass(kw_only=True)
class Request(PageOptions):
    """What the pages show."""

    __group__ = "General"

    root: Path = option(Path("runs"), "folder of the runs")
    model: list[str] = option(
        ["default"],
        "a model to generate with besides those of the runs; may be given several times",
        split=False,
    )
    read_only: bool = option(
        False, "show runs, and let none be started, continued, stopped or deleted from the page"
    )
    annotate: str | None = option(None, "pairs to judge blind, as `coalign annotate` takes them")
    annotations: Path | None = option(None, "JSON Lines file where the preferences go; with --annotate")


@command(Request)
def ui(asked: Request) -> None:
    """Show runs, reports and methods in the browser, start and stop runs, and try two models side by side.

    The pages are for this machine alone. From elsewhere, use a tunnel: ssh -L 8600:localhost:8600 HOST.
    """
    from coalign.web.workbench import workbench

    server = listen_here(asked, "workbench")
    if (asked.annotate is None) != (asked.annotations is None):
        raise ConfigError(
            "--annotate and --annotations go together: pairs to judge, and where to keep what is said."
        )
    from coalign.web.annotate import annotation_app, open_session

    session = None
    if asked.annotate is not None and asked.annotations is not None:
        session = open_session(asked.annotate, asked.annotations)
    app = workbench(
        asked.root,
        asked.model,
        annotation=annotation_app(session) if session else None,
        control=not asked.read_only,
    )
    click.echo(f"Workbench: {address_of(server)} (Ctrl-C ends it)", err=True)
    if asked.open:
        open_page(address_of(server))
    try:
        serve_app(app, server)
    finally:
        if session:
            session.close()
