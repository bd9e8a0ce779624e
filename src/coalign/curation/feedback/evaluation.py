"""Two models' replies to held-out requests, compared with what the user wants in view and without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.curation.feedback.checklists import checklist_outcome
from coalign.curation.feedback.steps import pair_item
from coalign.judging.protocol import Choice, Judge, check_failures, summarise
from coalign.loops.rows import Row, answer_rows
from coalign.measures.statistics import bootstrap_mean

if TYPE_CHECKING:
    from pathlib import Path

    from coalign.data.records import Messages
    from coalign.models.types import Generator, Sampling

CREDIT = {"win": 1.0, "tie": 0.5, "lose": 0.0}
VIEWS = {"with the list": True, "without the list": False}


@dataclass(frozen=True)
class Asked:
    """A held-out request."""

    id: str
    prompt: Messages


def held_out_replies(
    folder: Path, rows: Sequence[Row], models: dict[str, Callable[[], Generator]], sampling: Sampling
) -> dict[str, list[str]]:
    """Model to its reply to the request of every row, kept in `folder`."""
    tasks = [Asked(str(row["id"]), row["prompt"]) for row in rows]
    return {
        name: [
            row["responses"][0]
            for row in answer_rows(
                folder / f"replies-{name}.jsonl", tasks, model, sampling, label=f"Replying, model {name}"
            )
        ]
        for name, model in models.items()
    }


def compare_replies(
    judge: Judge, rows: Sequence[Row], after: Sequence[str], before: Sequence[str], *, max_failures: float
) -> dict[str, Any]:
    """For each view the win rate of the first replies (ties half), with its bootstrap interval over requests, and what the
    verdicts were like. Equal replies tie without being asked about; a request with a verdict that cannot be read is in no
    rate.

    Args:
        rows: have `prompt` and `checklist`.

    Raises:
        CoalignError: more verdicts are missing than `max_failures` allows.
    """
    found: dict[str, Any] = {}
    for view, guided in VIEWS.items():
        places = [n for n in range(len(rows)) if after[n].strip() != before[n].strip()]
        items = [pair_item(rows[n], after[n], before[n], guided=guided) for n in places]
        verdicts = judge.compare(items, label=f"Comparing {view}") if items else []
        check_failures(verdicts, limit=max_failures)
        outcomes: dict[int, str] = dict.fromkeys(set(range(len(rows))) - set(places), "tie")
        for n, verdict in zip(places, verdicts, strict=True):
            choices: list[Choice] = [one.choice for one in verdict.opinions if one.choice]
            if len(choices) == len(verdict.opinions):
                outcomes[n] = checklist_outcome(choices)
        rated = [CREDIT[outcomes[n]] for n in sorted(outcomes)]
        summary = summarise(verdicts)
        found[view] = {
            **(bootstrap_mean(rated).to_dict() if rated else {}),
            "requests": len(rows),
            "equal": len(rows) - len(places),
            "outcomes": {one: list(outcomes.values()).count(one) for one in CREDIT},
            "unread": len(rows) - len(rated),
            "first shown": summary.first_shown,
            "consistency": summary.consistency,
        }
    return found
