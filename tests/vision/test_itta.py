"""`coalign run itta`: leaving out a domain, following a stream with a trained model, the released step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalign.cli.running.run import execute
from coalign.core.errors import ConfigError, DataError, ModelError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.report.html import read_report
from coalign.vision import itta
from tests.vision.pictures import domain_pictures, save_tiny_resnet

FAST = {
    "device": "cpu",
    "max_steps": 2,
    "batch_per_domain": 2,
    "save_steps": 0,
    "test_batch": 3,
    "learning_rate": 1e-3,
}


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Starts runs in a folder with pictures of two domains under `set/` and a ResNet in `resnet`."""
    monkeypatch.chdir(tmp_path)
    domain_pictures(tmp_path / "set", 3)
    save_tiny_resnet(tmp_path / "resnet")

    def start(name: str, **options: Any) -> Run:
        config = build(itta.Config, {"device": "cpu", **options})
        return execute("itta", itta, config, tmp_path / name)

    return start


def test_a_trained_model_follows_a_stream(started: Callable[..., Run], tmp_path: Path) -> None:
    trained = started("trained", **FAST, model="resnet", data="set", stream="set/bright/high")
    assert len(read_rows(trained.artefacts / "round-1" / "predictions.jsonl")) == 3
    assert json.loads((trained.artefacts / "round-1" / "training.json").read_text())["domains"] == [
        "bright",
        "dark",
    ]
    common: dict[str, Any] = {"model": "trained", "stream": "set", "test_batch": 5}
    followed = started("followed", **common)
    rows = read_rows(followed.artefacts / "round-1" / "predictions.jsonl")
    batches = read_rows(followed.artefacts / "round-1" / "batches.jsonl")
    assert [one["pictures"] for one in batches] == [5, 5, 2]
    assert all(one["moved"] > 0 for one in batches)
    assert {row["label"] for row in rows} == {"high", "wide"}, "folders name the classes"
    assert "Accuracy" in [one.title for one in read_report(followed.report).sections]
    still = started("still", **common, adapt=False)
    same = read_rows(still.artefacts / "round-1" / "predictions.jsonl")
    assert (
        [row["plain"] for row in same] == [row["predicted"] for row in same] == [row["plain"] for row in rows]
    )
    released = started("released", model="trained", stream="set", released=True)
    assert "changed nothing" in read_report(released.report).verdict.text
    assert max(one["moved"] for one in read_rows(released.artefacts / "round-1" / "batches.jsonl")) < 1e-7
    given = started("given", **common, order="given")
    assert [row["id"] for row in read_rows(given.artefacts / "round-1" / "predictions.jsonl")] == sorted(
        row["id"] for row in rows
    )


def test_what_cannot_be_run_is_told(started: Callable[..., Run]) -> None:
    with pytest.raises(ConfigError, match="There is nothing to do"):
        started("a")
    with pytest.raises(ConfigError, match="--target: night is no domain of set, expected bright, dark"):
        started("b", model="resnet", data="set", target=["night"])
    with pytest.raises(DataError, match="1 domain, expected two at least"):
        started("c", model="resnet", data=str(one_domain()))
    with pytest.raises(ModelError, match="was not trained on several domains here"):
        started("d", model="resnet", stream="set")
    plain = started("plain", **FAST, model="resnet", data="set", stream="set", adapt=False, views=False)
    assert plain.state == "done"
    with pytest.raises(ConfigError, match="trained without a consistency"):
        started("e", model="plain", stream="set")


def one_domain() -> Path:
    folder = Path("single")
    domain_pictures(folder, 2)
    for path in sorted((folder / "dark").rglob("*.png")):
        path.unlink()
    return folder
