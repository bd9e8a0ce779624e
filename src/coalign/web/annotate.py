"""Blind comparisons by people: a local page that shows two responses without names and keeps what is said of them.

    coalign annotate pairs.jsonl --out human.jsonl

`human.jsonl` holds preference records (prompt, chosen, rejected) that every preference system reads, and
`human.verdicts.jsonl` the verdicts with their ties, which `--judge stored --stored-verdicts human.verdicts.jsonl` takes as
a judge. Both are views of `human.log.jsonl`, to which everything that was said is appended, skips and withdrawn verdicts
included: a stopped session goes on at the first pair without a verdict. Left and right are drawn by a seed for each pair.

The application can be mounted into another one: `app.mount("/annotate", annotation_app(session))`.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.extras import require
from coalign.core.files import append_rows, hold_file, read_rows, write_rows
from coalign.judging.items import read_items
from coalign.judging.prompts import question_text
from coalign.judging.protocol import Choice, JudgeItem
from coalign.report.text import INVISIBLE
from coalign.web.local import ASSETS, add_static, json_object, local_app, status_of

if TYPE_CHECKING:
    from fastapi import FastAPI

Said = Literal["left", "right", "tie", "skip"]
FILES = {
    "annotate.js": (ASSETS / "annotate.js", "text/javascript"),
    "annotate.css": (ASSETS / "annotate.css", "text/css"),
}


@dataclass(frozen=True)
class Shown:
    """A pair as the page shows it, without a word of where its responses come from."""

    index: int
    prompt: str
    left: str
    right: str


class Session:
    """Pairs, what was said of them so far, and the files that keep it. One process works on a file at a time.

    Args:
        items: pairs; the same texts a second time are shown once.
        out: file of preference records, `.jsonl`; rewritten after every verdict, like the verdicts beside it.
        seed: of left and right.
        annotator: name kept with every verdict, if any.

    Raises:
        ConfigError: `out` does not end in .jsonl, or exists without the log of verdicts beside it.
        RunError: another process works on the file.
    """

    def __init__(self, items: Sequence[JudgeItem], out: Path, *, seed: int = 0, annotator: str = "") -> None:
        if out.suffix != ".jsonl":
            raise ConfigError(f"--out: {out} does not end in .jsonl.")
        self.out = out
        self.log = out.with_suffix(".log.jsonl")
        self.verdicts = out.with_suffix(".verdicts.jsonl")
        if out.exists() and not self.log.exists():
            raise ConfigError(
                f"--out: {out} exists, and {self.log} with its verdicts does not.", hint="Name another file."
            )
        distinct = {_key(item): item for item in reversed(items)}
        self._items = [item for item in items if distinct[_key(item)] is item]
        self._seed, self._annotator = seed, annotator
        self._places = {_key(item): place for place, item in enumerate(self._items)}
        self._writing = threading.Lock()
        self._file_lock = hold_file(self.log, hint="End that session, or name another --out.")
        self._said: dict[int, dict[str, Any]] = {}
        self._order: list[int] = []
        for row in read_rows(self.log, repair=True):
            place = self._places.get(row.get("key"))
            if place is not None:
                self._take(place, row)

    def close(self) -> None:
        self._file_lock.release()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def done(self) -> int:
        return len(self._said)

    def counts(self) -> dict[str, int]:
        """How many pairs have a preference, a tie, or were skipped."""
        said = [row["said"] for row in self._said.values()]
        skipped, ties = said.count("skip"), said.count("tie")
        return {"preferences": len(said) - skipped - ties, "ties": ties, "skipped": skipped}

    def next_index(self, after: int = -1) -> int | None:
        """The first pair without a verdict behind `after`, else the first of all; None when there is none."""
        open_places = [place for place in range(len(self._items)) if place not in self._said]
        return next((one for one in open_places if one > after), open_places[0] if open_places else None)

    def shown(self, index: int) -> Shown:
        """The pair as it is shown."""
        item = self._items[index]
        left, right = item.responses[::-1] if self._swapped(item) else item.responses
        return Shown(index, question_text(item.prompt), left, right)

    def say(self, index: int, said: Said) -> None:
        """Keep a verdict; it is on disk when this returns.

        Raises:
            ConfigError: no such pair or verdict.
        """
        if not 0 <= index < len(self._items) or said not in get_args(Said):
            raise ConfigError(
                f"pair {index}, verdict {said!r}: expected a pair of this file and one of {get_args(Said)}"
            )
        item = self._items[index]
        swapped = self._swapped(item)
        sides: dict[str, Choice] = {"left": "first", "right": "second", "tie": "tie"}
        if swapped:
            sides |= {"left": "second", "right": "first"}
        row = {
            "id": item.id,
            "key": _key(item),
            "prompt": item.prompt,
            "response_a": item.responses[0],
            "response_b": item.responses[1],
            "label": sides.get(said),
            "said": said,
            "swapped": swapped,
            "annotator": self._annotator,
            "time": round(time.time(), 3),
        }
        with self._writing:
            self._keep(index, row)

    def undo(self) -> int | None:
        """Withdraw the last verdict; the pair it was on, None where there is none."""
        with self._writing:
            if not self._order:
                return None
            index = self._order[-1]
            row = {"key": _key(self._items[index]), "said": "withdrawn", "time": round(time.time(), 3)}
            self._keep(index, row)
            return index

    def _keep(self, index: int, row: dict[str, Any]) -> None:
        append_rows(self.log, [row])
        self._take(index, row)
        self._write()

    def _take(self, index: int, row: dict[str, Any]) -> None:
        if index in self._order:
            self._order.remove(index)
        if row["said"] == "withdrawn":
            self._said.pop(index, None)
        else:
            self._said[index] = row
            self._order.append(index)

    def _write(self) -> None:
        kept = ("id", "prompt", "response_a", "response_b", "label", "annotator")
        said = [self._said[index] for index in sorted(self._said)]
        write_rows(self.verdicts, ({name: row[name] for name in kept} for row in said if row["label"]))
        write_rows(self.out, (_preference(row) for row in said if row["label"] in ("first", "second")))

    def _swapped(self, item: JudgeItem) -> bool:
        digest = hashlib.sha256(f"{self._seed}\0{_key(item)}".encode()).digest()
        return bool(digest[0] & 1)


def open_session(
    pairs: str, out: Path, *, seed: int = 0, annotator: str = "", skip_bad: bool = False
) -> Session:
    """A session over a file of pairs (see `judge_items.read_items`).

    Raises:
        DataError: the file cannot be judged.
        ConfigError: it holds no pairs.
    """
    found = read_items(pairs, on_bad_record="skip" if skip_bad else "fail")
    if found.kind != "pairs":
        raise ConfigError(f"{pairs}: {found.recognised}, expected pairs of responses.")
    return Session(found.items, out, seed=seed, annotator=annotator)


def annotation_app(session: Session) -> FastAPI:
    """The application: a page, its files, and what they ask for.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    responses = require("fastapi.responses", "serve")
    app = local_app("coalign: annotate")

    def state(index: int | None) -> dict[str, Any]:
        pair = None if index is None else asdict(session.shown(index))
        return {"pair": pair, "total": len(session), "done": session.done, "counts": session.counts()}

    @app.exception_handler(CoalignError)
    async def failed(request: Any, error: CoalignError) -> Any:
        return responses.JSONResponse({"error": str(error)}, status_of(error))

    @app.get("/")
    def page() -> Any:
        return responses.FileResponse(ASSETS / "annotate.html.j2", media_type="text/html")

    add_static(app, FILES)

    @app.get("/api/state")
    def current() -> Any:
        return {**state(session.next_index()), "invisible": INVISIBLE, "out": str(session.out)}

    async def verdict(request: Any) -> Any:
        asked = await _body(request)
        session.say(asked["index"], asked["said"])
        return responses.JSONResponse(state(session.next_index(asked["index"])))

    async def undo(request: Any) -> Any:
        index = session.undo()
        return responses.JSONResponse(state(session.next_index() if index is None else index))

    app.add_route("/api/verdict", verdict, methods=["POST"])
    app.add_route("/api/undo", undo, methods=["POST"])
    return app


async def _body(request: Any) -> dict[str, Any]:
    asked = await json_object(request)
    if type(asked.get("index")) is not int or not isinstance(asked.get("said"), str):
        raise ConfigError("request: expected a JSON object with index and said")
    return asked


def _preference(row: dict[str, Any]) -> dict[str, Any]:
    """A row that preference systems read; a prompt of one message is text."""
    prompt, responses = row["prompt"], [row["response_a"], row["response_b"]]
    chosen, rejected = responses if row["label"] == "first" else responses[::-1]
    plain = len(prompt) == 1 and prompt[0]["role"] == "user"
    reply = (lambda text: text) if plain else (lambda text: [{"role": "assistant", "content": text}])
    return {
        "id": row["id"],
        "prompt": prompt[0]["content"] if plain else prompt,
        "chosen": reply(chosen),
        "rejected": reply(rejected),
        "annotator": row["annotator"],
    }


def _key(item: JudgeItem) -> str:
    """What a verdict belongs to: the texts, whatever the file calls them."""
    shown = json.dumps([item.prompt, list(item.responses)], ensure_ascii=True)
    return hashlib.sha256(shown.encode()).hexdigest()[:24]
