"""Records through steps (filter, score, select, rewrite, pair, mix), in streams, resumable, with a reason for every loss.

A step is a function over a few records at a time. Steps of three kinds make a pipeline; `coalign.loops.steps.usual` has the
usual ones::

    kept = run_pipeline(
        round.folder / "tasks",
        read_source("logs.jsonl"),
        [Filter("length", too_long), Distinct("duplicates", lambda row: row["text"]), Top("best tenth", "score", share=0.1)],
    )

- A *local* step sees some records and keeps nothing of them: memory is bounded by the batch.
- An *ordered* step decides on each record by those that it kept before (duplicates, novelty, a fixed number).
- A *choice* sees a sketch of every record (a score, a digest) before it decides. Sketches are spilled to disk as they are
  made; memory is bounded by what the choice reads of them.

Local and ordered steps that follow each other work in one pass, and a choice ends it. A step that says `alone` (one with
a model) begins a pass of its own. A pass writes whole batches to logs under `work/` and goes on after the last one that
is there; the result is that of an undisturbed run, because batches are cut at the same places. The logs go when the
pipeline is done. In the folder are then

    kept.jsonl       the records that are left, each with its `id`
    rejects.jsonl    the others: as they were when they fell, with step, reason and facts
    manifest.jsonl   for each kept record what the steps noted of it: score, judge, hash of the prompt, ids it came from
    manifest.json    the steps in order: how many records came and went, and why
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.errors import CoalignError, DataError
from coalign.core.files import atomic_path, stream_rows, write_json
from coalign.data.rows import iter_rows
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Choice, Kept, Local, Made, Ordered, Picks, Rejected, Step
from coalign.loops.steps.logs import Records
from coalign.loops.steps.passes import Pass, Spread, passes_of

BATCH = 1000
"""Records that a pass works on at a time, where no step asks for fewer."""


@dataclass(frozen=True)
class Curated:
    """A pipeline's folder when it is done."""

    folder: Path

    @property
    def kept(self) -> Path:
        return self.folder / "kept.jsonl"

    @property
    def rejects(self) -> Path:
        return self.folder / "rejects.jsonl"

    @property
    def manifest(self) -> dict[str, Any]:
        """`steps` (name, records in and out, rejected by reason, seconds), `kept`, `rejected`."""
        return json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))

    @property
    def provenance(self) -> Iterator[dict[str, Any]]:
        """For each kept record its `id` and the `steps` that noted something of it."""
        return (row for _, row in stream_rows(self.folder / "manifest.jsonl"))

    def rows(self) -> Iterator[Row]:
        return (row for _, row in stream_rows(self.kept))

    def reasons(self) -> dict[str, int]:
        """`step: reason` to how many records fell for it, in the order of the steps."""
        return {
            f"{step['name']}: {reason}": count
            for step in self.manifest["steps"]
            for reason, count in step["rejected"].items()
        }

    def most_reasons(self, n: int = 3) -> str:
        """The reasons that most records fell for, with their numbers, in words; empty where none fell."""
        worst = sorted(self.reasons().items(), key=lambda one: -one[1])[:n]
        return "; ".join(f"{why} ({count})" for why, count in worst)

    def scores(self, *, most: int | None = None) -> dict[str, dict[str, list[float]]]:
        """Step to the scores that it gave to records that were `kept` in the end, and to those `rejected` by any step.

        Args:
            most: of each; the first ones.
        """
        found: dict[str, dict[str, list[float]]] = {}
        for side, note in self._notes():
            if "score" in note:
                values = found.setdefault(note["step"], {"kept": [], "rejected": []})[side]
                if most is None or len(values) < most:
                    values.append(note["score"])
        order = [step["name"] for step in self.manifest["steps"]]
        return {name: found[name] for name in order if name in found}

    def tokens(self) -> dict[str, tuple[int, int]]:
        """Step to the tokens that its model was sent and wrote, where they are known; replies that were kept count too."""
        found: dict[str, tuple[int, int]] = {}
        for _, note in self._notes():
            if "tokens" in note:
                sent, written = found.get(note["step"], (0, 0))
                found[note["step"]] = (sent + (note.get("prompt_tokens") or 0), written + note["tokens"])
        return found

    def _notes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every note, and whether its record was `kept` or `rejected`."""
        sides = {"kept": self.provenance, "rejected": (row for _, row in stream_rows(self.rejects))}
        return ((side, note) for side, records in sides.items() for one in records for note in one["steps"])


def run_pipeline(
    folder: Path,
    source: Iterable[Row],
    steps: Sequence[Step],
    *,
    total: int | None = None,
    batch: int = BATCH,
    spread: Spread | None = None,
) -> Curated:
    """Send the records of `source` through `steps`; what is done already is not done again.

    Args:
        folder: of this pipeline alone.
        source: records with an `id` each, in the same order every time it is iterated.
        total: how many they are, for the progress.
        batch: most records at a time. A pipeline that was begun must go on with the same.
        spread: works through the steps that have a model and see some records at a time, where others than this process do
            that; batches and results are the same.

    Raises:
        CoalignError: two steps of one name, a record without a column that a step needs, or another pipeline's folder.
    """
    names = [step.name for step in steps]
    if len({*names}) < len(names):
        raise CoalignError(f"Steps need names of their own, not {', '.join(names)}.")
    done = Curated(folder)
    begun, settings = folder / "steps.json", {"steps": names, "batch": batch}
    if not begun.exists():
        write_json(begun, settings)
    elif (found := json.loads(begun.read_text(encoding="utf-8"))) != settings:
        raise CoalignError(f"{folder} holds another pipeline: {found}, expected {settings}.")
    work = folder / "work"
    if (folder / "manifest.json").exists():
        shutil.rmtree(work, ignore_errors=True)
        return done
    work.mkdir(exist_ok=True)
    passes = [
        Pass(work, number, group, batch, spread) for number, group in enumerate(passes_of(steps), start=1)
    ]
    records: Records | None = None
    for one in passes:
        if not one.is_done:
            one.work(records, source, total)
        records = one.result(records)
    assert records is not None
    _publish(done, passes, records)
    shutil.rmtree(work, ignore_errors=True)
    return done


def read_source(source: str | Path) -> Iterable[Row]:
    """The rows of a file as `run_pipeline` takes them, read anew at every iteration; a row without an `id` gets its
    number.

    Raises:
        DataError: while it is iterated: a row that cannot be read, or an id that appears twice.
    """

    class Rows:
        def __iter__(self) -> Iterator[Row]:
            seen: set[int] = set()
            for row in iter_rows(source):
                if row.value is None:
                    raise DataError(f"{source} cannot be used.", [row.problem] if row.problem else [])
                name = str(row.value.get("id", row.index))
                if hash(name) in seen:
                    raise DataError(f"{source}: the id {name!r} appears twice.")
                seen.add(hash(name))
                yield {**row.value, "id": name}

    return Rows()


def _publish(done: Curated, passes: Sequence[Pass], records: Records) -> None:
    """Write the result and its manifest; `manifest.json` comes last and says that all is there."""
    with (
        atomic_path(done.kept) as kept,
        atomic_path(done.folder / "manifest.jsonl") as notes,
        kept.open("wb") as rows,
        notes.open("wb") as traces,
    ):
        for line in records.lines():
            name, trace, row = line.rstrip(b"\n").split(b"\t")
            rows.write(row + b"\n")
            traces.write(b'{"id": %b, "steps": %b}\n' % (name, trace))
    with atomic_path(done.rejects) as path, path.open("wb") as file:
        for each in passes:
            file.writelines(each.rejects())
    facts = [each.facts for each in passes]
    steps = [step for each in facts for step in each["steps"]]
    write_json(
        done.folder / "manifest.json",
        {
            "steps": steps,
            "kept": records.count,
            "rejected": sum(sum(step["rejected"].values()) for step in steps),
            "seconds": round(sum(each["seconds"] for each in facts), 3),
        },
    )


__all__ = [
    "Choice",
    "Curated",
    "Kept",
    "Local",
    "Made",
    "Ordered",
    "Picks",
    "Rejected",
    "Step",
    "read_source",
    "run_pipeline",
]
