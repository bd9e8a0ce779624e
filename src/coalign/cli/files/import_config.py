"""`coalign import-config FILE`: a configuration of TRL, LLaMA-Factory or axolotl as one of coalign."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from coalign.cli.files.translation import Translation, translate
from coalign.cli.flags import GroupedCommand, assert_new
from coalign.cli.peers import TITLES, peer_of
from coalign.core.errors import ConfigError
from coalign.core.files import write_text
from coalign.core.options import load_file, to_yaml


@click.command(cls=GroupedCommand)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "peer",
    type=click.Choice(list(TITLES)),
    help="Whose configuration; by default read from its names.",
)
@click.option("--method", help="What `coalign run` is to be given; by default what the configuration says.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write here instead of to standard output."
)
@click.option("--overwrite", is_flag=True, help="Replace the file of --out.")
def import_config(
    file: Path, peer: str | None, method: str | None, out: Path | None, overwrite: bool
) -> None:
    """Turn a YAML (or JSON) configuration of TRL, LLaMA-Factory or axolotl into one for `coalign run METHOD --config`.

    The YAML goes to standard output, what has no counterpart to standard error. Values that the file leaves to its
    library are written out where coalign's defaults are others, so that the same is trained.
    """
    assert_new(overwrite, out=out)
    config = load_file(file)
    found = peer or peer_of(config)
    if found is None:
        raise ConfigError(
            f"{file}: nothing tells whose configuration it is.", hint=f"Give --from: {', '.join(TITLES)}."
        )
    made = translate(config, found, _options, method=method, folder=file.parent)  # pyright: ignore[reportArgumentType]
    text = _heading(made, file, out) + to_yaml(made.values)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_text(out, text)
        click.echo(f"{out}: {len(made.values)} options for `coalign run {made.method}`", err=True)
    _tell(made)


def _options(method: str) -> type:
    from coalign.platform.methods import find

    return find(method)[1].Config


def _heading(made: Translation, file: Path, out: Path | None) -> str:
    where = shlex.quote(str(out or "FILE"))
    folder = f" --out {shlex.quote(made.out)}" if made.out else ""
    lines = [
        f"From {file.name}, a configuration of {TITLES[made.peer]}:",
        f"    coalign run {made.method} --config {where}{folder}",
    ]
    if made.silent:
        lines.append(f"Defaults of {TITLES[made.peer]} that are not ours: {', '.join(made.silent)}.")
    return "".join(f"# {line}\n" for line in lines)


def _tell(made: Translation) -> None:
    for title, rows in (("No counterpart", made.left), ("Nothing needed", made.needless)):
        if rows:
            click.echo(f"{title}:", err=True)
            width = max(len(name) for name, _ in rows)
            for name, why in rows:
                click.echo(f"  {name:<{width}}  {why}".rstrip(), err=True)
