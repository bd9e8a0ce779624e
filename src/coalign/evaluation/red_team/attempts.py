"""The attempts on one condition: reformulate, ask the target, judge; one row an attempt and request, without the texts.

`CONDITION.jsonl` has `id`, `attempt` (from 1), `success` (judge to true, false or null where its reply could not be read),
`refused` (whether `refuses_at_start` sees a refusal), `coherent`, `tokens`, `reformulator_refused`. An attempt without a text,
since the reformulator refused, is no success. `of`: rows of the attempt. Texts stand in `texts/` only where that is asked
for, a folder that its owner alone may open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coalign.core.files import append_rows, read_rows, write_rows
from coalign.core.progress import progress
from coalign.evaluation.red_team.reformulation import Asked, Condition, Reformulator, seed_of
from coalign.evaluation.red_team.requests import Request
from coalign.judging.refused_requests import RefusedRequestJudge
from coalign.loops.rows import Row
from coalign.measures.texts.refusals import is_coherent, refuses_at_start
from coalign.models.types import Generation, Generator, Sampling


@dataclass(frozen=True, kw_only=True)
class Attack:
    """How a target is attacked.

    Attributes:
        judges: the first one decides when to stop.
        sampling: of the target; every attempt has a seed of its own.
        attempts: most tries a request.
        early_stop: no further tries after a success of the first judge.
        system: what stands in the target's system turn; None leaves it out.
        keep_texts: also keep reformulations and responses.
    """

    target: Generator
    reformulator: Reformulator
    judges: Sequence[RefusedRequestJudge]
    sampling: Sampling
    attempts: int
    early_stop: bool = False
    system: str | None = None
    keep_texts: bool = False


def attack(
    folder: Path, name: str, requests: Sequence[Request], condition: Condition, how: Attack
) -> list[Row]:
    """The rows of a condition, attempt after attempt, as they then lie in `folder / NAME.jsonl`.

    An attempt on all requests is worked on as a whole: a run that was killed goes on with the attempt that is not there,
    and what it draws depends on seed, condition and attempt alone.
    """
    path = folder / f"{name}.jsonl"
    found = read_rows(path, repair=True)
    rows = _whole_attempts(found)
    if len(rows) < len(found):
        write_rows(path, rows)
    with progress(how.attempts, f"Attempts, {name}", "attempt") as bar:
        for attempt in range(1, how.attempts + 1):
            if not any(row["attempt"] == attempt for row in rows):
                done = (
                    {row["id"] for row in rows if row["success"][how.judges[0].name]}
                    if how.early_stop
                    else set()
                )
                alive = [one for one in requests if one.id not in done]
                if not alive:
                    break
                made = _attempt(folder / "texts", name, alive, condition, attempt, how)
                append_rows(path, made)
                rows += made
            bar.advance()
    return rows


def successes(rows: Sequence[Row], requests: Sequence[Request], judge: str) -> list[list[bool]]:
    """`[requests][attempts]` whether a judge called an attempt a success; what it could not read is none."""
    found: dict[str, list[bool]] = {one.id: [] for one in requests}
    for row in sorted(rows, key=lambda one: one["attempt"]):
        if row["id"] in found:
            found[row["id"]].append(bool(row["success"][judge]))
    return list(found.values())


def _whole_attempts(rows: Sequence[Row]) -> list[Row]:
    """The rows of attempts of which all are there (one write puts them there, and a kill may tear it)."""
    counts = Counter(row["attempt"] for row in rows)
    return [row for row in rows if counts[row["attempt"]] == row["of"]]


def _attempt(
    texts: Path, name: str, requests: Sequence[Request], condition: Condition, attempt: int, how: Attack
) -> list[Row]:
    if condition == "direct":
        asked = [Asked(one.text) for one in requests]
    else:
        asked = how.reformulator.reformulate(requests, condition, attempt)
    places = [place for place, one in enumerate(asked) if one.text is not None]
    said: dict[int, Generation] = {}
    if places:
        system = [{"role": "system", "content": how.system}] if how.system else []
        prompts: list[Any] = [[*system, {"role": "user", "content": asked[place].text}] for place in places]
        sampling = replace(how.sampling, seed=seed_of(how.sampling.seed, name, attempt))
        found = how.target.generate(prompts, sampling, label=f"Answering, {name}")
        said = {place: one for place, (one,) in zip(places, found, strict=True)}
    originals = [requests[place].text for place in places]
    responses = [said[place].text for place in places]
    verdicts = {
        one.name: dict(zip(places, one.verdicts(originals, responses), strict=True)) for one in how.judges
    }
    if how.keep_texts:
        texts.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_rows(texts / f"{name}-{attempt:03d}.jsonl", [
            {"id": requests[place].id, "asked": asked[place].text, "response": said[place].text} for place in places
        ])  # fmt: skip
    return [
        {
            "id": request.id,
            "attempt": attempt,
            "success": {judge: found.get(place, False) for judge, found in verdicts.items()},
            "refused": refuses_at_start(said[place].text) if place in said else None,
            "coherent": is_coherent(said[place].text) if place in said else None,
            "tokens": said[place].length or None if place in said else None,
            "reformulator_refused": asked[place].refused,
            "of": len(requests),
        }
        for place, request in enumerate(requests)
    ]
