"""The command line in this process, as tests of `cli` have it, and judges by a script."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coalign.judging import options as judge_options
from tests.cli.conftest import coalign as coalign
from tests.evaluation.scripted import ScriptedGenerator


@pytest.fixture
def judge_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[ScriptedGenerator], ScriptedGenerator]:
    """Let a scripted generator, which it gives back, be the judge of every run from here on."""
    monkeypatch.setattr(
        judge_options, "identity_of", lambda options: {}
    )  # else the default model is unpacked

    def use(generator: ScriptedGenerator) -> ScriptedGenerator:
        monkeypatch.setattr(judge_options, "_open_generator", lambda options: generator)
        return generator

    return use
