"""Data sets of the hub where it cannot be reached: at once from the cache, with the date of the copy, or one line."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants as hub
import pytest

from coalign.core.errors import DataError
from coalign.data.files import columnar
from coalign.data.files.hub import TAKEN
from coalign.data.readers import read_records
from coalign.training.material import LearningOptions, read_material


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "hub_problem", lambda: "no network")
    monkeypatch.setattr(columnar, "TAKEN", TAKEN)
    TAKEN.clear()


def test_a_copy_of_the_cache_is_taken_and_its_date_is_said(
    unreachable: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = datasets.Dataset.from_list([{"prompt": f"Say {n}", "completion": "so"} for n in range(8)])
    rows.save_to_disk(str(tmp_path / "saved"))
    written = next((tmp_path / "saved").glob("*.arrow"))
    os.utime(written, (time.mktime((2026, 2, 3, 12, 0, 0, 0, 0, -1)),) * 2)
    seen: list[tuple[bool, bool]] = []

    def load(name: str, configuration: str | None) -> Any:
        seen.append((hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE))
        return datasets.DatasetDict(train=datasets.load_from_disk(str(tmp_path / "saved")))

    before = hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    monkeypatch.setattr(datasets, "load_dataset", load)
    material = read_material(LearningOptions(data="owner/name"), "demonstration")
    assert "copy of 2026-02-03 in the cache: the hub cannot be reached" in material.notes[0]
    assert seen == [(True, True)]
    assert before == (hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)


def test_what_is_not_in_the_cache_is_one_line_at_once(unreachable: None) -> None:
    began = time.monotonic()
    with pytest.raises(
        DataError, match=r"owner/none: no such file, .* cannot be reached: no network"
    ) as caught:
        read_records("owner/none")
    assert time.monotonic() - began < 3
    assert "\n" not in str(caught.value.message)
