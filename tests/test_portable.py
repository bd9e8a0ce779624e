"""What only Unix, or only Linux, has: no module needs it to be imported, and what uses it is guarded."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import psutil  # before its own imports are taken away below
import pytest

import coalign
from coalign.core.machine import measure
from coalign.core.processes import locks

ROOT = Path(coalign.__path__[0])
MISSING = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "readline")
"""Modules of the standard library that Windows does not have."""
UNIX = {"fork", "forkpty", "killpg", "setsid", "getuid", "getpgid", "mkfifo", "statvfs", "nice", "getloadavg", "sched_getaffinity",
        "sched_setaffinity", "uname", "SIGKILL", "SIGALRM", "SIGHUP", "SIGPIPE", "SIGXCPU", "SIGXFSZ", "SIGUSR1", "setitimer",
        "prctl", "memfd_create", "register_at_fork", "waitpid", "wait4", "waitstatus_to_exitcode", "geteuid", "getgid", "pipe2",
        "posix_fadvise", "posix_spawn", "pread", "pwrite", "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "AF_UNIX", "epoll", "pause",
        "fchmod", "fchown", "chown", "chroot", "ttyname", "getpgrp", "pthread_sigmask", "eventfd", "unshare", "sync", "fdatasync",
        "alarm", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGWINCH", "SIGUSR2"}  # fmt: skip
GUARDED = {
    "core/processes/inside.py": "its text runs in the child of a sandbox, which Windows has none of (sandbox.py)",
    "core/processes/watching.py": "under os.name == 'posix'",
    "core/machine/cores.py": "under hasattr",
    "core/processes/locks.py": "under hasattr",
    "data/prepared/many.py": "under hasattr",
    "models/backends/vllm_server.py": "under hasattr",
    "platform/pipeline/chain.py": "under sys.platform == 'linux'",
}
"""Files that name them, and why no other system gets there."""


def test_modules_are_imported_where_the_standard_library_has_less(tmp_path: Path) -> None:
    """Every module outside of the rooms, with what Windows lacks taken from coalign's own files alone: libraries know better."""
    code = f"""
import builtins, importlib, pkgutil, signal, os
real = builtins.__import__
def narrow(name, globals=None, *rest, **more):
    if name.partition(".")[0] in {MISSING!r} and (globals or {{}}).get("__name__", "").startswith("coalign"):
        raise ImportError(name)
    return real(name, globals, *rest, **more)
builtins.__import__ = narrow
import coalign
light = ("coalign.core", "coalign.measures", "coalign.report", "coalign.cli")
for one in pkgutil.walk_packages(coalign.__path__, "coalign."):
    if one.name.startswith(light):
        importlib.import_module(one.name)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr


def test_nothing_of_unix_alone_is_imported_or_used_without_a_guard() -> None:
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {*names} & {*MISSING}, (
                f"{name}:{node.lineno}: not on Windows; import it where it is used"
            )
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in UNIX
                and isinstance(node.value, ast.Name)
                and node.value.id in ("os", "signal", "socket", "select")
            ):
                found.setdefault(name, set()).add(node.attr)
    assert {name for name in found if name not in GUARDED} == set()


def test_no_path_of_linux_alone_is_opened_without_a_way_out() -> None:
    """`/proc`, `/sys` and `/dev` are named in few files, each of which goes on without them."""
    known = {
        "core/machine/cores.py", "core/machine/measure.py", "core/machine/doctor.py", "core/processes/inside.py",
        "core/processes/sandbox.py", "core/runs.py", "models/files/file_pages.py", "models/scoring/products.py",
    }  # fmt: skip
    named = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node.value.startswith(("/proc", "/sys/", "/dev/"))
    }
    assert named <= known


PROC = {"core/machine/measure.py", "core/processes/inside.py", "models/files/file_pages.py"}
"""Files that read and write text of the kernel, which is ASCII and which other systems have none of."""


def _without_encoding(tree: ast.AST) -> set[int]:
    """Lines of calls that read or write text in the encoding of the system, which on Windows is seldom UTF-8."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        named = {one.arg: getattr(one.value, "value", None) for one in node.keywords}
        places = [getattr(one, "value", None) for one in node.args]
        if "encoding" in named or None in named:  # None: `**options`
            continue
        plain = isinstance(node.func, ast.Name)
        mode = named.get("mode") or (places[plain] if len(places) > plain else "r")
        opens = name == "open" and plain and "b" not in str(mode)
        opens |= name == "open" and not plain and str(mode) in ("a", "w", "x", "r+")
        of_path = isinstance(node.func, ast.Attribute) and not {"utf-8", "utf-8-sig"} & {*map(str, places)}
        files = (
            name in ("read_text", "write_text") and of_path and ast.unparse(node.func.value) != "formatter"
        )
        asks = name in ("run", "Popen", "check_output") and bool(named.get("text"))
        if opens or files or asks:
            found.add(node.lineno)
    return found


def test_text_is_read_and_written_as_utf_8() -> None:
    found = {
        f"{name}:{line}"
        for path in ROOT.rglob("*.py")
        if (name := path.relative_to(ROOT).as_posix()) not in PROC
        for line in _without_encoding(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set()


@pytest.mark.parametrize(
    "code",
    [
        "open(place)", "open(place, 'w')", "place.open('a')", "place.read_text()", "place.write_text(text)",
        "subprocess.run(words, text=True)", "subprocess.Popen(words, text=True)",
    ],
)  # fmt: skip
def test_text_without_an_encoding_is_seen(code: str) -> None:
    assert _without_encoding(ast.parse(code)) == {1}
    more = "" if code.endswith("()") else ", "
    assert _without_encoding(ast.parse(f"{code[:-1]}{more}encoding='utf-8')")) == set()
    assert (
        _without_encoding(ast.parse("open(place, 'rb'); place.read_text('utf-8'); run.open('a thing')"))
        == set()
    )


def test_memory_is_measured_without_the_resource_module(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def memory_info(self) -> object:
            return type("Info", (), {"peak_wset": 3 * 2**20})()

    monkeypatch.setattr(measure, "_STATUS", Path("/nowhere"))
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(psutil, "Process", Process)
    assert measure.peak_memory_mb() == 3.0


def test_one_process_holds_a_file_and_is_known(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert locks.holder(path) is None
    code = f"""
from pathlib import Path
from coalign.core.processes import locks
print(locks.hold(Path({str(path)!r})), flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert locks.is_held(path)
        assert locks.holder(path) == other.pid
        assert not locks.hold(path)
        other.communicate("\n")
    assert not locks.is_held(path)
    assert locks.holder(path) is None
    assert locks.hold(path)
    assert locks.holder(path) == os.getpid()


def test_locks_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the module that Windows has in place of `fcntl`: one byte beyond the text, and the refusal of the second."""
    taken: set[tuple[int, int]] = set()

    class Msvcrt:
        LK_NBLCK = 2

        @staticmethod
        def locking(file: int, mode: int, count: int) -> None:
            place = (os.fstat(file).st_ino, os.lseek(file, 0, os.SEEK_CUR))
            if place in taken:
                raise PermissionError(13, "taken")
            taken.add(place)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt)
    path = tmp_path / ".lock"
    assert locks.hold(path)
    monkeypatch.setattr(locks, "_HELD", {})  # as another process sees it
    assert locks.is_held(path)
    assert not locks.hold(path)
    assert locks.holder(path) == os.getpid()
