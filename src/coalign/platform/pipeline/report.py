"""The report of a pipeline: its stages, their headlines and where their own reports are."""

from __future__ import annotations

from collections.abc import Sequence

from coalign.core.runs import Run
from coalign.platform.pipeline.chain import ChainOptions, Step
from coalign.platform.pipeline.description import Pipeline
from coalign.report import model as doc
from coalign.report.page import publish


def write_pipeline_report(
    pipeline: Pipeline, config: ChainOptions, run: Run, steps: Sequence[Step]
) -> doc.Report:
    """Report and headline of a pipeline from the run folders of its stages."""
    done = [one for one in steps if one.state == "done"]
    last = done[-1] if done else None
    text = f"{len(done)} of {len(steps)} stages are done."
    if last:
        text += f" The last, {last.name}: {Run(last.folder).summary()['headline']}"
    return publish(
        run,
        config,
        title=pipeline.name,
        verdict=doc.Headline("neutral", text),
        facts={"Pipeline": pipeline.place, **{name: str(value) for name, value in pipeline.settings.items()}},
        sections=[
            doc.TableSection(
                title="Stages",
                note="Each is a run folder of its own with its own report.",
                columns=["Stage", "Method", "State", "After", "Result"],
                rows=[
                    [
                        one.name,
                        one.stage.method,
                        one.state,
                        ", ".join(sorted(pipeline.needs(one.stage))) or "–",
                        Run(one.folder).summary()["headline"] if one.state == "done" else "",
                    ]
                    for one in steps
                ],
            ),
            doc.Timings(
                title="Time", stages=[doc.Stage(one.name, one.seconds) for one in steps if one.seconds]
            ),
        ],
        then=[doc.Command(f"coalign report {one.folder}", f"the report of {one.name}") for one in done],
    )
