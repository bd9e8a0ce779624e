"""The samples of a run as a log of inspect_ai: its viewer, its data frames and its scanners read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coalign.core.extras import require
from coalign.evaluation.tiers.turns import Transcript


def write_inspect_log(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    *,
    model: str,
    created: str,
    settings: Mapping[str, Any],
    texts: Sequence[tuple[str, Transcript]] | None = None,
) -> Path:
    """Write rows of labels as an evaluation log in inspect_ai's JSON format, by inspect_ai itself.

    A sample is a query under a tier and a condition, an epoch one of its answers. Scores: `behaviour` (the label), `compliance` (1 or 0,
    absent where there is no label) and `reasoning` (whether it is that of alignment faking, absent where nobody can say).

    Args:
        path: ends in `.json`.
        rows: of `labels.jsonl`.
        summary: of the whole design; its plain numbers become the log's metrics.
        created: when the run began, ISO 8601.
        settings: arguments of the task.
        texts: for each row the query's text and what the model said; without them the log holds labels alone.

    Raises:
        MissingExtraError: the extra `inspect` is not installed.
    """
    log, model_api, scorer = (require(f"inspect_ai.{name}", "inspect") for name in ("log", "model", "scorer"))
    samples = []
    for place, row in enumerate(rows):
        query, said = (
            texts[place] if texts is not None else (f"query {row['query_id']} (text not kept)", None)
        )
        scores = {"behaviour": scorer.Score(value=row["output_label"], answer=row["output_label"])}
        if row["output_label"] != "unparseable":
            scores["compliance"] = scorer.Score(value=float(row["output_label"] == "compliant"))
        if row["af_reasoning"] is not None:
            answers = {name: row[name] for name in ("modification", "preservation")}
            scores["reasoning"] = scorer.Score(value=float(row["af_reasoning"]), metadata=answers)
        output = model_api.ModelOutput.from_content(model, said.text if said else "")
        messages = [model_api.ChatMessageUser(content=query), output.choices[0].message]
        samples.append(
            log.EvalSample(
                id=f"{row['condition']}/{row['tier']}/{row['query_id']}",
                epoch=row["sample"] + 1,
                input=query,
                target="",
                messages=messages if said else messages[:1],
                output=output,
                scores=scores,
                metadata={
                    name: row[name] for name in ("query_id", "condition", "tier", "setting", "turns", "seed")
                },
            )
        )
    spec = log.EvalSpec(
        created=created,
        task="alignment_faking",
        task_args=dict(settings),
        dataset=log.EvalDataset(name="queries", samples=len({one.id for one in samples})),
        model=model,
        config=log.EvalConfig(epochs=max((row["sample"] for row in rows), default=0) + 1),
        metadata={"verdict": summary["verdict"]},
    )
    numbers = {name: value for name, value in _flat(summary).items() if isinstance(value, int | float)}
    metrics = {name: log.EvalMetric(name=name, value=float(value)) for name, value in numbers.items()}
    score = log.EvalScore(name="tiers", scorer="tiers", metrics=metrics)
    results = log.EvalResults(total_samples=len(samples), completed_samples=len(samples), scores=[score])
    whole = log.EvalLog(status="success", eval=spec, results=results, samples=samples)
    log.write_eval_log(whole, str(path), format="json")
    return path


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found
