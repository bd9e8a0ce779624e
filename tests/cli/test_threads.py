"""`--threads`, and the number that is chosen."""

import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from coalign.cli.main import coalign
from coalign.core.machine import cores
from coalign.models.devices import describe_device, share_cores


@pytest.fixture
def unwatched(monkeypatch):
    monkeypatch.setattr(cores, "_watched", None)
    before = torch.get_num_threads()
    yield monkeypatch
    torch.set_num_threads(before)


class Free:
    def __init__(self, count: int) -> None:
        self.count = count

    def free(self, least: float) -> int:
        return self.count


def test_the_plan_says_that_others_work_too(unwatched):
    unwatched.setattr(cores, "_watched", Free(1))
    unwatched.setattr("coalign.models.devices.usable_cores", lambda: 8)
    share_cores()
    assert torch.get_num_threads() == 1
    assert describe_device(torch.device("cpu")) == "cpu (1 thread for 8 cores, on which others work too)"
    unwatched.setattr(cores, "_watched", Free(2))
    share_cores()
    assert torch.get_num_threads() == 2


def test_threads_of_a_program_are_its_own(unwatched):
    torch.set_num_threads(1)
    share_cores(least=0)
    assert torch.get_num_threads() == 1
    assert describe_device(torch.device("cpu")) == "cpu (1 thread)"


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_odd_numbers_are_refused(value):
    result = CliRunner().invoke(coalign, ["run", "sft", "--threads", value, "--print-config"])
    assert result.exit_code == 2
    assert "--threads" in result.output


def test_threads_reach_the_products_and_not_the_configuration():
    code = (
        "import contextlib; from coalign.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main(['run', 'sft', '--threads', '1', '--print-config'])\n"
        "import torch; print(torch.get_num_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    *config, count = done.stdout.splitlines()
    assert count == "1"
    assert not any("threads" in line for line in config)
