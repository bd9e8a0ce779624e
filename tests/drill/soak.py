"""A server under clients that come, ask oddly, and go: what it holds in memory, what it still answers, what is left waiting."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.preference.tiny_runs import WORDS, save_tiny_model

MOST_GROWTH = 0.05
"""Of the memory of the server after its first fifth of requests."""
CLIENTS = 16
SETTLING = 0.2
"""Share of the requests after which memory is first looked at."""
LONGEST = 60.0
ODD: tuple[dict[str, Any], ...] = (
    {"messages": []}, {"messages": [{"role": "user", "content": "x" * 5000}]}, {"n": 999}, {"temperature": -1}, {"max_tokens": 10**9}, {"unknown": 1},
    {"messages": [{"role": "user", "content": "a \ud800"}]}, {"model": "other"}, {"stop": [[]]}, {"logprobs": 5},
)  # fmt: skip
WAYS = ("whole", "whole", "stream", "stream left", "stream left", "whole left", "odd")
"""What a request does, each as often as it stands here."""


@dataclass
class Soaked:
    """What became of a server.

    Attributes:
        asked: requests by what they did.
        megabytes: of the server's memory: after the first fifth of the requests, and at the end.
        seconds: in all.
        faults: what should not be.
    """

    asked: Counter[str] = field(default_factory=Counter)
    megabytes: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def growth(self) -> float:
        return self.megabytes[1] / self.megabytes[0] - 1

    def told(self) -> str:
        """Figures in two lines, and the first faults."""
        ways = ", ".join(f"{count} {name}" for name, count in self.asked.items())
        memory = f"{self.megabytes[0]:.0f} MB, at the end {self.megabytes[1]:.0f} MB ({self.growth:+.1%})"
        return "\n".join(
            [f"{self.asked.total()} requests in {self.seconds:.0f} s: {ways}", memory, *self.faults[:10]]
        )


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """`coalign serve` of a tiny model, its address and its process."""
    model = save_tiny_model(folder / "model")
    command = [sys.executable, "-m", "coalign", "serve", str(model), "--port", "0", "--name", "tiny"]
    command += ["--device", "cpu", "--dtype", "float32"]
    said = folder / "server.log"
    with said.open("w") as log:
        child = subprocess.Popen(command, stderr=log, stdout=log, env={**os.environ, "COALIGN_PROGRESS": "0"})
    try:
        until = time.monotonic() + LONGEST
        while "/v1" not in (text := said.read_text()):
            assert child.poll() is None, text
            assert time.monotonic() < until, text
            time.sleep(0.1)
        yield text.partition(" at ")[2].split()[0], psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait(20)


def soak(folder: Path, requests: int, *, seed: int = 0) -> Soaked:
    """So many requests of clients side by side, most of which leave or ask oddly at some time."""
    found, started = Soaked(), time.monotonic()
    with server(folder) as (address, process):
        asyncio.run(_soak(address, process, requests, random.Random(seed), found))
    found.seconds = time.monotonic() - started
    if found.growth > MOST_GROWTH:
        found.faults.append(f"memory has grown by {found.growth:.1%}, at most {MOST_GROWTH:.0%} are allowed")
    return found


def _body(word: str, **more: Any) -> dict[str, Any]:
    asked = [{"role": "user", "content": f"say {word}"}]
    return {"model": "tiny", "messages": asked, "max_tokens": 12, "temperature": 0, **more}


async def _soak(
    address: str, process: psutil.Process, requests: int, draw: random.Random, found: Soaked
) -> None:
    limits = httpx.Limits(max_connections=CLIENTS * 2)
    async with httpx.AsyncClient(base_url=address, timeout=LONGEST, limits=limits) as client:
        expected = {word: await _whole(client, _body(word)) for word in WORDS}
        left = iter(range(requests))

        async def work() -> None:
            for number in left:
                if number == int(requests * SETTLING):
                    found.megabytes = (_megabytes(process), 0.0)
                way, word = draw.choice(WAYS), draw.choice(WORDS)
                found.asked[way] += 1
                try:
                    said = await _ask(client, way, word, draw)
                except Exception as error:
                    found.faults.append(f"{way} {number}: {type(error).__name__}: {error}")
                else:
                    if said is not None and said != expected[word]:
                        found.faults.append(f"{way} {number}: {said!r} in place of {expected[word]!r}")

        await asyncio.gather(*(work() for _ in range(CLIENTS)))
        until = time.monotonic() + LONGEST / 4
        health = address.removesuffix("/v1") + "/health"
        while (waiting := (await client.get(health)).json()["waiting"]) and time.monotonic() < until:
            await asyncio.sleep(0.2)
        if waiting:
            found.faults.append(f"{waiting} prompts are still waiting when nobody asks any more")
        for word in WORDS:
            if await _whole(client, _body(word)) != expected[word]:
                found.faults.append(f"another answer than at first to {word}")
        found.megabytes = (found.megabytes[0], _megabytes(process))


async def _ask(client: httpx.AsyncClient, way: str, word: str, draw: random.Random) -> str | None:
    """One request; what was answered, None where nothing is to be compared."""
    match way:
        case "whole":
            return await _whole(client, _body(word))
        case "stream":
            return await _stream(client, _body(word, stream=True))
        case "stream left":
            await _stream(client, _body(word, stream=True, max_tokens=150), most=draw.randrange(4))
        case "whole left":
            with contextlib.suppress(httpx.TimeoutException):
                await client.post(
                    "/chat/completions", json=_body(word, max_tokens=150), timeout=draw.uniform(0.001, 0.05)
                )
        case _:
            answer = await client.post("/chat/completions", content=json.dumps(_body(word, **draw.choice(ODD))), headers={"content-type": "application/json"})  # fmt: skip
            assert 400 <= answer.status_code < 500, f"{answer.status_code} {answer.text[:200]}"
            assert answer.json()["error"]["message"]
    return None


async def _whole(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    answer = await client.post("/chat/completions", json=body)
    assert answer.status_code == 200, f"{answer.status_code} {answer.text[:200]}"
    return answer.json()["choices"][0]["message"]["content"]


async def _stream(client: httpx.AsyncClient, body: dict[str, Any], most: int | None = None) -> str:
    """The text of a stream; after `most` events the client is gone."""
    text, seen = "", 0
    async with client.stream("POST", "/chat/completions", json=body) as answer:
        assert answer.status_code == 200, answer.status_code
        async for line in answer.aiter_lines():
            if line == "data: [DONE]" or seen == most:
                break
            if line.startswith("data: "):
                seen += 1
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or ""
    return text


def _megabytes(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20
