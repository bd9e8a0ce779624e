"""What lies outside of a sandbox, for attempts on it: files, servers, processes, shared memory."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

import coalign


class Outside:
    """Facts to try on, and whether something happened to them.

    Attributes:
        facts: what an attempt is told.
    """

    def __init__(self, folder: Path) -> None:
        self.marker = uuid.uuid4().hex
        names = ("secret", "appended", "emptied", "deleted", "renamed", "chmodded")
        self.files = {name: folder / name for name in names}
        for path in self.files.values():
            path.write_text("hers")
            path.chmod(0o600)
        self.folder = folder
        self.in_tmp, self.in_shm = Path(f"/tmp/{self.marker}"), Path(f"/dev/shm/{self.marker}")
        self.memory = Path(f"/dev/shm/{self.marker}-held")
        self.memory.write_text("hers")
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.udp.settimeout(0.2)
        self.unix, self.abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.unix.bind(f"/tmp/{self.marker}.socket")
        self.abstract.bind(f"\0{self.marker}")
        for one in (self.unix, self.abstract):
            one.listen()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Quiet)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        sleep = [sys.executable, "-S", "-c", "import time; time.sleep(60)", f"{self.marker}-other"]
        self.others = {name: subprocess.Popen(sleep) for name in ("ended", "stopped", "slowed")}

    @property
    def facts(self) -> dict[str, Any]:
        return {
            **{name: str(path) for name, path in self.files.items()},
            **{name: process.pid for name, process in self.others.items()},
            "folder": str(self.folder),
            "source": coalign.__file__,
            "variable": "COALIGN_TEST_SECRET",
            "parent": os.getpid(),
            "group": os.getpgid(0),
            "in_tmp": str(self.in_tmp),
            "in_shm": str(self.in_shm),
            "programs": "/usr/bin",
            "library": os.path.dirname(os.__file__),
            "tcp": self.server.server_address,
            "udp": self.udp.getsockname(),
            "unix": f"/tmp/{self.marker}.socket",
            "abstract": self.marker,
            "marker": f"{self.marker}-other",
            "memory": self.memory.name,
            "left_child": f"{self.marker}-child",
            "left_daemon": f"{self.marker}-daemon",
        }

    def happened(self, words: str) -> bool | None:
        """Whether an attempt had its effect here; None where that is not to be seen from here."""
        looks = {
            "make a file in a folder of the user": lambda: (self.folder / "made").exists(),
            "append to a file of the user": lambda: self.files["appended"].read_text() != "hers",
            "empty a file of the user": lambda: self.files["emptied"].read_text() != "hers",
            "delete a file of the user": lambda: not self.files["deleted"].exists(),
            "rename a file of the user": lambda: not self.files["renamed"].exists(),
            "change the rights of a file": lambda: self.files["chmodded"].stat().st_mode & 0o777 != 0o600,
            "link to a file of the user": lambda: (self.folder / "hard").exists(),
            "put a symbolic link beside it": lambda: (self.folder / "soft").is_symlink(),
            "leave a file in the shared `/tmp`": self.in_tmp.exists,
            "leave a file in shared memory": self.in_shm.exists,
            "send it a datagram": self._datagram,
            "end another process": lambda: not self._is("ended", "sleeping"),
            "stop another process": lambda: self._is("stopped", "stopped"),
            "slow another process down": lambda: (
                psutil.Process(self.others["slowed"].pid).nice() != os.nice(0)
            ),
            "leave a child behind": lambda: self._runs(f"{self.marker}-child"),
            "leave a daemon behind": lambda: self._runs(f"{self.marker}-daemon"),
        }
        return looks[words]() if words in looks else None

    def _datagram(self) -> bool:
        with contextlib.suppress(TimeoutError):
            return bool(self.udp.recv(1))
        return False

    def _is(self, name: str, status: str) -> bool:
        found = psutil.Process(self.others[name].pid).status()
        return found == status

    def _runs(self, marker: str) -> bool:
        return any(marker in (one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))

    def close(self) -> None:
        for process in self.others.values():
            process.kill()
            process.wait()
        self.server.shutdown()
        self.server.server_close()
        for one in (self.udp, self.unix, self.abstract):
            one.close()
        for path in (self.in_tmp, self.in_shm, self.memory, Path(f"/tmp/{self.marker}.socket")):
            path.unlink(missing_ok=True)


class _Quiet(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def outside(folder: Path) -> Iterator[Outside]:
    """What lies outside, until the end of the block."""
    made = Outside(folder)
    try:
        yield made
    finally:
        made.close()
