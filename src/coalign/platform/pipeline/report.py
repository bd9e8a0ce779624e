"""The report of a pipeline: its stages, their headlines and where their own reports are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from coalign.core.runs import Run
from coalign.platform.pipeline.chain import ChainOptions, Step
from coalign.platform.pipeline.description import Pipeline
from coalign.report import model as doc
from coalign.report.page import publish


def write_pipeline_report(
    pipeline: Pipeline, config: ChainOptions, run: Run, steps: Sequence[Step]
) -> doc.Report:
    """Report and headline of a pipeline from the run folders of its stages."""
    facts = {"Pipeline": pipeline.place, **{name: str(value) for name, value in pipeline.settings.items()}}
    needs = {one.name: pipeline.needs(one.stage) for one in steps}
    return _publish(config, run, steps, pipeline.name, needs, facts=facts)


def write_recipe_report(
    config: Any, run: Run, steps: Sequence[Step], *, title: str, **more: Unpack[More]
) -> doc.Report:
    """The same of a system that is a pipeline itself, with sections and a model card where it publishes a model.

    Args:
        config: of the whole.
        more: see `More`.
    """
    names = {one.name for one in steps}
    needs = {
        one.name: ({name for name, _ in one.stage.references()} | {*one.stage.after}) & names for one in steps
    }
    return _publish(config, run, steps, title, needs, facts={"Model": str(config.model)}, **more)


class More(TypedDict, total=False):
    """What a recipe adds to its report.

    Attributes:
        sections: in front of the table of stages.
        limitations: what the figures do not say.
        trained_on: a sentence on the data, for the model card.
        verdict: in place of how many stages are done.
        figures: of `status.json`.
    """

    sections: Sequence[Any]
    limitations: Sequence[str]
    trained_on: str
    verdict: doc.Headline
    figures: Mapping[str, Any]


def _publish(
    config: Any,
    run: Run,
    steps: Sequence[Step],
    title: str,
    needs: Mapping[str, set[str]],
    *,
    facts: Mapping[str, str],
    **more: Unpack[More],
) -> doc.Report:
    done = [one for one in steps if one.state == "done"]
    last = done[-1] if done else None
    text = f"{len(done)} of {len(steps)} stages are done."
    if last:
        text += f" The last, {last.name}: {Run(last.folder).summary()['headline']}"
    return publish(
        run,
        config,
        title=title,
        verdict=more.get("verdict") or doc.Headline("neutral", text),
        facts=facts,
        sections=[
            *more.get("sections", ()),
            doc.TableSection(
                title="Stages",
                note="Each is a run folder of its own with its own report.",
                columns=["Stage", "Method", "State", "After", "Result"],
                rows=[
                    [
                        one.name,
                        one.stage.method,
                        one.state,
                        ", ".join(sorted(needs[one.name])) or "–",
                        Run(one.folder).summary()["headline"] if one.state == "done" else "",
                    ]
                    for one in steps
                ],
            ),
            doc.Timings(
                title="Time", stages=[doc.Stage(one.name, one.seconds) for one in steps if one.seconds]
            ),
        ],
        limitations=more.get("limitations", ()),
        then=[
            *(
                [doc.Command(f"coalign chat {run.path}", "talk to the last model")]
                if run.model.is_dir()
                else []
            ),
            *(doc.Command(f"coalign report {one.folder}", f"the report of {one.name}") for one in done),
        ],
        figures=more.get("figures"),
        trained_on=more.get("trained_on") if run.model.is_dir() else None,
    )
