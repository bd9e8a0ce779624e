"""What runs inside a sandbox before the command: the last steps that a process can only do to itself.

Its text is handed to an interpreter of its own (`python -I -S -c`), with one JSON argument; so it uses the standard library
alone. It enters a file system of its own where the guard is plain namespaces, copies the files in, limits itself, says
through a pipe that the guard stands, and becomes the command.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
from typing import Any

_BIND, _RECURSIVE, _PRIVATE, _NOSUID, _NODEV, _NOEXEC = 0x1000, 0x4000, 1 << 18, 2, 4, 8
_DETACH = 2
_READ_ONLY_NOSUID = 1 | 2
_MOUNT_SETATTR, _HERE, _ALL_BELOW = 442, -100, 0x8000
_END_WITH_PARENT, _NO_NEW_PRIVILEGES, _DROP_FROM_BOUNDING_SET, _ADOPT_ORPHANS = 1, 38, 24, 36
_DEVICES = ("null", "zero", "full", "random", "urandom")


def main(setup: dict[str, Any]) -> None:
    """Set up what `setup` says, and become its command.

    Args:
        setup: `command`; `folder`, in which it starts; `stage`, whose files are copied there (or none); `root`, the
            mount point of a new file system, with `readable`, `tmp_mb` and `shared` (namespaces alone, else none);
            `watched`: a process stays above the command, which ends what that leaves behind; `cpu_seconds`, `memory`,
            `file_size` in bytes; `ready`, a pipe: `1` says that the guard stands, more says why the command was not started.
    """
    namespaces = setup["root"] is not None
    if namespaces:
        _enter_file_system(setup)
    elif setup["stage"]:
        shutil.copytree(setup["stage"], setup["folder"], dirs_exist_ok=True)
    os.chdir(setup["folder"])
    if sys.platform == "linux":
        _libc().prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        _libc().prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)
    if namespaces:
        _drop_capabilities()
    if setup["watched"] and (child := os.fork()):
        os.close(setup["ready"])
        _reap(child)
    _limit(setup)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and what is started would, too
        signal.signal(number, signal.SIG_DFL)
    os.set_inheritable(setup["ready"], False)
    os.write(setup["ready"], b"1")
    try:
        os.execvp(setup["command"][0], setup["command"])
    except OSError as error:
        os.write(setup["ready"], (error.strerror or "it cannot be started").encode())
        raise


def _limit(setup: dict[str, Any]) -> None:
    """Limits of each process: CPU time, memory of its own, size of a file; no core dumps."""
    import resource  # not on Windows, where nothing is run inside

    seconds = setup["cpu_seconds"]
    wanted = {
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_CPU": (seconds, seconds + 1),
        "RLIMIT_FSIZE": (setup["file_size"],) * 2,
        "RLIMIT_DATA": (setup["memory"],) * 2,
        "RLIMIT_NOFILE": (256, 256),
    }
    for name, values in wanted.items():
        with contextlib.suppress(
            ValueError, OSError
        ):  # below what is already asked for, or unknown to the system
            resource.setrlimit(getattr(resource, name), values)


def _enter_file_system(setup: dict[str, Any]) -> None:
    """A new root: what is readable, bound read-only; devices without harm; own processes; an empty `/tmp`."""
    root = setup["root"]
    _mount("none", "/", None, _PRIVATE | _RECURSIVE)
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "mode=755")
    os.mkdir(f"{root}/tmp")
    _mount("tmpfs", f"{root}/tmp", "tmpfs", _NOSUID | _NODEV, f"mode=1777,size={setup['tmp_mb']}m")
    for path in setup["readable"]:  # an environment may lie below /tmp
        _bind(path, root + path, read_only=True)
    for name in _DEVICES:
        _bind(f"/dev/{name}", f"{root}/dev/{name}")
    os.symlink("/tmp", f"{root}/dev/shm")
    os.mkdir(f"{root}/proc")
    with contextlib.suppress(OSError):  # refused in some containers; then there is none
        _mount("proc", f"{root}/proc", "proc", _NOSUID | _NODEV | _NOEXEC, "subset=pid")
    if setup["stage"]:
        shutil.copytree(setup["stage"], root + setup["folder"])
    else:
        _bind(setup["shared"], root + setup["folder"])
    _protect(root, below=False)
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir("/")


def _bind(source: str, target: str, *, read_only: bool = False) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "w").close()
    _mount(source, target, None, _BIND | _RECURSIVE)
    if read_only:
        _protect(target, below=True)


def _protect(path: str, *, below: bool) -> None:
    """Make a mount, or all mounts below a path, read-only."""
    wanted = (ctypes.c_uint64 * 4)(_READ_ONLY_NOSUID, 0, 0, 0)
    flags = _ALL_BELOW if below else 0
    _call("syscall", _MOUNT_SETATTR, _HERE, path.encode(), flags, wanted, ctypes.sizeof(wanted))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    as_bytes = [None if one is None else one.encode() for one in (source, target, kind, data)]
    _call("mount", *as_bytes[:3], ctypes.c_ulong(flags), as_bytes[3])


def _drop_capabilities() -> None:
    """Leave this process, and what it becomes, none of the rights over its namespaces."""
    for capability in range(64):
        _libc().prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)
    _call("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())


def _reap(child: int) -> None:
    """Wait for the command and for orphans; end with its status, as shells say it, when all that it started is dead."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code: int | None = None

    def stop(*_: Any) -> None:
        nonlocal code
        code = 128 + signal.SIGTERM
        _kill_children()

    if os.getpid() != 1:  # the first process of a namespace dies with `unshare`
        signal.signal(signal.SIGTERM, stop)
        _libc().prctl(_END_WITH_PARENT, signal.SIGTERM, 0, 0, 0)
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            os._exit(code or 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code
            if os.getpid() == 1:
                os._exit(code)  # and the kernel ends all others
        if code is not None:
            _kill_children()


def _kill_children() -> None:
    """Kill those whose parent this process is; what they leave behind comes to it next."""
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as children:
        for pid in children.read().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc(), name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
