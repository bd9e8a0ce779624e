"""A child process that is watched: what it and all its children take, and how it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

from coalign.core.errors import CoalignError

if TYPE_CHECKING:
    import psutil

Status = Literal["ok", "failed", "timeout", "memory", "killed"]
_DRAIN = 1.0
"""Seconds to wait for the last output of processes that were killed."""


class SandboxError(CoalignError):
    """Code that is not run: no guard can be had, or the guard could not be set up."""


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Attributes:
        status: `ok`: exit code 0; `failed`: another exit code; `timeout`; `memory`: more than allowed, or a Python
            program that ended with MemoryError; `killed`: ended by a signal, or for too many processes.
        exit_code: of the command; minus the number of the signal that ended it.
        stdout, stderr: the first `output_kb` of each; bytes that are no UTF-8 are replaced.
        seconds: wall time.
    """

    status: Status
    exit_code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True)
class Limits:
    """Of a command with all that it starts: seconds of wall time, bytes of memory, processes at once, bytes of each output."""

    seconds: float
    memory: int
    processes: int
    output: int


def watch(
    arguments: list[str],
    folder: str,
    environment: Mapping[str, str],
    *,
    stdin: str,
    limits: Limits,
    pipes: Sequence[int],
    guard: str,
) -> Outcome:
    """Start a process, hold it to what it cannot hold itself to (wall time, all its processes), and end it.

    Args:
        pipes: that it inherits.
        guard: for messages.

    Raises:
        SandboxError: it cannot be started.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as given:
        given.write(stdin.encode("utf-8", "surrogatepass"))
        given.seek(0)
        try:
            process = subprocess.Popen(
                arguments,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=environment,
                pass_fds=tuple(pipes),
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxError(f"{arguments[0]} was not started under {guard}: {error.strerror}") from error
    outputs = [_Output(stream, limits.output) for stream in (process.stdout, process.stderr) if stream]
    seen: set[psutil.Process] = set()
    ended: Status | None = None
    pause = 0.01
    try:
        while process.poll() is None and ended is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(pause)
            pause = min(2 * pause, 0.1)
            if time.monotonic() - began > limits.seconds:
                ended = "timeout"
            elif process.poll() is None:
                ended = _over(process.pid, seen, limits)
    finally:
        _end(process, seen)
    stdout, stderr = (one.text() for one in outputs)
    code = process.returncode
    if code > 128:
        code = 128 - code  # as a shell says that a signal ended it
    return Outcome(ended or _status(code, stderr), code, stdout, stderr, time.monotonic() - began)


def _over(pid: int, seen: set[psutil.Process], limits: Limits) -> Status | None:
    """Which limit all processes together are over."""
    import psutil

    with contextlib.suppress(psutil.Error):
        found = psutil.Process(pid).children(recursive=True)
        seen.update(found)
        if len(found) > limits.processes:
            return "killed"
        if sum(map(_memory, found)) > limits.memory and sum(map(_shared_out, found)) > limits.memory:
            return "memory"
    return None


def _memory(process: psutil.Process) -> int:
    """Bytes, with those that it shares."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss
    return 0


def _shared_out(process: psutil.Process) -> int:
    """Bytes, shared ones divided by those who share them."""
    import psutil

    with contextlib.suppress(psutil.Error):
        found = process.memory_full_info()
        return getattr(found, "pss", found.uss)
    return 0


def _end(process: subprocess.Popen[bytes], seen: set[psutil.Process]) -> None:
    """Kill a process, its session and all its descendants."""
    import psutil

    with contextlib.suppress(psutil.Error):
        seen.update(psutil.Process(process.pid).children(recursive=True))
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    for one in seen:
        with contextlib.suppress(psutil.Error):
            one.kill()
    process.wait()


def _status(code: int, stderr: str) -> Status:
    if code == 0:
        return "ok"
    if code == -getattr(signal, "SIGXCPU", 0):
        return "timeout"
    last = stderr.rstrip().rpartition("\n")[2]
    if last.split(":")[0] == "MemoryError":
        return "memory"
    return "killed" if code < 0 else "failed"


class _Output:
    """Reads a stream to its end in a thread of its own, and keeps its beginning."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self.most = most
        self.kept = bytearray()
        self.dropped = 0
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream, contextlib.suppress(OSError, ValueError):
            while piece := os.read(stream.fileno(), 65_536):
                kept = piece[: self.most - len(self.kept)]
                self.kept += kept
                self.dropped += len(piece) - len(kept)

    def text(self) -> str:
        """What was kept, once the stream has ended or nothing more is waited for."""
        self._thread.join(_DRAIN)
        text = bytes(self.kept).decode("utf-8", "replace")
        return f"{text}\n... and {self.dropped} bytes more" if self.dropped else text
