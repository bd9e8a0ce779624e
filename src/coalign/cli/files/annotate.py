"""`coalign annotate`: blind comparisons by people, in the browser."""

from __future__ import annotations

from pathlib import Path

import click

from coalign.core.errors import ConfigError


@click.command()
@click.argument("pairs", metavar="PAIRS")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.jsonl",
    help="Preference records; every verdict goes to FILE.verdicts.jsonl beside it.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of left and right.")
@click.option("--annotator", default="", metavar="NAME", help="Kept with every verdict.")
@click.option(
    "--on-bad-record",
    type=click.Choice(("fail", "skip")),
    default="fail",
    show_default=True,
    help="Skip leaves out rows that cannot be shown.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; loopback only.")
@click.option("--port", type=click.IntRange(0, 65535), default=8601, show_default=True, help="0: a free one.")
@click.option("--open/--no-open", "browse", default=True, show_default=True, help="Open the browser.")
def annotate(
    pairs: str, out: Path, seed: int, annotator: str, on_bad_record: str, host: str, port: int, browse: bool
) -> None:
    """Judge pairs of responses yourself, blind: arrow keys for left, right and tie, S skips, U takes back.

    PAIRS is a file that `coalign judge` reads, such as the matches of an arena. A stopped session goes on where it was.
    """
    from coalign.web.annotate import annotation_app, open_session
    from coalign.web.local import address_of, is_loopback, listen, serve_app

    if not is_loopback(host):
        raise ConfigError(
            f"--host: {host} can be reached from other machines; the page has no accounts.",
            hint=f"Leave --host out and use a tunnel: ssh -L {port}:localhost:{port} HOST.",
        )
    session = open_session(pairs, out, seed=seed, annotator=annotator, skip_bad=on_bad_record == "skip")
    app = annotation_app(session)
    server = listen(host, port)
    click.echo(
        f"{session.done} of {len(session)} pairs have a verdict: {address_of(server)} (Ctrl-C ends it)",
        err=True,
    )
    if browse:
        click.launch(address_of(server))
    try:
        serve_app(app, server)
    finally:
        session.close()
        counts = ", ".join(f"{count} {name}" for name, count in session.counts().items())
        click.echo(f"{session.done} of {len(session)} pairs: {counts}. Preferences: {out}", err=True)
