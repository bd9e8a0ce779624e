"""Replies of judges, kept by content: nobody is asked the same twice, whatever happened in between.

A reply is stored before it is read, as one row of an append-only JSON Lines file, under a hash of everything that
shaped it: who was asked, with which settings, and the whole request. A better parser or a changed threshold therefore
costs nothing, and replies to one file are never taken for those to another.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from coalign.core.engines.row_file import Appended
from coalign.core.files import append_rows, hold_file
from coalign.data.media.conversations import prompt_key
from coalign.data.records import Messages
from coalign.judging.protocol import Cost
from coalign.models.backends.workers import PromptsFailedError
from coalign.models.types import Generating, Generation, Generator, Prompts, Samples, Sampling

WAIT = 4096
"""New replies that wait beside the sorted ones."""
KEY = 24
"""Characters of the key of a reply."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back for a request.

    Attributes:
        key: hash of the request and of who was asked, how.
        prompt_hash: hash of the request alone.
        finish_reason: `length` where it ran out of tokens, `error` where the request failed and the text says why.
        tokens: that were written.
        prompt_tokens: of the request, where the back end counts them.
        top: the most probable tokens at the first place that is not blank, as (text, log-probability), where they were asked for.
        cached: it was in the store.
    """

    key: str
    prompt_hash: str
    text: str
    finish_reason: str
    tokens: int
    prompt_tokens: int | None = None
    top: list[tuple[str, float]] | None = None
    cached: bool = False

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"

    @property
    def failed(self) -> bool:
        return self.finish_reason == "error"

    @property
    def cost(self) -> Cost:
        return Cost(calls=1, cached=int(self.cached), prompt_tokens=self.prompt_tokens, tokens=self.tokens)

    @property
    def record(self) -> dict[str, Any]:
        """What verdicts keep of it."""
        return {"reply": self.text, "prompt_hash": self.prompt_hash, "cost": self.cost}


class ReplyStore:
    """The replies so far. One process works with a file at a time; memory then holds their keys and places.

    Args:
        path: of the JSON Lines file; None keeps them in memory.

    Raises:
        RunError: another process works with the file.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._rows: dict[str, dict[str, Any]] = {}
        self._places = _Places()
        if path is not None:
            self._lock = hold_file(path, hint="Wait for it, or name another file of replies.")
            self._new = Appended(path)
            self._note()

    def __enter__(self) -> ReplyStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes work with the file; what is kept stays readable."""
        if self.path is not None:
            self._lock.release()

    def __contains__(self, key: str) -> bool:
        return key in self._rows or self._places.of(key) is not None

    def __len__(self) -> int:
        return len(self._rows) + len(self._places)

    def get(self, key: str, *, cached: bool) -> Reply:
        """The reply under `key`; `cached` is what the caller will call it."""
        row = self._rows[key] if self.path is None else self._read(key)
        fields = ("key", "prompt_hash", "text", "finish_reason", "tokens", "prompt_tokens", "top")
        return Reply(**{name: row[name] for name in fields}, cached=cached)

    def add(self, replies: Iterable[Mapping[str, Any]]) -> None:
        """Keep rows, synced to disk when it returns."""
        new = {
            row["key"]: {**row, "time": round(time.time(), 3)} for row in replies if row["key"] not in self
        }
        if self.path is None:
            self._rows.update(new)
        elif new:
            append_rows(self.path, new.values())
            self._note()

    def _note(self) -> None:
        for place, row in self._new:
            self._places.add(row["key"], place)

    def _read(self, key: str) -> dict[str, Any]:
        place = self._places.of(key)
        if place is None or self.path is None:
            raise KeyError(key)
        with self.path.open("rb") as file:
            file.seek(place)
            return json.loads(file.readline())


class _Places:
    """Where rows begin, by their keys: sorted arrays, beside which a few thousand new ones wait."""

    def __init__(self) -> None:
        self._keys, self._starts = np.empty(0, f"S{KEY}"), np.empty(0, np.int64)
        self._new: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._keys) + len(self._new)

    def of(self, key: str) -> int | None:
        if key in self._new:
            return self._new[key]
        at = int(np.searchsorted(self._keys, key.encode()))
        found = at < len(self._keys) and self._keys[at] == key.encode()
        return int(self._starts[at]) if found else None

    def add(self, key: str, start: int) -> None:
        """The last of equals counts."""
        if self.of(key) is not None and key not in self._new:
            self._starts[int(np.searchsorted(self._keys, key.encode()))] = start
            return
        self._new[key] = start
        if len(self._new) >= WAIT:
            keys = np.concatenate([self._keys, np.array([one.encode() for one in self._new], f"S{KEY}")])
            order = np.argsort(keys)
            self._starts = np.concatenate([self._starts, np.fromiter(self._new.values(), np.int64)])[order]
            self._keys, self._new = keys[order], {}


class Deferred:
    """A generator that is made when it is first asked: a run whose replies are all there loads no model."""

    def __init__(self, make: Callable[[], Generator]) -> None:
        self._make = make
        self.made: Generator | None = None

    def close(self) -> None:
        """Let what was made go; it is made again when it is asked again."""
        self.made = None

    def generate(self, prompts: Prompts, sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        if self.made is None:
            self.made = self._make()
        return self.made.generate(prompts, sampling, **how)


def ask(
    generator: Generator,
    prompts: Prompts,
    sampling: Sampling,
    *,
    store: ReplyStore,
    identity: Mapping[str, Any],
    label: str,
) -> list[Reply]:
    """One reply to every prompt, from the store where it is there.

    Args:
        prompts: requests; equal ones are asked once.
        sampling: how to decode; one sample a prompt.
        store: gets every reply as soon as its batch is done; a request that failed is not kept, so that it is asked again.
        identity: who is asked: whatever else may change the reply (model, revision, weights).

    Raises:
        ValueError: `sampling.n` is not 1.
    """
    if sampling.n != 1:
        raise ValueError(f"sampling.n is {sampling.n}, expected 1 reply a request")
    hashes = [content_hash(prompt_key(prompt)) for prompt in prompts]
    how = {name: value for name, value in asdict(sampling).items() if name != "first"}
    keys = [content_hash([one, dict(identity), how]) for one in hashes]
    rows = {key: index for index, key in reversed(list(enumerate(keys)))}
    order = sorted(rows.values())
    done = [place for place, index in enumerate(order) if keys[index] in store]
    before = {keys[order[place]] for place in done}

    def keep(batch: dict[int, list[Generation]]) -> None:
        count = prompt_counter(generator)
        store.add(
            {
                "key": keys[order[place]],
                "prompt_hash": hashes[order[place]],
                "judge": dict(identity),
                "text": samples[0].text,
                "finish_reason": samples[0].finish_reason,
                "tokens": samples[0].length,
                "prompt_tokens": count(prompts[order[place]]) if count else None,
                "top": _first_written(samples[0]),
            }
            for place, samples in batch.items()
        )

    failed: dict[str, str] = {}
    if len(done) < len(order):
        asked = [prompts[index] for index in order]
        try:
            generator.generate(asked, sampling, done=done, on_batch=keep, label=label)
        except PromptsFailedError as error:
            failed = {keys[order[place]]: message for place, message in error.failed.items()}
    first = set(rows.values())
    return [
        Reply(key=key, prompt_hash=hashes[index], text=failed[key], finish_reason="error", tokens=0)
        if key in failed
        else store.get(key, cached=key in before or index not in first)
        for index, key in enumerate(keys)
    ]


def _first_written(sample: Generation) -> list[tuple[str, float]] | None:
    """The most probable tokens where the first token stands that is not blank; of the first where all are."""
    if not sample.top_logprobs:
        return None
    written = [place for place, text in enumerate(sample.tokens or ()) if text.strip()]
    return sample.top_logprobs[written[0] if written else 0]


def prompt_counter(generator: Generator) -> Callable[[Messages | str], int] | None:
    """Counts the tokens of a prompt, for a back end that has its tokenizer here."""
    from coalign.models.generation.batching import encode_seen

    made = generator.made if isinstance(generator, Deferred) else generator
    tokenizer = getattr(made, "tokenizer", None)
    return None if tokenizer is None else lambda prompt: len(encode_seen(tokenizer, prompt, 0)[0])


def content_hash(value: Any) -> str:
    """A hash of JSON values, the same for equal ones; a picture that messages hold counts by its `key`."""

    def plain(one: Any) -> Any:
        return one.key if hasattr(one, "key") else list(one)

    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY]
