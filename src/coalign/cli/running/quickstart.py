"""`coalign quickstart`: align a small chat model on this machine and show the proof."""

from __future__ import annotations

from pathlib import Path

import click

from coalign.cli.threads import takes_threads

SETTINGS = {
    "prompts": "quickstart",
    "samples": 6,
    "temperature": 0.9,
    "margin": 0.5,
    "max_new_tokens": 48,
    "learning_rate": 1e-4,
    "epochs": 2.0,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "max_length": 256,
    "save_steps": 10,
}
"""What differs from `coalign run act`: the bundled prompts, and sizes for ten minutes on two cores."""


@click.command()
@click.option("--model", default="default", show_default=True, help="Another chat model: hub id or folder.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Run folder; the same one continues a run."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@takes_threads
def quickstart(model: str, out: Path | None, seed: int) -> None:
    """Align SmolLM2-135M-Instruct with constraints it does not obey yet (about ten minutes on two cores).

    This is `coalign run act` with bundled prompts. It needs no account, no GPU and no labels.
    """
    from coalign.cli.running.run import execute
    from coalign.core.options import build
    from coalign.selfalign import act

    execute("act", act, build(act.Config, {**SETTINGS, "model": model, "seed": seed}), out)
