"""The universal form of DeepSpeed's checkpoints: what is refused, and that a failure leaves nothing behind."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from coalign.core.errors import ConfigError
from coalign.training.distributed import universal
from coalign.training.distributed.sharding import WEIGHTS_IN_PARTS, assert_readable


def written(folder: Path, stage: int = 2, processes: int = 2, **state: Any) -> Path:
    """A checkpoint with the files of DeepSpeed that are looked at."""
    parts = folder / "global_step2"
    parts.mkdir(parents=True)
    base = {"state": {0: state or {"step": 2, "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}}}
    key = "base_optimizer_state" if stage < 3 else "optimizer_state_dict"
    for rank in range(processes):
        name = f"zero_pp_rank_{rank}_mp_rank_00"
        torch.save({"optimizer_state_dict": {key: base}}, parts / f"{name}_optim_states.pt")
        torch.save({}, parts / (f"{name}_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"))
    return folder


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("code", "stderr", "said"),
    [
        (
            1,
            "Traceback\nOSError: [Errno 28] No space left on device\n",
            "OSError: .* No space left on device",
        ),
        (-9, "half a line", "the converter ended with exit code -9"),
    ],
)
@pytest.mark.parametrize("stage", [2, 3])
def test_a_converter_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, code: int, stderr: str, said: str
) -> None:
    checkpoint = written(tmp_path / "checkpoint-2", stage)
    before = contents(checkpoint)
    (checkpoint / ".universal.x.tmp").mkdir()  # of a start that was killed

    def fail(line: list[str], **rest: Any) -> SimpleNamespace:
        (Path(line[line.index("--output_folder") + 1]) / "zero").mkdir(parents=True)
        return SimpleNamespace(returncode=code, stderr=stderr)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(
        ConfigError, match=f"of 2 processes could not be put together for another number: {said}"
    ) as raised:
        universal.convert(checkpoint)
    assert raised.value.hint is not None
    assert "--processes 2" in raised.value.hint
    assert contents(checkpoint) == before


def test_a_part_that_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    checkpoint = written(tmp_path / "checkpoint-2")
    universal.parts_of(checkpoint)[0].write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"of 2 processes could not be put together"):
        universal.convert(checkpoint)


def test_it_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = written(tmp_path / "checkpoint-2")
    made: list[list[str]] = []

    def make(line: list[str], **rest: Any) -> SimpleNamespace:
        made.append(line)
        Path(line[line.index("--output_folder") + 1]).mkdir()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", make)
    universal.convert(checkpoint)
    (checkpoint / "latest_universal").unlink()  # killed between the two
    universal.convert(checkpoint)
    assert len(made) == 1
    assert "--inject_missing_state" in made[0]
    assert (checkpoint / "latest_universal").read_text() == "universal"
    assert len(universal.parts_of(checkpoint)) == 2


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"momentum_buffer": torch.ones(3)}, "momentum_buffer"),
        ({"exp_avg": torch.ones(3)}, "exp_avg"),
        (dict.fromkeys(("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), torch.ones(3)), "max_exp_avg_sq"),
        ({"step": 2}, "nothing"),
    ],
)
@pytest.mark.parametrize("stage", [2, 3])
def test_a_state_that_would_be_lost_is_refused(
    tmp_path: Path, stage: int, state: dict[str, Any], named: str
) -> None:
    checkpoint = written(tmp_path / "checkpoint-2", stage, 3, **state)
    with pytest.raises(ConfigError, match=f"an optimizer that keeps .*{named}") as raised:
        universal.convert(checkpoint)
    assert "--processes 3" in str(raised.value)


def test_what_a_start_cannot_read_is_refused(tmp_path: Path) -> None:
    made = {
        "ddp": tmp_path / "ddp",
        "fsdp2": tmp_path / "fsdp2",
        "zero2": written(tmp_path / "zero2"),
        "zero3": written(tmp_path / "zero3", 3),
    }
    made["ddp"].mkdir()
    (made["fsdp2"] / WEIGHTS_IN_PARTS).mkdir(parents=True)
    starts = {"ddp": (False, 0), "fsdp2": (True, 0), "zero2": (False, 2), "zero3": (False, 3)}
    for name, (fsdp, stage) in starts.items():
        for recipe, folder in made.items():
            if name == recipe or (name, recipe) == ("ddp", "fsdp2"):
                assert_readable(folder, fsdp=fsdp, stage=stage)
                continue
            with pytest.raises(ConfigError, match=f"under the recipe {recipe}, ") as raised:
                assert_readable(folder, fsdp=fsdp, stage=stage)
            assert f"--recipe {recipe}" in str(raised.value)


@pytest.mark.parametrize("before", [{}, {"checkpoint": {"tag_validation": "Fail"}}])
def test_only_engines_of_the_block_read_it(before: dict[str, Any]) -> None:
    configuration = {"steps_per_print": 1, **before}
    with universal.loads_universal(configuration):
        assert configuration["checkpoint"] == {**before.get("checkpoint", {}), "load_universal": True}
    assert configuration == {"steps_per_print": 1, **before}


def test_groups_counts_and_buffers_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    """An engine as DeepSpeed leaves it under ZeRO 3: the first group's options in both, one count for both parts."""
    module = torch.nn.BatchNorm1d(3)
    optimizer = torch.optim.AdamW(
        [{"params": [module.weight], "weight_decay": 0.1}, {"params": [module.bias], "weight_decay": 0.1}]
    )
    one_count = torch.tensor(2.0)
    for weight in (module.weight, module.bias):
        optimizer.state[weight]["step"] = one_count
    folder = tmp_path / universal.FOLDER
    (folder / "zero").mkdir(parents=True)
    saved = [
        {"weight_decay": 0.1, "lr": 0.5, "params": [0]},
        {"weight_decay": 0.0, "lr": 0.25, "params": [1]},
    ]
    torch.save({"param_groups": saved}, folder / "zero" / "optimizer_state.pt")
    weights = {"running_mean": torch.tensor([1.0, 2.0, 3.0]), "weight": torch.empty(0)}
    torch.save({"module": weights}, folder / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    universal.complete(
        SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer), module=module), tmp_path
    )
    first, second = optimizer.param_groups
    assert (first["weight_decay"], first["lr"]) == (0.1, 0.5)
    assert (second["weight_decay"], second["lr"]) == (0.0, 0.25)
    assert second["params"] == [module.bias]
    optimizer.state[module.weight]["step"] += 1
    assert optimizer.state[module.bias]["step"] == 2
    assert module.running_mean is not None
    assert module.running_mean.tolist() == [1.0, 2.0, 3.0]
    assert module.weight.tolist() == [1.0, 1.0, 1.0]
