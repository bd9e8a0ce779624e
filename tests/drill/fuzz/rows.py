"""Files of records with odd rows in them, in every format, and how many rows each holds."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from tests.contract.small import SMALL
from tests.drill.fuzz.hostile import DAMAGES, TEXTS, changed, line, one_line, value

ASKED = "What is the sky like?"
ROWS: dict[str, dict[str, Any]] = {
    "preference": {"prompt": ASKED, "chosen": "It is fine.", "rejected": "No."},
    "scored preference": {"prompt": ASKED, "chosen": "Fine.", "rejected": "No.", "chosen_score": 3, "rejected_score": 1.5},
    "demonstration": {"prompt": ASKED, "completion": "It is fine."},
    "feedback": {"prompt": ASKED, "completion": "Fine.", "label": True},
    "ranking": {"prompt": ASKED, "responses": ["No.", "Fine.", "Hm."], "scores": [0, 1, 0.5]},
    "judgment": {"prompt": ASKED, "response": "No.", "judgment": "Too short."},
    "prompt": {"id": "p", "prompt": ASKED},
    "messages": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "Fine."}]},
    "conversations": {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": "Fine."}]},
    "tools": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}]}],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]},
    "instruction": {"instruction": "Answer.", "input": ASKED, "output": "Fine.", "system": "Be kind.", "history": [["a", "b"]]},
    "question": {"question": ASKED, "choices": ["blue", "red"], "answer": 0},
    "constraints": {"prompt": ASKED, "response": "Fine.", "constraints": [{"verifier": "max_words", "n": 5}]},
    "judged": {"prompt": ASKED, "response_a": "Fine.", "response_b": "No.", "label": "A", "reference": "Blue."},
    "helpful": {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: go"},
    "claim": {"context": "The sky is blue. It rains.", "claim": "It rains.", "label": 1},
}  # fmt: skip
"""A sound row of every layout."""


def records(draw: Random, folder: Path, fields: Mapping[str, Any]) -> tuple[Path, int | None]:
    """A file of rows like `fields`, some of them odd, and their number; None where damage has made it uncertain."""
    kind = draw.choice(("jsonl", "jsonl", "jsonl", "json", "csv", "parquet"))
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        return path, _parquet(draw, path, fields)
    if kind == "csv":
        data, count = _csv(draw, fields)
    else:
        texts = _texts(draw, fields)
        if kind == "json":
            texts = [text for text in texts if _is_json(text)] or [json.dumps(fields)]
            whole = f"[{', '.join(texts)}]"
            data, count = (
                draw.choice((whole, f'{{"data": {whole}}}', f'{{"x": {value(draw)}, "data": {whole}}}')),
                len(texts),
            )
        else:
            data, count = draw.choice(("\n", "\r\n", "\n\n", "\n \n")).join(map(one_line, texts)), len(texts)
    content, known = data.encode("utf-8", "surrogatepass"), True
    if draw.random() < 0.2:
        content, known = draw.choice(DAMAGES)(content), False
    if draw.random() < 0.1:
        content, path = gzip.compress(content), path.with_name(f"{path.name}.gz")
    path.write_bytes(content)
    return path, count if known else None


def _texts(draw: Random, fields: Mapping[str, Any]) -> list[str]:
    sound = [
        json.dumps({**fields, "id": f"r{n}"} if "id" in fields else fields) for n in range(draw.randint(1, 4))
    ]
    texts = [*sound, *(line(draw, fields) for _ in range(draw.randint(1, 3)))]
    draw.shuffle(texts)
    return [text for text in texts if one_line(text).strip()]


def _is_json(text: str) -> bool:
    """Whether Python's reader takes it in a list of others."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _csv(draw: Random, fields: Mapping[str, Any]) -> tuple[str, int]:
    file, names = io.StringIO(), list(fields)
    if draw.random() < 0.2:
        names[draw.randrange(len(names))] = draw.choice(TEXTS).replace("\x00", "")
    writer = csv.writer(file)
    writer.writerow(names)
    count = draw.randint(1, 5)
    for _ in range(count):
        cells = [one if isinstance(one, str) else json.dumps(one) for one in fields.values()]
        if draw.random() < 0.6:
            cells[draw.randrange(len(cells))] = draw.choice((value(draw), draw.choice(TEXTS)))
        if draw.random() < 0.1:
            cells = cells[:-1] or ["a", "b"]
        writer.writerow(cells)
    return file.getvalue(), count


def _parquet(draw: Random, path: Path, fields: Mapping[str, Any]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = draw.randint(1, 4)
    columns = {name: pa.array([one] * count) for name, one in fields.items()}
    odd = (
        lambda n: pa.array([b"\xff\x00bytes"] * n),
        lambda n: pa.array([b"text"] * n, pa.large_binary()),
        lambda n: pa.array([decimal.Decimal("1" * 38)] * n),
        lambda n: pa.array([decimal.Decimal("1.25")] * n, pa.decimal256(76, 30)),
        lambda n: pa.array([datetime.datetime(1, 1, 1)] * n),
        lambda n: pa.array([datetime.date(9999, 12, 31)] * n),
        lambda n: pa.array([2**63 - 1] * n, pa.timestamp("us")),
        lambda n: pa.array([1] * n, pa.timestamp("ns")),
        lambda n: pa.array([datetime.timedelta(days=1)] * n),
        lambda n: pa.array([2**64 - 1] * n, pa.uint64()),
        lambda n: pa.array([-1] * n),
        lambda n: pa.array([float("nan")] * n),
        lambda n: pa.array([None] * n),
        lambda n: pa.array([True] * n),
        lambda n: pa.array([[b"a"]] * n),
        lambda n: pa.array([{"bytes": b"\x89PNG", "path": None}] * n),
        lambda n: pa.array([[("a", 1)]] * n, pa.map_(pa.string(), pa.int64())),
        lambda n: pa.array([[[["a"]]]] * n),
        lambda n: pa.array(["a"] * n).dictionary_encode(),
        lambda n: pa.array([""] * n),
        lambda n: pa.array([[]] * n, pa.list_(pa.string())),
        lambda n: pa.array([[1.0, 2.0]] * n, pa.list_(pa.float32(), 2)),
    )
    for _ in range(draw.choice((1, 1, 2))):
        columns[draw.choice([*columns, "more"])] = draw.choice(odd)(count)
    if draw.random() < 0.1:
        del columns[draw.choice([*columns])]
    if draw.random() < 0.1:
        columns[draw.choice([one for one in TEXTS if "\x00" not in one])] = pa.array([1] * count)
    pq.write_table(pa.table(columns), path)
    return count


def tiny_rows(slug: str) -> tuple[str, dict[str, Any]] | None:
    """The option of a system's tiny run that names its data, and the first row of that file."""
    small = SMALL[slug]
    name = next((one for one in ("data", "prompts") if one in small.options), None)
    if name is None:
        return None
    file = small.options[name]
    rows = small.files.get(file[0] if isinstance(file, list) else file)
    return None if rows is None or callable(rows) else (name, dict(next(iter(rows))))


__all__ = ["ROWS", "changed", "records", "tiny_rows"]
