"""Recordings and their text: a manifest, a folder of audio and text files, or the layout of Common Voice.

manifest          JSON Lines or CSV with `audio` (or `audio_filepath`, `path`, `file`), and `text` (or `sentence`,
                  `transcript`, `transcription`) or `rows`, a list of lines; paths are relative to the manifest.
                  `offset` and `duration` (seconds, as NeMo writes them) name a stretch of the file
folder            `name.wav` (or .flac, .ogg, .mp3) beside `name.txt`, `name.srt` or `name.vtt`
Common Voice      a folder with `clips/` and `train.tsv`, `validated.tsv`, ... (`--split` names the file)
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coalign.core.errors import CoalignError, DataError, RecordProblem
from coalign.data.files.subtitles import read_cues, utf8_text
from coalign.data.messages import FieldError
from coalign.data.rows import Row, iter_rows, parse_each
from coalign.speech.audio.audio import AudioError, audio_info

AUDIO_COLUMNS = ("audio", "audio_filepath", "path", "file")
TEXT_COLUMNS = ("rows", "text", "sentence", "transcript", "transcription")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".m4a", ".aiff")
TEXT_SUFFIXES = (".txt", ".srt", ".vtt")
SLACK = 0.1
"""Seconds by which a duration in a manifest may differ from the file's: they are rounded."""


@dataclass(frozen=True)
class Recording:
    """An audio file and its text.

    Attributes:
        id: unique among the recordings that were read together.
        rows: lines of text in order; one for a clip.
        seconds: duration.
        source, line: where it was read.
        start: where it begins in the file.
        part: it is a stretch of the file and not all of it.
    """

    id: str
    audio: Path
    rows: tuple[str, ...]
    seconds: float
    source: str
    line: int | None = None
    start: float = 0.0
    part: bool = False

    @property
    def end(self) -> float:
        """Where it ends in the file."""
        return self.start + self.seconds

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
        whole = _recording(audio.stem, audio, rows, path, row.line, audio_column)
        found = _stretch(whole, _seconds(columns, "offset"), _seconds(columns, "duration"))
        begin = f"-{found.start:.2f}" if found.part else ""
        return replace(found, id=str(columns.get("id") or f"{audio.stem}{begin}"))

    return parse_each(iter_rows(path), path, parse, problems)


def _seconds(columns: dict[str, Any], field: str) -> float | None:
    value = columns.get(field)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise FieldError(_shown(value), "a number of seconds", field) from error
    if isinstance(value, bool) or not 0 <= seconds < float("inf"):
        raise FieldError(f"the value {value}", "a number of seconds, not negative", field)
    return seconds


def _stretch(whole: Recording, offset: float | None, duration: float | None) -> Recording:
    """The stretch of a file that a row names; all of it where the row's duration is the file's."""
    start = offset or 0.0
    if start >= whole.seconds:
        raise FieldError(f"{start:g} s", f"a place before the file's end at {whole.seconds:.2f} s", "offset")
    left = whole.seconds - start
    length = left if duration is None else duration
    if length > left + SLACK and offset is not None:
        raise FieldError(f"{length:g} s", f"at most the {left:.2f} s from the offset to the end", "duration")
    if length == 0:
        raise FieldError("0 s", "a duration above 0", "duration")
    if start == 0 and length >= left - SLACK:
        return whole
    return replace(whole, start=start, seconds=min(length, left), part=True)


def _folder(path: Path, problems: list[RecordProblem]) -> Iterator[Recording]:
    for audio in sorted(one for one in path.iterdir() if one.suffix.lower() in AUDIO_SUFFIXES):
        text = next(filter(Path.is_file, map(audio.with_suffix, TEXT_SUFFIXES)), None)
        try:
            if text is None:
                raise FieldError("no text file", f"{audio.stem}.txt, .srt or .vtt beside it", "text")
            rows = read_rows_of_text(text)
            if not rows:
                raise FieldError("empty", "one line at least", "text")
            yield _recording(audio.stem, audio, rows, text, None, "audio")
        except FieldError as error:
            place = str(text or audio)
            problems.append(RecordProblem(place, None, str(error.field), error.problem, error.expected))


def _common_voice(path: Path, split: str, problems: list[RecordProblem]) -> Iterator[Recording]:
    file = path / f"{split}.tsv"
    if not file.is_file():
        splits = ", ".join(sorted(one.stem for one in path.glob("*.tsv")))
        raise DataError(f"{path}: no {split}.tsv.", hint=f"Splits there: {splits}.")

    def parse(row: Row) -> Recording:
        columns = row.value or {}
        rows = _rows_of(columns.get("sentence"))
        if not columns.get("path") or rows is None:
            field = "path" if not columns.get("path") else "sentence"
            raise FieldError("missing or empty", "a value", field)
        audio = path / "clips" / columns["path"]
        return _recording(audio.stem, audio, rows, file, row.line, "path")

    with file.open(encoding="utf-8", newline="") as lines:
        read = enumerate(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
        yield from parse_each((Row(row, n + 2, n) for n, row in read), file, parse, problems)


def _recording(
    name: str, audio: Path, rows: tuple[str, ...], source: Path, line: int | None, field: str
) -> Recording:
    try:
        return Recording(name, audio, rows, audio_info(audio).seconds, str(source), line)
    except AudioError as error:
        raise FieldError(error.message.rstrip("."), "an audio file", field) from error


def read_rows_of_text(path: Path) -> tuple[str, ...]:
    """Lines of text; of subtitles the lines of each cue joined, without numbers, times and notes.

    Raises:
        FieldError: not UTF-8.
    """
    if path.suffix.lower() == ".txt":
        return tuple(line.strip() for line in utf8_text(path).splitlines() if line.strip())
    return tuple(cue.text for cue in read_cues(path))


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
