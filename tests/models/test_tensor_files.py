from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import ModelError
from coalign.models.files.tensor_files import read_tensors


class Hostile:
    """Runs a command when it is unpickled in the usual way."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def pack(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_tensors_of_every_kind_come_back(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "plain": base, "transposed": base.T, "slice": base[1:3, 2:], "half": base.half(), "bfloat": base.bfloat16(),
        "long": torch.tensor([1, 2]), "flag": torch.tensor([True, False]), "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5), "parameter": torch.nn.Parameter(base),
    }  # fmt: skip
    torch.save({"state_dict": tensors}, tmp_path / "a.ckpt")
    found = read_tensors(tmp_path / "a.ckpt")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    torch.save(tensors, tmp_path / "b.pt")
    assert list(read_tensors(tmp_path / "b.pt", key=None, keep=lambda name: name == "long")) == ["long"]


def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for content in (
        {"state_dict": {"w": torch.ones(1)}, "callbacks": Hostile(f"touch {mark}")},
        {"state_dict": {"w": Hostile(f"touch {mark}")}},
    ):
        torch.save(content, tmp_path / "bad.ckpt")
        with pytest.raises(ModelError, match=r"posix\.system"):
            read_tensors(tmp_path / "bad.ckpt")
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "builtins.getattr", "torch.load", "torch._utils._rebuild_xla"]
)
def test_names_that_could_do_something_are_refused(tmp_path: Path, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    data = b"c" + module.encode() + b"\n" + attribute.encode() + b"\n)R."
    pack(tmp_path / "bad.ckpt", {"archive/data.pkl": data})
    with pytest.raises(ModelError, match="nothing of it was run"):
        read_tensors(tmp_path / "bad.ckpt")


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(8)}}, tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    cut = {name: data[:8] if "/data/" in name else data for name, data in members.items()}
    pack(tmp_path / "b.ckpt", cut)
    with pytest.raises(ModelError, match="beyond its storage"):
        read_tensors(tmp_path / "b.ckpt")


def test_faults_are_named(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"model": {"w": torch.ones(1)}}, tmp_path / "other")
    pack(tmp_path / "zip", {"readme": b"x"})
    whole = (tmp_path / "other").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    faults = {
        "none": "no such file",
        "old": r"PyTorch 1\.6",
        "other": "only: model",
        "zip": r"no data\.pkl",
        "cut": "cut off",
    }
    for name, message in faults.items():
        with pytest.raises(ModelError, match=message):
            read_tensors(tmp_path / name)
