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

import functools
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.options import Count, OptionGroup, Positive, option
from coalign.core.processes.watching import Limits, Outcome, SandboxError, watch

if TYPE_CHECKING:
    pass

Guard = Literal["bubblewrap", "namespaces", "limits"]
Choice = Literal["auto", "bubblewrap", "namespaces", "none"]

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
        environment = _environment(str(stage) if guard == "limits" else FOLDER)
        limits = Limits(seconds, memory_mb * MEGABYTE, processes, output_kb << 10)
        if os.name != "posix":
            return watch(
                list(command), setup["folder"], environment, stdin=stdin, limits=limits, pipes=(), guard=guard
            )
        reading, writing = os.pipe()
        try:
            arguments = [*_guarded(guard, setup, stage), *_inside({**setup, "ready": writing})]
            outcome = watch(
                arguments, str(stage), environment, stdin=stdin, limits=limits, pipes=(writing,), guard=guard
            )
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
    # an environment may lie below /tmp
    places = ["--size", size, "--tmpfs", "/tmp", *readable, "--proc", "/proc", "--dev", "/dev"]
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
