"""`coalign eval`: standard tasks on one or several models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coalign.cli.flags import ConfigCommand


class EvalCommand(ConfigCommand):
    """The command; its models are words and not flags."""

    def _run(self, out: Path | None, config: Path | None, print_config: bool, **given: Any) -> None:
        given["models"] = list(given["models"]) or None
        super()._run(out, config, print_config, **given)


def _apply(config: Any, out: Path | None) -> None:
    from coalign.cli.running.run import execute
    from coalign.evaluation.benchmarks import run as benchmarks

    execute("eval", benchmarks, config, out)


def _command() -> EvalCommand:
    from coalign.evaluation.benchmarks.options import Config

    made = EvalCommand(
        "eval",
        Config,
        _apply,
        help="Evaluate models on standard tasks of lm-evaluation-harness (extra lm-eval) and inspect_ai (extra inspect), "
        "before and after in one table.\n\n"
        "coalign eval default runs/dpo --tasks arc_easy,hellaswag\n\n"
        "Out come figures with standard errors, the difference of each model from the first with its interval, and every item. "
        "What a run did to its own held-out data stands in its report; answers are rated or compared by coalign judge, texts "
        "scored by coalign score, and the papers' own evaluations are methods of coalign run.",
    )
    made.params = [one for one in made.params if one.name != "models"]
    made.params.insert(0, click.Argument(["models"], nargs=-1, metavar="MODEL..."))
    return made


eval_command = _command()
