"""Commands that are killed at random moments, by signals, in processes of their own, and started again.

A process is forked from this one, which has imported what they need, so that a moment is one of the work and not of the
imports. What it leaves at last must differ from what an undisturbed process leaves in nothing but times.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coalign.cli.main import INTERRUPTED, main
from coalign.core.options import build, to_dict
from coalign.core.runs import Run
from coalign.core.system import load_system
from tests.contract.artefacts import artefacts, assert_close
from tests.contract.small import SMALL, VARIANTS, furnish
from tests.models.endpoint_server import Server, running

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST = 120.0
"""Seconds after which an attempt hangs."""
SYSTEMS = (
    "ln-dpo", "act", "cut over rounds", "cream", "d2o", "urial", "varco-arena", "alignscore that learns", "reward-transform", "honesty",
)  # fmt: skip
"""Trainings, loops, a decoding method, a judge, a module of its own, reinforcement learning, an evaluation."""
BY_SET = ("adapter_config.json",)
"""Lists modules in the order of a set."""
CONCURRENCY = 2
SAID = "said.txt"
"""File of what the last process said."""


@dataclass(frozen=True)
class Attempt:
    """How a process ended: its exit status (negative: the signal), after how long, and whether we had sent a signal."""

    status: int
    seconds: float
    sent: bool


def attempt(argv: Sequence[str], *, after: float | None = None, by: int = signal.SIGKILL) -> Attempt:
    """Run the command line in a process of its own; `after` so many seconds it gets a signal.

    Raises:
        AssertionError: it does not end.
    """
    child = os.fork()
    if child == 0:
        _work(argv)
    started, sent = time.monotonic(), False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - started
        if ended:
            return Attempt(os.waitstatus_to_exitcode(status), seconds, sent)
        if not sent and after is not None and seconds >= after:
            os.kill(child, by)
            sent = True
        if seconds > LONGEST:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"hangs: {' '.join(argv)}")
        time.sleep(0.002)


def _work(argv: Sequence[str]) -> None:
    """The child: the command line, with the signal handlers and the silence of a process of its own."""
    code = 99
    try:
        import torch

        torch.set_num_threads(1)  # threads do not survive a fork
        for number in SIGNALS[1:]:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.closerange(3, 1024)  # sockets of servers in the parent, above all
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (1, 2):
            os.dup2(os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        main(argv)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    except KeyboardInterrupt:  # before or after the command line's own net
        code = INTERRUPTED
    except BaseException:
        code = 98
    finally:
        sys.stderr.flush()
        os._exit(code)


@dataclass(frozen=True)
class Victim:
    """What is killed.

    Attributes:
        argv: the command line whose results go into a folder.
        assert_like: fails where two folders of results differ in more than times.
        is_done: whether a killed process had nothing left to do, where the command says so when it is called again.
    """

    name: str
    argv: Callable[[Path], list[str]]
    assert_like: Callable[[Path, Path], None]
    is_done: Callable[[Path], bool] = lambda _: False


def run_of(name: str, changes: dict[str, Any] | None = None) -> Victim:
    """The tiny run of a system or of a variant (`tests.contract.small`); its files are made in this folder."""
    slug, small = VARIANTS.get(name, (name, SMALL.get(name)))
    assert small is not None
    furnish(Path(), small)
    values = to_dict(build(load_system(slug).Config, {**small.options, **(changes or {})}))
    file = Path(f"{name}.yaml")
    file.write_text(json.dumps(values), encoding="utf-8")
    return Victim(
        name, lambda folder: ["run", slug, "--config", str(file), "--out", str(folder)], assert_runs_alike
    )


def assert_runs_alike(folder: Path, undisturbed: Path) -> None:
    """Figures, artefacts and weights are the same to the last bit."""
    one, other = Run.open(folder), Run.open(undisturbed)
    assert one.state == "done"
    assert one.status().get("figures") == other.status().get("figures")
    assert_close(artefacts(folder, but=BY_SET), artefacts(undisturbed, but=BY_SET), rtol=0, atol=0)
    for file in other.model.glob("*.safetensors"):
        assert (one.model / file.name).read_bytes() == file.read_bytes(), file.name


def generation(server: Server) -> Victim:
    """`coalign generate` over an endpoint that takes its time."""
    prompts = Path("asked.jsonl")
    prompts.write_text("".join(json.dumps({"id": f"q{n}", "prompt": f"say {n}"}) + "\n" for n in range(40)))
    server.fault = lambda *_: time.sleep(0.02) or False

    def argv(folder: Path) -> list[str]:
        return ["generate", "--prompts", str(prompts), "--endpoint", server.address, "--endpoint-concurrency", str(CONCURRENCY),
                "--endpoint-cache", str(folder / "c.sqlite"), "--samples", "2", "--out", str(folder / "out.jsonl")]  # fmt: skip

    def alike(folder: Path, undisturbed: Path) -> None:
        assert (folder / "out.jsonl").read_bytes() == (undisturbed / "out.jsonl").read_bytes()

    return Victim("generate over an endpoint", argv, alike, lambda folder: (folder / "out.jsonl").exists())


@contextlib.contextmanager
def victims(names: Sequence[str] = SYSTEMS) -> Iterator[list[Victim]]:
    """The tiny runs of `names`, and generation over an endpoint in this process."""
    with running() as server:
        yield [*map(run_of, names), generation(server)]


@dataclass
class Drilled:
    """What kills did.

    Attributes:
        kills: signals that ended a process, by their name.
        resumed: attempts that went on with what a killed one had left.
        finished: results that were compared with the undisturbed ones.
        seconds: in all.
        faults: what differs, by victim.
    """

    kills: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def told(self) -> str:
        """A line of figures, one of what was killed, and every fault."""
        kills = ", ".join(f"{count} by {name}" for name, count in self.kills.items())
        lines = [
            f"{self.kills.total()} kills ({kills}), {self.resumed} attempts that went on, {self.seconds:.0f} s"
        ]
        lines.append(", ".join(f"{name}: {count} compared" for name, count in self.finished.items()))
        return "\n".join([*lines, *self.faults])


def drill(
    chosen: Sequence[Victim],
    kills: int,
    *,
    seed: int = 0,
    folder: Path = Path("killed"),
    until: float | None = None,
) -> Drilled:
    """So many kills, in turn over all; what is there in the end, and whatever finished between kills, is compared.

    Args:
        until: seconds after which no further kill is made.
    """
    found, started = Drilled(), time.monotonic()
    for number, victim in enumerate(chosen):
        mine = kills // len(chosen) + (number < kills % len(chosen))
        try:
            _killed(
                victim,
                mine,
                random.Random(f"{seed} {victim.name}"),
                folder / victim.name,
                found,
                until and started + until,
            )
        except AssertionError as error:
            found.faults.append(f"{victim.name}: {error}")
    found.seconds = time.monotonic() - started
    return found


def _killed(
    victim: Victim, kills: int, draw: random.Random, folder: Path, found: Drilled, until: float | None
) -> None:
    whole = folder / "undisturbed"
    once = attempt(victim.argv(whole))
    assert once.status == 0, f"the undisturbed run ends with {once.status}: {_said()}"
    left, place, begun = kills, 0, False
    while left and (until is None or time.monotonic() < until):
        # What a killed run leaves to do is less and less: moments are drawn from all of it, and its end comes up too.
        by = draw.choice(SIGNALS)
        ended = attempt(victim.argv(folder / str(place)), after=draw.uniform(0, once.seconds * 0.9), by=by)
        found.resumed += begun
        if ended.sent and ended.status != 0:
            assert ended.status in (-by, INTERRUPTED), (
                f"ends with {ended.status} on {signal.Signals(by).name}"
            )
            found.kills[signal.Signals(by).name] += 1
            left, begun = left - 1, True
        else:  # it was faster
            assert ended.status == 0, f"goes on and ends with {ended.status}: {_said()}"
            begun = False
        if not begun or victim.is_done(folder / str(place)):
            _compare(victim, folder / str(place), whole, found)
            place, begun = place + 1, False
    ended = attempt(victim.argv(folder / str(place)))
    found.resumed += begun
    assert ended.status == 0, f"goes on and ends with {ended.status}: {_said()}"
    _compare(victim, folder / str(place), whole, found)


def _said() -> str:
    return Path(SAID).read_text(encoding="utf-8", errors="replace")[-500:]


def _compare(victim: Victim, folder: Path, undisturbed: Path, found: Drilled) -> None:
    victim.assert_like(folder, undisturbed)
    found.finished[victim.name] += 1
