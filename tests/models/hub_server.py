"""A stand-in of the hub for uploads and for reading files: repositories, commits with small and large files, and what was asked of it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

_TREE = re.compile(r"/api/(\w+/[\w-]+/[\w-]+)/tree/([^/]+)(/.*)?")
_INFO = re.compile(r"/api/(\w+/[\w-]+/[\w-]+)(/revision/[^/]+)?")
_PATHS = re.compile(r"/api/(\w+/[\w-]+/[\w-]+)/paths-info/[^/]+")
_RESOLVE = re.compile(r"/(\w+/[\w-]+/[\w-]+)/resolve/([^/]+)/(.+)")


class Hub(ThreadingHTTPServer):
    """Repositories by `kind/name`: whether they are private, and their files by path."""

    def __init__(self, *, large: tuple[str, ...] = (".safetensors", ".gguf"), token: str = "hf_good") -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.large = large
        self.token = token
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.refuse: int | None = None
        self.sent = 0
        """Bytes of files that were fetched."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _say(self, value: Any, code: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        self.server.objects[self.path.rpartition("/")[2]] = self._body()
        self._say({})

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if found := _TREE.fullmatch(path):
            return self._say(self._inside(found[1], (found[3] or "").strip("/")))
        if (found := _INFO.fullmatch(path)) and found[1] in self.server.files:
            return self._say(
                {"id": found[1].partition("/")[2], "sha": "1" * 40, "private": False, "tags": []}
            )
        if found := _RESOLVE.fullmatch(path):
            return self._send(self.server.files[found[1]][found[3]])
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _inside(self, place: str, folder: str) -> list[dict[str, Any]]:
        """What lies in a folder; in all below it where that is asked for."""
        start = f"{folder}/" if folder else ""
        within = [name for name in self.server.files.get(place, {}) if name.startswith(start)]
        folders = {
            start + name.removeprefix(start).partition("/")[0]
            for name in within
            if "/" in name.removeprefix(start)
        }
        whole = "recursive=true" in self.path.lower()
        files = self._entries(
            place, lambda name: name in within and (whole or "/" not in name.removeprefix(start))
        )
        return [
            *({"type": "directory", "path": one, "size": 0, "oid": "2" * 40} for one in sorted(folders)),
            *files,
        ]

    def _entries(self, place: str, wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha256(data).hexdigest()[:40]}
            for name, data in self.server.files.get(place, {}).items()
            if wanted(name)
        ]

    def _send(self, data: bytes) -> None:
        """A file, or the part of it that is asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        part = data[int(asked[1]) : int(asked[2] or len(data)) + 1] if asked else data
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        self.server.sent += len(part)

    def do_POST(self) -> None:
        body = self._body()
        if found := _PATHS.fullmatch(unquote(self.path)):
            names = set(json.loads(body)["paths"])
            return self._say(self._entries(found[1], names.__contains__))
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._say({"error": "Invalid credentials in Authorization header"}, 401)
        if self.server.refuse:
            return self._say({"error": "You have no place here"}, self.server.refuse)
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(one for one in (asked.get("organization"), asked["name"]) if one)
            name = name if "/" in name else f"me/{name}"
            place = f"{asked.get('type', 'model')}s/{name}"
            self.server.private.setdefault(place, asked.get("visibility") == "private")
            self.server.files.setdefault(place, {})
            kind = "" if asked.get("type", "model") == "model" else f"{asked['type']}s/"
            return self._say({"url": f"{self.server.address}/{kind}{name}"})
        if path == "/api/validate-yaml":
            return self._say({"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            asked = json.loads(body)
            place = {"href": f"{self.server.address}/objects/"}
            return self._say(
                {
                    "transfer": "basic",
                    "objects": [
                        {**one, "actions": {"upload": {"href": place["href"] + one["oid"]}}}
                        for one in asked["objects"]
                    ],
                }
            )
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = ["lfs" if one["path"].endswith(self.server.large) else "regular" for one in files]
            told = [
                {"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}
                for one, mode in zip(files, modes, strict=True)
            ]
            return self._say({"files": told})
        if "/commit/" in path:
            place = path.removeprefix("/api/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                one = line["value"]
                if line["key"] == "file":
                    self.server.files[place][one["path"]] = base64.b64decode(one["content"])
                elif line["key"] == "lfsFile":
                    self.server.files[place][one["path"]] = self.server.objects[one["oid"]]
            return self._say(
                {"commitUrl": f"{self.server.address}/{place}/commit/1", "commitOid": "1", "success": True}
            )
        return self._say({"error": f"nothing at {path}"}, 404)


@contextlib.contextmanager
def running(**settings: Any) -> Iterator[Hub]:
    hub = Hub(**settings)
    threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
