"""Runs code that nobody vouches for: a model's programs, tests of them, commands of an agent.

A command runs in a child process that ends with all that it started. What holds it is a guard:

- **bubblewrap**, where `bwrap` is installed and works: no network, a file system of its own in which the interpreter and the
  system's programs are read-only, processes of its own, limits.
- **namespaces**, where Linux lets a user make them: the same, made here (`inside.py`).
- **limits**: time, memory, sizes, and nothing else. Network, files and other processes of the user stay open, so it is never
  chosen by itself: `--sandbox none` says that code may run so.

How far each holds is written in `docs/how-to/code.md` and tested, attempt by attempt, in `tests/core/test_sandbox_attempts.py`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal

from coalign.core.errors import CoalignError
from coalign.core.options import Count, OptionGroup, Positive, option

if TYPE_CHECKING:
    import psutil

Guard = Literal["bubblewrap", "namespaces", "limits"]
Choice = Literal["auto", "bubblewrap", "namespaces", "none"]
Status = Literal["ok", "failed", "timeout", "memory", "killed"]

GUARDS: dict[Guard, str] = {
    "bubblewrap": "bubblewrap (no network, a file system and processes of its own, limits)",
    "namespaces": "Linux namespaces (no network, a file system and processes of its own, limits)",
    "limits": "limits alone (network, files and other processes stay open)",
}
FOLDER = "/tmp/box"
"""Where a command starts, as it sees it, unless its guard is limits alone."""
MEGABYTE = 1 << 20
_SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/nix/store",
)
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


@dataclass(kw_only=True)
class SandboxOptions(OptionGroup):
    """Options of systems that run code."""

    __group__ = "Sandbox"

    sandbox: Choice = option(
        "auto",
        "what holds code that is run; auto: the best guard here, or refusal; none: limits of time and memory alone",
    )
    code_seconds: Positive = option(10.0, "seconds that a program may take")
    code_memory_mb: Count = option(512, "memory that a program may take, in MB")

    def run_python(
        self, code: str, *, files: Mapping[str, str | bytes] | None = None, stdin: str = ""
    ) -> Outcome:
        """`run_python` within these options."""
        return run_python(
            code,
            files=files,
            stdin=stdin,
            seconds=self.code_seconds,
            memory_mb=self.code_memory_mb,
            guard=choose(self.sandbox),
        )


def choose(sandbox: Choice = "auto") -> Guard:
    """The guard that an option asks for.

    Raises:
        SandboxError: it cannot be had here; for `auto`, neither bubblewrap nor namespaces can.
    """
    if sandbox == "none":
        return "limits"
    wanted: tuple[Guard, ...] = ("bubblewrap", "namespaces") if sandbox == "auto" else (sandbox,)
    reasons: list[str] = []
    for guard in wanted:
        reason = missing_reason(guard)
        if reason is None:
            return guard
        reasons.append(f"{guard}: {reason}")
    why = "; ".join(reasons)
    advice = "Install bubblewrap, or say --sandbox none" if sys.platform == "linux" else "Say --sandbox none"
    raise SandboxError(
        f"Code is not run, since nothing here holds it ({why}).",
        hint=f"{advice} to run code with {GUARDS['limits']}.",
    )


@functools.cache
def missing_reason(guard: Guard) -> str | None:
    """Why a guard cannot be had here; None where it can. It is tried once a process."""
    if guard == "limits":
        return None
    if sys.platform != "linux":
        return "needs Linux"
    for program in _PROGRAMS[guard]:
        if shutil.which(program) is None:
            return f"{program} is not installed"
    try:
        outcome = run_python("print(6 * 7)", guard=guard)
    except SandboxError as error:
        return error.message
    return (
        None if outcome.stdout == "42\n" else f"a trial ended with {outcome.status}: {outcome.stderr[-200:]}"
    )


def run_python(
    code: str,
    *,
    files: Mapping[str, str | bytes] | None = None,
    stdin: str = "",
    seconds: float = 10,
    memory_mb: int = 512,
    guard: Guard | None = None,
) -> Outcome:
    """Run Python code with this interpreter and its packages; see `run_command`."""
    name = "main.py"
    while name in (files or {}):
        name = f"_{name}"
    return run_command(
        [_interpreter(), "-B", "-s", name],
        files={**(files or {}), name: code},
        stdin=stdin,
        seconds=seconds,
        memory_mb=memory_mb,
        guard=guard,
    )


def run_command(
    command: Sequence[str],
    *,
    files: Mapping[str, str | bytes] | None = None,
    stdin: str = "",
    seconds: float = 10,
    memory_mb: int = 512,
    processes: int = 32,
    disk_mb: int = 64,
    output_kb: int = 256,
    folder: Path | None = None,
    guard: Guard | None = None,
) -> Outcome:
    """Run a command in a sandbox, and end all that it started.

    Its environment holds nothing of this process's. Its folder and its `/tmp` vanish with it.

    Args:
        files: names, with `/` for folders, to contents, laid into its folder first.
        stdin: what it reads.
        seconds: of wall time; CPU time of each of its processes is held to one second more.
        memory_mb: of each of its processes, and of all together, in MB of 2^20 bytes.
        processes: how many it may have at once; a command with more is killed.
        disk_mb: of one file, and (but under limits alone) of all that it writes.
        output_kb: how much of each output is kept, in units of 1,024 bytes; the rest is read and dropped.
        folder: an existing folder to work in, which stays and which it may change; by default a new one.
        guard: by default what `choose()` gives.

    Raises:
        SandboxError: no guard can be had, the guard could not be set up, or the command cannot be started.
        ValueError: the name of a file leads out of the folder.
    """
    guard = guard or choose()
    with tempfile.TemporaryDirectory(prefix="coalign-", ignore_cleanup_errors=True) as base:
        stage, root = Path(base, "stage"), Path(base, "root")
        stage.mkdir()
        root.mkdir()
        _lay(files or {}, folder or stage)
        setup = {
            "command": list(command),
            "folder": str(folder or stage) if guard == "limits" else FOLDER,
            "shared": folder and str(folder.absolute()),
            "stage": None
            if folder or guard == "limits"
            else str(stage)
            if guard == "namespaces"
            else "/stage",
            "root": str(root) if guard == "namespaces" else None,
            "watched": guard == "namespaces" or (guard == "limits" and sys.platform == "linux"),
            "readable": _readable(),
            "tmp_mb": disk_mb,
            "cpu_seconds": math.ceil(seconds) + 1,
            "memory": memory_mb * MEGABYTE,
            "file_size": disk_mb * MEGABYTE,
        }
        limits = _Limits(seconds, memory_mb * MEGABYTE, processes, output_kb << 10)
        if os.name != "posix":
            return _watch(list(command), setup["folder"], stdin, limits, (), guard)
        reading, writing = os.pipe()
        try:
            arguments = [*_guarded(guard, setup, stage), *_inside({**setup, "ready": writing})]
            outcome = _watch(arguments, str(stage), stdin, limits, (writing,), guard)
            os.close(writing)
            writing = -1
            said = os.read(reading, 1024)
            if said != b"1":
                why = said[1:].decode() or outcome.stderr.strip().rpartition("\n")[2] or "it took too long"
                raise SandboxError(f"{command[0]} was not started under {guard}: {why}")
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)
    return outcome


_PROGRAMS: dict[Guard, tuple[str, ...]] = {
    "bubblewrap": ("bwrap",),
    "namespaces": ("unshare", "setpriv"),
    "limits": (),
}


def _guarded(guard: Guard, setup: Mapping[str, Any], stage: Path) -> list[str]:
    """What a guard puts before the interpreter."""
    if guard == "limits":
        return []
    if guard == "namespaces":  # setpriv: killed when this process dies
        kinds = ("user", "net", "pid", "mount", "ipc", "uts", "cgroup")
        flags = [f"--{kind}" for kind in kinds]
        return [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--map-root-user",
            *flags,
            "--fork",
            "--kill-child",
        ]
    readable = [part for path in setup["readable"] for part in ("--ro-bind", path, path)]
    size = str(setup["tmp_mb"] * MEGABYTE)
    places = [*readable, "--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/tmp"]
    if setup["shared"]:
        places += ["--bind", setup["shared"], FOLDER]
    else:
        places += ["--dir", FOLDER, "--ro-bind", str(stage), setup["stage"]]
    kept = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    return ["bwrap", *kept, *places, "--remount-ro", "/", "--"]


def _inside(setup: Mapping[str, Any]) -> list[str]:
    text = resources.files("coalign.core.processes").joinpath("inside.py").read_text(encoding="utf-8")
    return [_interpreter(), "-I", "-S", "-c", text, json.dumps(setup)]


def _interpreter() -> str:
    """This interpreter, in its real folder, which is bound into the sandbox."""
    found = Path(sys.executable)
    return str(found.parent.resolve() / found.name)


@functools.cache
def _readable() -> list[str]:
    """The system's programs and this interpreter with its packages, outer folders first."""
    own = [str(Path(one).resolve()) for one in (sys.base_prefix, sys.prefix)]
    wanted = sorted({*_SYSTEM, *own}, key=len)
    there = [one for one in wanted if os.path.exists(one) and one != "/"]
    return [one for one in there if not any(one.startswith(f"{other}/") for other in there)]


def _environment(folder: str) -> dict[str, str]:
    kept = {
        name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ
    }  # Windows starts nothing without
    path = os.defpath if os.name != "posix" else "/usr/local/bin:/usr/bin:/bin"
    fixed = {"PATH": path, "LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder}
    return {**kept, **fixed, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _lay(files: Mapping[str, str | bytes], folder: Path) -> None:
    """Write files into a folder, never through a link that an earlier command may have left there."""
    for name, content in files.items():
        parts = PurePosixPath(name).parts
        path = folder.joinpath(*parts)
        above = [folder.joinpath(*parts[:n]) for n in range(1, len(parts))]
        if not parts or parts[0] == "/" or ".." in parts or any(one.is_symlink() for one in above):
            raise ValueError(f"{name!r} is no name of a file inside the folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class _Limits:
    seconds: float
    memory: int
    processes: int
    output: int


def _watch(
    arguments: list[str], folder: str, stdin: str, limits: _Limits, pipes: Sequence[int], guard: Guard
) -> Outcome:
    """Start a process, hold it to what it cannot hold itself to (wall time, all its processes), and end it."""
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
                env=_environment(folder if guard == "limits" else FOLDER),
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


def _over(pid: int, seen: set[psutil.Process], limits: _Limits) -> Status | None:
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
