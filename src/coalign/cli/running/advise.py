"""`coalign advise`: which systems fit what one has and wants, with commands and costs. Loads no heavy library."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import click

from coalign.cli.flags import GroupedCommand, built, flags_of
from coalign.core.errors import ConfigError
from coalign.core.files import dump_json
from coalign.guide.advice import Advice, Advised, advise, as_row
from coalign.guide.plan import Step, as_rows, plan
from coalign.guide.situation import KINDS, Situation, goals
from coalign.guide.taxonomy import MAPS, drawn, taxonomy

SHOWN = 5
"""Systems that are shown of a list."""
QUESTIONS = (
    ("goal", "What should be better, or be measured?", goals),
    ("have", "What data is there?", lambda: KINDS),
    (
        "access",
        "What access is there to the model?",
        lambda: {"api": "text alone", "decoding": "probabilities are seen", "weights": "can be trained"},
    ),
    ("strong", "Is there a stronger model that can write or judge?", lambda: {"yes": "", "no": ""}),
    ("people", "Are there people who can label or judge?", lambda: {"yes": "", "no": ""}),
    ("budget", "What is there to compute on?", lambda: {"cpu": "", "gpu": "", "cluster": ""}),
)
"""Option, question, and what may be answered."""


def _advise(**given: Any) -> None:
    source, as_plan, as_json = given.pop("data"), given.pop("plan"), given.pop("json")
    shown_map, list_goals, count = given.pop("map"), given.pop("list_goals"), given.pop("show")
    if shown_map is not None or list_goals:
        click.echo(drawn(taxonomy(shown_map)) if shown_map is not None else _listed(goals()))
        return
    asked = {name: value for name, value in given.items() if value not in (None, (), [])}
    said: list[str] = []
    if source is not None:
        from coalign.guide.look import look

        seen = look(source)
        said = seen.said
        asked.setdefault("have", seen.have)
        asked.setdefault("tokens", seen.tokens)
        if seen.records is not None:
            asked.setdefault("records", seen.records)
    if not asked:
        if not sys.stdin.isatty():
            raise ConfigError(
                "Say what you have and want: nothing is given, and nobody can be asked here.",
                hint="For example: coalign advise --goal preferences --have pairs. `--list-goals` says what can be wanted.",
            )
        asked = ask()
    situation = built(Situation, asked)
    data = source or "DATA"
    if as_plan:
        steps = plan(situation, data=data)
        click.echo(
            dump_json(as_rows(steps), indent=2) if as_json else "\n".join([*said, *_plan_lines(steps)])
        )
        return
    found = advise(situation, data=data)
    if as_json:
        click.echo(
            dump_json(
                {"systems": [as_row(one) for one in found.systems], "left_out": found.left_out}, indent=2
            )
        )
        return
    click.echo("\n".join([*said, *_lines(found, count)]))


def ask() -> dict[str, Any]:
    """Answers to the questions; an empty answer leaves one open."""
    found: dict[str, Any] = {}
    for name, question, answers in QUESTIONS:
        click.echo(f"\n{question}")
        known = answers()
        click.echo(_listed(known) if any(known.values()) else f"  {', '.join(known)}")
        answer = click.prompt("  ", default="", show_default=False, prompt_suffix="").strip()
        if answer:
            several = name in ("goal", "have")
            found[name] = [part.strip() for part in answer.split(",")] if several else answer.lower()
            if name in ("strong", "people"):
                found[name] = answer.lower() in ("y", "yes", "true")
    return found


def _listed(known: Mapping[str, str]) -> str:
    return "\n".join(f"  {name:<16} {words}".rstrip() for name, words in known.items())


def _lines(found: Advised, count: int) -> list[str]:
    if not found.systems:
        return ["No system fits.", *_against(found.left_out, 10)]
    lines: list[str] = []
    for rank, one in enumerate(found.first(count), start=1):
        lines += ["", *_system(one, f"{rank}. ")]
    others = [one.slug for one in found.systems[count:]]
    if others:
        lines += ["", *_wrapped("Also fitting: ", ", ".join(others))]
    return [*lines, "", *_against(found.left_out, 6)]


def _system(one: Advice, number: str) -> list[str]:
    status = (
        "" if one.status == "available" else f"  [{one.status}{': cannot run yet' if not one.runs else ''}]"
    )
    lines = [f"{number}{one.slug}{status}"]
    lines += _wrapped("   why    ", "; ".join(one.reasons))
    if one.needs:
        lines += _wrapped("   needs  ", "; ".join(one.needs))
    lines += _wrapped("   places ", " | ".join(one.places.values()))
    lines.append(f"   run    {one.command}")
    lines += [f"   then   {command}" for command in one.after]
    return lines + _wrapped("   costs  ", one.cost.text)


def _against(left_out: dict[str, str], most: int) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for slug, why in left_out.items():
        why = why.partition(":")[0]
        by_reason.setdefault(why, []).append(slug)
    reasons = sorted(by_reason.items(), key=lambda pair: len(pair[1]))
    lines = [line for why, slugs in reasons[:most] for line in _wrapped("  ", f"{', '.join(slugs)}: {why}")]
    more = len(reasons) - most
    return [
        *(["Left out:", *lines] if lines else []),
        *([f"  and {more} more reasons (--json has all)"] if more > 0 else []),
    ]


def _plan_lines(steps: list[Step]) -> list[str]:
    lines: list[str] = []
    for number, step in enumerate(steps, start=1):
        lines += ["", f"{number}. {step.name}"]
        tree = taxonomy("process")
        lines += [
            line
            for node, why in step.nodes.items()
            for line in _wrapped("   ", f"{node} {tree.node(node).name}: {why}")
        ]
        if not step.systems and not step.built_in:
            lines.append("   No system covers this for what you have.")
        for one in step.systems:
            lines += [f"   {line}" for line in _system(one, "- ")]
        lines += [f"   - {words}: {command}" for words, command in step.built_in]
        lines += [line for note in step.notes for line in _wrapped("   ", note)]
        lines += [f"   {line}" for line in _against(step.left_out, 3)]
    return lines


def _wrapped(head: str, text: str) -> list[str]:
    width = min(shutil.get_terminal_size().columns, 110)
    return textwrap.wrap(
        text, width, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )


advise_command = GroupedCommand(
    "advise",
    params=[
        click.Option(["--data"], metavar="FILE", help="Look at a file or folder first."),
        click.Option(["--plan"], is_flag=True, help="A project in three steps: data, training, evaluation."),
        click.Option(
            ["--map"], type=click.Choice(MAPS), help="Show a survey as a map with every system and the gaps."
        ),
        click.Option(["--list-goals"], is_flag=True, help="List what can be wanted."),
        click.Option(
            ["--show"], type=click.IntRange(1), default=SHOWN, show_default=True, help="Systems to show."
        ),
        click.Option(["--json"], is_flag=True, help="JSON for programs."),
        *flags_of(Situation),
    ],
    callback=_advise,
    help="Say which systems fit what you have and want: ranked, with reasons, commands in order, and costs.\n\n"
    "Without any flag it asks. Advice follows rules, not a model: the same answers give the same list.",
)
"""The command."""
