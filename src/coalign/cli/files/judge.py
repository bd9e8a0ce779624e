"""`coalign judge`: verdicts on a file of pairs or responses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from coalign.cli.counts import COUNT
from coalign.cli.flags import ConfigCommand
from coalign.core.errors import ConfigError


class JudgeCommand(ConfigCommand):
    """The command, and what it shows without judging: a template, or the requests that it would send."""

    show: int | None = None

    def _run(self, out: Path | None, config: Path | None, print_config: bool, **given: Any) -> None:
        template, show = given.pop("print_template"), given.pop("show_requests")
        if template is not None:
            from coalign.judging.prompts import TEMPLATES

            click.echo(TEMPLATES[template].read_text(encoding="utf-8"), nl=False)
            return
        self.show = show
        super()._run(out, config, print_config, **given)


def _apply(config: Any, out: Path | None) -> None:
    if judge.show is not None:
        _show_requests(config, judge.show)
        return
    from coalign.cli.running.run import execute
    from coalign.judging import run as judge_run

    execute("judge", judge_run, config, out)


def _show_requests(config: Any, count: int) -> None:
    from coalign.data.media.conversations import named_pictures
    from coalign.judging.options import language_judge
    from coalign.judging.run import configured_items
    from coalign.judging.store import ReplyStore
    from coalign.report.text import visible

    if config.judge != "model":
        raise ConfigError("--show-requests: only a language model gets requests.")
    found = configured_items(replace(config, on_bad_record="skip", limit=count))
    kind = "pair" if found.kind == "pairs" else "rate"
    asker = language_judge(config, ReplyStore())
    prompts = asker.prompts(found.items, kind, rubric=config.rubric, scale=config.scale)
    for item, prompt in zip(found.items, prompts, strict=True):
        click.secho(f"# item {visible(item.id)}", bold=True)
        for message in prompt:
            click.secho(f"## {message['role']}", dim=True)
            click.echo(visible(named_pictures(message["content"])))


def _command() -> JudgeCommand:
    from coalign.judging.run import Config

    made = JudgeCommand(
        "judge",
        Config,
        _apply,
        help="Judge a file: pairs are compared in both orders, single responses are rated.\n\n"
        "Out come every verdict (artefacts/verdicts.jsonl), figures with intervals (results.json), agreement with "
        "people where the file has their verdicts, and a report. A run that was stopped asks nothing twice.",
    )
    made.params += [
        click.Option(
            ["--print-template"],
            type=click.Choice(("pair", "rate", "rank", "list")),
            help="Print the request template and exit.",
        ),
        click.Option(
            ["--show-requests"],
            type=COUNT,
            help="Print the first requests and exit; nobody is asked.",
        ),
    ]
    return made


judge = _command()
