"""`coalign annotate`: blind comparisons by people, in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from coalign.cli.browser import open_page
from coalign.cli.flags import command
from coalign.core.options import Seed, option, required
from coalign.web.local import PageOptions, Port, address_of, listen_here, serve_app


@dataclass(kw_only=True)
class Request(PageOptions):
    """Where the verdicts go, and how pairs are shown."""

    __group__ = "General"

    out: Path = required(
        "JSON Lines file of preference records; every verdict goes to FILE.verdicts.jsonl beside it"
    )
    seed: Seed = option(0, "of left and right")
    annotator: str = option("", "name kept with every verdict")
    on_bad_record: Literal["fail", "skip"] = option("fail", "skip leaves out rows that cannot be shown")
    port: Port = option(8601, "0: a free one")


@command(Request)
@click.argument("pairs", metavar="PAIRS")
def annotate(asked: Request, pairs: str) -> None:
    """Judge pairs of responses yourself, blind: arrow keys for left, right and tie, S skips, U takes back.

    PAIRS is a file that `coalign judge` reads, such as the matches of an arena. A stopped session goes on where it was.
    """
    from coalign.web.annotate import annotation_app, open_session

    server = listen_here(asked, "page")

    skip = asked.on_bad_record == "skip"
    session = open_session(pairs, asked.out, seed=asked.seed, annotator=asked.annotator, skip_bad=skip)
    app = annotation_app(session)
    done = f"{session.done} of {len(session)} pairs"
    click.echo(f"{done} have a verdict: {address_of(server)} (Ctrl-C ends it)", err=True)
    if asked.open:
        open_page(address_of(server))
    try:
        serve_app(app, server)
    finally:
        session.close()
        counts = ", ".join(f"{count} {name}" for name, count in session.counts().items())
        click.echo(f"{session.done} of {len(session)} pairs: {counts}. Preferences: {asked.out}", err=True)
