"""The stand-in for vLLM of a test: how it is named, what it was asked."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from coalign.models.backends.open import open_generator
from coalign.models.backends.options import BackendOptions
from coalign.models.options import ModelOptions

STAND_IN = Path(__file__).with_name("vllm_stand_in.py")
COMMAND = shlex.join([sys.executable, str(STAND_IN)])


class StandIn:
    """Writes what it is asked into a file of the test's folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._log, self._monkeypatch = folder / "requests.jsonl", monkeypatch
        self.set()

    def set(self, **settings: Any) -> None:
        self._monkeypatch.setenv("STAND_IN", json.dumps({"log": str(self._log), **settings}))

    def options(self, **changes: Any) -> BackendOptions:
        return BackendOptions(**{"backend": "vllm-server", "vllm_command": COMMAND, **changes})

    def open(self, model: str | Path, **changes: Any) -> Any:
        return open_generator(ModelOptions(model=str(model), dtype="float32"), self.options(**changes))

    def asked(self, path: str = "/v1/completions") -> list[dict[str, Any]]:
        return [one["body"] for one in self._lines() if one.get("path") == path]

    def starts(self) -> list[dict[str, Any]]:
        return [one for one in self._lines() if "started" in one]

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
