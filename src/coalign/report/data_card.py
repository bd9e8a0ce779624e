"""The card of a run's data: what a model was learnt from, or the records that a run made."""

from __future__ import annotations

import json
from pathlib import Path

from coalign import __version__
from coalign.core.catalogue import entries
from coalign.core.runs import Run
from coalign.core.secrets import redacted
from coalign.report.markdown import cells, inline
from coalign.report.page import source_section

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""Records below which a data set has the hub's size category."""


def data_card(run: Run, *, records: str | None = None) -> str:
    """The card as Markdown: sources with a hash of each file, how they were read, what was left out, held out and shared
    with the evaluation. Paths are cut to their last part.

    Args:
        records: file of the records that the run made, beside the card, which is then that of a data set of the hub.
    """
    method: str = run.status()["method"]
    entry = next((one for one in entries() if one.slug == method), None)
    paper = f" ([arXiv:{entry.arxiv}](https://arxiv.org/abs/{entry.arxiv}))" if entry and entry.arxiv else ""
    made_by = f"`{method}` of coalign {__version__}{paper}"
    if records is None:
        parts = [
            f"# Data of {inline(run.path.name)}",
            f"What the model was learnt from, with {made_by}. The records themselves are not part of this repository.",
        ]
    else:
        with (run.path / records).open(encoding="utf-8") as file:
            count = sum(1 for line in file if line.strip())
        parts = [
            _front_matter(method, Path(records).name, count),
            f"# {inline(run.path.name)}",
            f"{count:,} records, made by {made_by}.",
        ]
    parts += [_files(run), _table(run), _reading(run), _split(run), _overlap(run)]
    return redacted("\n\n".join(part for part in parts if part) + "\n")


def _front_matter(method: str, file: str, count: int) -> str:
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        tags=["coalign", method],
        size_categories=next((name for below, name in _SIZES if count < below), "1M<n"),
        configs=[{"config_name": "default", "data_files": file}],  # pyright: ignore[reportCallIssue]
    )
    return f"---\n{data.to_yaml()}\n---"


def _files(run: Run) -> str:
    """The files that the run was started with, by content."""
    path = run.path / "data.json"
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not found:
        return ""
    rows = [cells([Path(one).name, digest]) for one, digest in found.items()]
    return "\n".join(["## Files", "", cells(["File", "SHA-256"]), "|---|---|", *rows])


def _table(run: Run) -> str:
    """The sources of a mix, where there are several."""
    blocks = []
    for section in source_section(run):
        keep = [n for n, name in enumerate(section.columns) if name != "File"]
        body = [cells(["" if row[n] is None else _shown(row[n]) for n in keep]) for row in section.rows]
        head = [cells([section.columns[n] for n in keep]), "|" + "---|" * len(keep)]
        blocks.append("\n".join([f"## {section.title}", "", section.note or "", "", *head, *body]))
    return "\n\n".join(blocks)


def _shown(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _reading(run: Run) -> str:
    notes = [event["note"] for event in run.events("data") if "note" in event]
    return (
        "\n".join(["## How it was read", "", *(f"- {inline(one)}" for one in dict.fromkeys(notes))])
        if notes
        else ""
    )


def _split(run: Run) -> str:
    plans = [event for event in run.events("plan") if event.get("records")]
    if not plans:
        return ""
    last = plans[-1]
    held = last.get("held_out") or 0
    return f"## Split\n\n{last['records']:,} records to learn from, {held:,} held out."


def _overlap(run: Run) -> str:
    found = list(run.events("overlap"))
    if not found:
        return ""
    last = found[-1]
    return (
        "## Overlap with the evaluation\n\n"
        f"{last['matches']:,} of {last['records']:,} evaluation records have a prompt that is learnt from, "
        f"{last['exact']:,} in the same words."
    )
