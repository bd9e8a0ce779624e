"""The workbench: runs, reports, methods and two models side by side, as local pages.

    coalign ui

Everything that a page shows of runs is escaped; reports open in a sandbox of their own. Only names that the listing
knows are taken, so no request reaches a file outside of the run folders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from coalign.core.catalogue import ROOMS, entries
from coalign.core.errors import CoalignError, ConfigError, RunError
from coalign.core.extras import require
from coalign.core.runs import STATES, Run, list_runs
from coalign.guide.taxonomy import MAPS
from coalign.platform.methods import methods as methods_known
from coalign.web import control as control_of
from coalign.web.guide import advice_values, map_values
from coalign.web.local import add_static, local_app, status_of
from coalign.web.pages import ANNOTATION, PLACES, START, STATIC, render, render_part
from coalign.web.playground import Models, Open, as_lines, parse_request
from coalign.web.run_page import curves_of, groups_of, progress_of
from coalign.web.sample_pages import page_of, sample_file, sample_files

if TYPE_CHECKING:
    from fastapi import FastAPI

SANDBOX = "sandbox allow-scripts allow-popups allow-downloads"
"""Policy of a run's report: it brings a policy and scripts of its own and must not reach the workbench."""
T = TypeVar("T")


def workbench(
    root: Path,
    models: Sequence[str] = ("default",),
    *,
    load: Open | None = None,
    annotation: FastAPI | None = None,
    control: bool = True,
) -> FastAPI:
    """The application.

    Args:
        root: folder of the run folders.
        models: further models to generate with, besides those that the runs made: hub ids or folders.
        load: how a model is loaded, by default with Transformers.
        annotation: pages for the blind comparison of pairs (`coalign.web.annotate.annotation_app`).
        control: whether runs may be started, continued, stopped and deleted (`coalign.web.control`).

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    fastapi = require("fastapi", "serve")
    responses = require("fastapi.responses", "serve")
    app = local_app("coalign")
    playground = Models({}, load)
    places = PLACES if control else tuple(one for one in PLACES if one != START)
    if annotation is not None:
        app.mount(ANNOTATION[0].rstrip("/"), annotation)
        places = (*places, ANNOTATION)

    def page(template: str, **values: Any) -> Any:
        return responses.HTMLResponse(render(template, places=places, **values))

    def known_models() -> list[dict[str, str]]:
        """The models that can be asked for, and those of runs that have come since."""
        made = {run.path.name: str(run.path) for run in _latest(root) if _has_model(run)}
        playground.names = {**{one: one for one in models}, **made}
        return [{"name": name, "label": name} for name in playground.names]

    @app.exception_handler(CoalignError)
    async def failed(request: Any, error: CoalignError) -> Any:
        status = status_of(error)
        if request.url.path.startswith("/api/"):
            return responses.JSONResponse({"error": str(error)}, status)
        text = render("problem.html.j2", place="", title="Not found", message=str(error))
        return responses.HTMLResponse(text, status)

    @app.get("/")
    def runs() -> Any:
        rows = [run_row(run) for run in _latest(root)]
        return page(
            "runs.html.j2", place="/", title="Runs", root=str(root), runs=rows, states=STATES, control=control
        )

    @app.get("/api/runs")
    def run_states() -> Any:
        return [
            {key: row[key] for key in ("name", "state", "headline")} for row in map(run_row, _latest(root))
        ]

    @app.get("/runs/{name}")
    def run(name: str) -> Any:
        found = _run(root, name)
        damage: list[str] = []
        rows = _or(damage, found.events, [])
        return page(
            "run.html.j2",
            place="/",
            title=name,
            run=run_row(found),
            samples=sample_files(found.path),
            **live(found, rows),
            others=[one.path.name for one in _latest(root) if one.path.name != name],
            output=control_of.output(root, name),
            options=_or(damage, found.config, {}),
            damage=damage,
            control=control,
        )

    def live(run: Run, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"progress": progress_of(rows), "curves": curves_of(rows), "groups": groups_of(rows)}

    @app.get("/runs/{name}/live")
    def live_part(name: str) -> Any:
        found = _run(root, name)
        row = run_row(found)
        events = _or([], found.events, [])
        return responses.HTMLResponse(
            render_part("live.html.j2", run=row, **live(found, events)), headers={"x-state": row["state"]}
        )

    if control:
        control_of.add_control(app, root, lambda name: _run(root, name))

        @app.get("/start")
        def start(method: str = "") -> Any:
            return page(
                "start.html.j2",
                place="/start",
                title="New run",
                methods=[name for name in methods_known() if name not in planned()],
                method=method,
                given=control_of.template(method) if method else "",
            )

    @app.get("/runs/{name}/report")
    def report(name: str) -> Any:
        found = _run(root, name)
        if not found.report.exists():
            raise RunError(f"{name} has no report yet (its state: {found.summary()['state']}).")
        if not found.report.resolve().is_relative_to(root.resolve()):
            raise RunError(f"{name}: its report is a link to a file outside of {root}.")
        return responses.FileResponse(
            found.report, media_type="text/html", headers={"content-security-policy": SANDBOX}
        )

    @app.get("/runs/{name}/samples/{file}")
    def samples(name: str, file: str, line: int = 1) -> Any:
        found = _run(root, name)
        return page(
            "samples.html.j2", place="/", title=f"{name}: {file}", run=run_row(found), file=file,
            **page_of(sample_file(found.path, file), line),
        )  # fmt: skip

    @app.get("/compare")
    def compare(run: list[str] = fastapi.Query(default=[])) -> Any:  # noqa: B008  FastAPI's idiom
        from coalign.report.compare import comparison_report
        from coalign.report.html import render_html

        if len(run) < 2:
            raise RunError("Tick at least two runs to compare.")
        text = render_html(comparison_report([_run(root, name) for name in run]))
        return responses.HTMLResponse(text, headers={"content-security-policy": SANDBOX})

    @app.get("/methods")
    def methods() -> Any:
        return page(
            "methods.html.j2",
            place="/methods",
            title="Methods",
            entries=entries(),
            rooms=ROOMS,
            control=control,
        )

    def advised(request: Any) -> Any:
        asked = {name: request.query_params.getlist(name) for name in request.query_params}
        return page("advise.html.j2", place="/advise", title="Which method", **advice_values(asked))

    app.add_route("/advise", advised, methods=["GET"])

    @app.get("/map/{name}")
    def field(name: str, node: str = "") -> Any:
        if name not in MAPS:
            raise ConfigError(f"No map is called {name!r}; there are {', '.join(MAPS)}.")
        return page("map.html.j2", place="/advise", title="Map of the field", **map_values(name, node))

    @app.get("/play")
    def play(a: str = "", b: str = "") -> Any:
        listed = known_models()
        names = [one["name"] for one in listed]
        first = a if a in names else names[0]
        second = b if b in names else names[min(len(models), len(names) - 1)]
        sides = [{"letter": "A", "model": first}, {"letter": "B", "model": second}]
        return page("play.html.j2", place="/play", title="Side by side", models=listed, sides=sides)

    async def generate(request: Any) -> Any:
        asked = await parse_request(request)
        if asked.model not in playground.names:
            known_models()
        return responses.StreamingResponse(
            as_lines(playground.answer(asked)), media_type="application/x-ndjson"
        )

    app.add_route("/api/generate", generate, methods=["POST"])

    add_static(app, STATIC)
    return app


def run_row(run: Run) -> dict[str, Any]:
    """What the pages say of a run."""
    made = {"report": run.report.exists(), "model": _has_model(run)}
    return {"name": run.path.name, **run.summary(), **made}


def planned() -> set[str]:
    """Systems that cannot run yet."""
    return {entry.slug for entry in entries() if not entry.available}


def _latest(root: Path) -> list[Run]:
    return list(list_runs(root))[::-1]


def _run(root: Path, name: str) -> Run:
    """The run called `name`, which must be one that the folder lists."""
    for run in list_runs(root):
        if run.path.name == name:
            return run
    raise RunError(f"{name}: no such run under {root}.")


def _has_model(run: Run) -> bool:
    return (run.model / "config.json").exists() or (run.model / "adapter_config.json").exists()


def _or(damage: list[str], read: Callable[[], T], otherwise: T) -> T:
    """What `read` gives; where a file of the run is damaged, what is wrong with it is kept."""
    try:
        return read()
    except CoalignError as error:
        damage.append(str(error))
        return otherwise
