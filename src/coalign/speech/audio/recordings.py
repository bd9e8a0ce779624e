"""Recordings and their text: a manifest, a folder of audio and text files, or the layout of Common Voice.

manifest          JSON Lines or CSV with `audio` (or `audio_filepath`, `path`, `file`), and `text` (or `sentence`,
                  `transcript`, `transcription`) or `rows`, a list of lines; paths are relative to the manifest
folder            `name.wav` (or .flac, .ogg, .mp3) beside `name.txt`, `name.srt` or `name.vtt`
Common Voice      a folder with `clips/` and `train.tsv`, `validated.tsv`, ... (`--split` names the file)
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.errors import CoalignError, DataError, RecordProblem
from coalign.data.messages import FieldError
from coalign.data.rows import Row, iter_rows, parse_each
from coalign.speech.audio.audio import AudioError, audio_info

AUDIO_COLUMNS = ("audio", "audio_filepath", "path", "file")
TEXT_COLUMNS = ("rows", "text", "sentence", "transcript", "transcription")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".m4a", ".aiff")
TEXT_SUFFIXES = (".txt", ".srt", ".vtt")
_CUE = re.compile(r"^\s*(\d{1,3}:)?\d{1,2}:\d{2}[.,]\d{1,3}\s*-->")


@dataclass(frozen=True)
class Recording:
    """An audio file and its text.

    Attributes:
        id: unique among the recordings that were read together.
        rows: lines of text in order; one for a clip.
        seconds: duration.
        source, line: where it was read.
    """

    id: str
    audio: Path
    rows: tuple[str, ...]
    seconds: float
    source: str
    line: int | None = None

    @property
    def text(self) -> str:
        return " ".join(self.rows)


def read_recordings(source: str | Path, *, split: str = "train") -> list[Recording]:
    """All recordings of `source`.

    Args:
        split: of Common Voice: the name of its file without `.tsv`.

    Raises:
        DataError: nothing there, or recordings that cannot be used, each as `file:line: field: problem, expected`.
    """
    path = Path(source)
    problems: list[RecordProblem] = []
    if path.is_dir():
        is_common_voice = (path / "clips").is_dir() and any(path.glob("*.tsv"))
        found = list(_common_voice(path, split, problems) if is_common_voice else _folder(path, problems))
    else:
        found = list(_manifest(path, problems))
    counts = Counter(one.id for one in found)
    for one in found:
        if counts[one.id] > 1:
            problems.append(RecordProblem(one.source, one.line, "id", f"{one.id!r} twice", "unique ids"))
    if problems:
        raise DataError(f"{source}: {len(problems)} recordings cannot be used.", problems)
    if not found:
        raise DataError(
            f"{source}: no recordings were found.",
            hint="A manifest (.jsonl), a folder of audio files each with a .txt, or Common Voice's folder is needed.",
        )
    return found


def _manifest(path: Path, problems: list[RecordProblem]) -> Iterator[Recording]:
    def parse(row: Row) -> Recording:
        columns = row.value or {}
        audio_column = next((one for one in AUDIO_COLUMNS if columns.get(one)), None)
        text_column = next((one for one in TEXT_COLUMNS if columns.get(one) is not None), None)
        if audio_column is None:
            raise FieldError("missing", f"a path under one of {', '.join(AUDIO_COLUMNS)}", "audio")
        if text_column is None:
            raise FieldError("missing", f"text under one of {', '.join(TEXT_COLUMNS)}", "text")
        rows = _rows_of(columns[text_column])
        if rows is None:
            expected = "text, or a list of texts, that is not empty"
            raise FieldError(_shown(columns[text_column]), expected, text_column)
        audio = path.parent / str(columns[audio_column])
        name = str(columns.get("id") or audio.stem)
        try:
            return Recording(name, audio, rows, audio_info(audio).seconds, str(path), row.line)
        except AudioError as error:
            raise FieldError(error.message.rstrip("."), "an audio file", audio_column) from error

    return parse_each(iter_rows(path), path, parse, problems)


def _folder(path: Path, problems: list[RecordProblem]) -> Iterator[Recording]:
    for audio in sorted(one for one in path.iterdir() if one.suffix.lower() in AUDIO_SUFFIXES):
        text = next(
            (audio.with_suffix(one) for one in TEXT_SUFFIXES if audio.with_suffix(one).is_file()), None
        )
        if text is None:
            expected = f"{audio.stem}.txt, .srt or .vtt beside it"
            problems.append(RecordProblem(str(audio), None, "text", "no text file", expected))
            continue
        try:
            rows = read_rows_of_text(text)
        except UnicodeDecodeError:
            problems.append(RecordProblem(str(text), None, "text", "not UTF-8", "UTF-8 text"))
            continue
        if not rows:
            problems.append(RecordProblem(str(text), None, "text", "empty", "one line at least"))
            continue
        yield from _checked(audio.stem, audio, rows, str(text), None, "audio", problems)


def _common_voice(path: Path, split: str, problems: list[RecordProblem]) -> Iterator[Recording]:
    file = path / f"{split}.tsv"
    if not file.is_file():
        splits = ", ".join(sorted(one.stem for one in path.glob("*.tsv")))
        raise DataError(f"{path}: no {split}.tsv.", hint=f"Splits there: {splits}.")
    with file.open(encoding="utf-8", newline="") as lines:
        for line, row in enumerate(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), start=2):
            rows = _rows_of(row.get("sentence"))
            if not row.get("path") or rows is None:
                field = "path" if not row.get("path") else "sentence"
                problems.append(RecordProblem(str(file), line, field, "missing or empty", "a value"))
                continue
            audio = path / "clips" / row["path"]
            yield from _checked(audio.stem, audio, rows, str(file), line, "path", problems)


def _checked(
    name: str,
    audio: Path,
    rows: tuple[str, ...],
    source: str,
    line: int | None,
    field: str,
    problems: list[RecordProblem],
) -> Iterable[Recording]:
    try:
        yield Recording(name, audio, rows, audio_info(audio).seconds, source, line)
    except AudioError as error:
        problems.append(RecordProblem(source, line, field, error.message.rstrip("."), "an audio file"))


def read_rows_of_text(path: Path) -> tuple[str, ...]:
    """Lines of text; of subtitles the lines of each cue joined, without numbers, times and notes."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if path.suffix.lower() == ".txt":
        return tuple(line.strip() for line in lines if line.strip())
    rows, inside = [], False
    for line in lines:
        if _CUE.match(line):
            inside = True
            rows.append("")
        elif not line.strip():
            inside = False
        elif inside:
            rows[-1] = f"{rows[-1]} {re.sub(r'<[^>]*>', '', line).strip()}".strip()
    return tuple(row for row in rows if row)


def _rows_of(value: Any) -> tuple[str, ...] | None:
    lines = value.splitlines() if isinstance(value, str) else value
    if not isinstance(lines, list) or not all(isinstance(one, str) for one in lines):
        return None
    return tuple(one.strip() for one in lines if one.strip()) or None


def _shown(value: Any) -> str:
    return "empty" if value in ("", []) else f"a {type(value).__name__}"


@dataclass
class Usable:
    """Recordings that can be used, and why the others cannot: reason to count."""

    recordings: list[Recording]
    left_out: Counter[str]


def usable(recordings: Iterable[Recording], why_not: Callable[[Recording], str | None]) -> Usable:
    """The recordings for which `why_not` gives no reason; the reasons of the others are counted.

    Raises:
        CoalignError: none is left.
    """
    found = Usable([], Counter())
    for one in recordings:
        reason = why_not(one)
        if reason is None:
            found.recordings.append(one)
        else:
            found.left_out[reason] += 1
    if not found.recordings:
        raise CoalignError(f"No recording can be used: {reasons_text(found.left_out) or 'there is none'}.")
    return found


def reasons_text(counts: Counter[str]) -> str:
    """`3 x silent; 1 x empty`, the most frequent first; empty when nothing was counted."""
    return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common())
