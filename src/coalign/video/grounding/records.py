"""Videos with their sentences, for alignment: records of a file, or a folder of videos with a transcript beside each.

A record names a `video` (file), `frames` (folder of pictures) or `features` ([T, D], .npy, .npz, .safetensors, .parquet, with
`fps`), and `sentences`: texts, or {text, start, end, alignable}; or a `transcript`: a file (.srt, .vtt, .json) or its cues, which
are its sentences too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.files.subtitles import SUFFIXES, Cue, parse_cues, parse_seconds, read_cues, utf8_text
from coalign.data.messages import FieldError, describe, parse_text
from coalign.data.rows import Row
from coalign.video.material.sources import Frames, parse_fps, parse_path, parse_video, read_material


@dataclass(frozen=True)
class Sentence:
    """A sentence, and when it holds.

    Attributes:
        start, end: seconds; None where that is not known.
        alignable: False where the video does not show it: neither learnt from nor counted.
    """

    text: str
    start: float | None = None
    end: float | None = None
    alignable: bool = True

    @property
    def timed(self) -> bool:
        """Whether it can be learnt from and counted."""
        return self.alignable and self.start is not None and self.end is not None


@dataclass(frozen=True)
class Video:
    """A video with its sentences.

    Attributes:
        frames: what its pictures come from, and the rate of its features.
        features, text_features: ready features [T, D_v] and [S, D_t]; None: they are computed.
        transcript: what is said, with times; empty where there is none.
        source, line: where it was read.
    """

    id: str
    frames: Frames
    sentences: tuple[Sentence, ...] = ()
    features: Path | None = None
    text_features: Path | None = None
    transcript: tuple[Cue, ...] = field(default=(), repr=False)
    source: str = ""
    line: int | None = None

    @property
    def texts(self) -> list[str]:
        return [one.text for one in self.sentences]

    def with_sentences(self, sentences: tuple[Sentence, ...]) -> Video:
        """With other sentences, whose features are not those of a file."""
        return replace(self, sentences=sentences, text_features=None)

    def within(self, seconds: float) -> Video:
        """With the sentences that end later marked as not alignable."""
        late = [one.end is not None and one.end > seconds for one in self.sentences]
        if not any(late):
            return self
        marked = (
            replace(one, alignable=False) if is_late else one
            for one, is_late in zip(self.sentences, late, strict=True)
        )
        return replace(self, sentences=tuple(marked))

    def problem(self, field: str, problem: str, expected: str) -> RecordProblem:
        return RecordProblem(self.source, self.line, field, problem, expected)


def read_videos(
    source: str | Path, *, longest: float = float("inf"), transcripts: bool = False
) -> list[Video]:
    """All videos of a file of records, or of a folder.

    Args:
        longest: seconds that are looked at of a video; sentences that end later are not alignable.
        transcripts: what is asked for is a transcript, whatever sentences there are.

    Raises:
        DataError: records that cannot be used, each as `file:line: field: problem, expected`; or none.
    """
    found, problems = read_material(
        source,
        _of_video,
        lambda row, path: _record(row, path, transcripts),
        suffixes=(*SUFFIXES, ".txt"),
        field="transcript",
    )
    seen: set[str] = set()
    for one in found:
        if one.id in seen:
            problems.append(one.problem("id", f"{one.id!r} twice", "unique ids"))
        seen.add(one.id)
    if problems:
        raise DataError(f"{source}: {len(problems)} videos cannot be used.", problems)
    if not found:
        raise DataError(f"{source}: no videos were found.")
    return [one.within(longest) for one in found]


def _of_video(video: Path, beside: Path | None) -> Video:
    if beside is None:
        raise FieldError("none", f"{video.stem}.srt, .vtt, .json or .txt beside it", "transcript")
    cues, sentences = _text_beside(beside)
    if not sentences:
        raise FieldError("empty", "one sentence at least", "transcript")
    return Video(video.stem, Frames(video.stem, video), sentences, transcript=cues, source=str(video))


def _text_beside(path: Path) -> tuple[tuple[Cue, ...], tuple[Sentence, ...]]:
    if path.suffix.lower() == ".txt":
        lines = [one.strip() for one in utf8_text(path).splitlines()]
        return (), tuple(Sentence(one) for one in lines if one)
    cues = tuple(read_cues(path))
    return cues, tuple(Sentence(one.text, one.start, one.end) for one in cues)


def _record(row: Row, path: Path, transcripts: bool) -> Video:
    columns = row.value or {}
    folder = Path(row.file).parent if row.file else path.parent
    named = {name: columns[name] for name in ("features", "text_features") if columns.get(name)}
    features = {name: parse_path(value, name, folder) for name, value in named.items()}
    video = parse_video(columns, folder, required="features" not in features)
    stem = (video or features["features"]).stem
    name = str(columns.get("video_id") or columns.get("id") or stem)
    cues = _transcript(columns.get("transcript"), folder)
    sentences = _sentences(columns, cues)
    if transcripts and not cues:
        raise FieldError("missing", "a transcript: a file or a list of {text, start, end}", "transcript")
    if not sentences:
        raise FieldError("missing or empty", "a list of sentences, or a transcript", "sentences")
    frames = Frames(name, video, parse_fps(columns))
    return Video(
        name,
        frames,
        sentences,
        features.get("features"),
        features.get("text_features"),
        cues,
        row.file or str(path),
        row.line,
    )


def _transcript(value: Any, folder: Path) -> tuple[Cue, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        file = parse_path(value, "transcript", folder)
        if file.suffix.lower() not in SUFFIXES:
            raise FieldError(f"{file.suffix or 'no suffix'}", f"one of {', '.join(SUFFIXES)}", "transcript")
        return tuple(read_cues(file))
    try:
        return tuple(parse_cues(value))
    except FieldError as error:
        error.field = f"transcript[{error.position}]" if error.position is not None else "transcript"
        raise


def _sentences(columns: dict[str, Any], cues: tuple[Cue, ...]) -> tuple[Sentence, ...]:
    value = columns.get("sentences", columns.get("steps"))
    if value is None:
        return tuple(Sentence(one.text, one.start, one.end) for one in cues)
    if not isinstance(value, list):
        raise FieldError(describe(value), "a list of texts or of {text, start, end}", "sentences")
    return tuple(_sentence(one, f"sentences[{place}]") for place, one in enumerate(value))


def _sentence(value: Any, place: str) -> Sentence:
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        raise FieldError(describe(value), "a text or {text, start, end}", place)
    try:
        text = parse_text(value.get("text"))
    except FieldError as error:
        error.field = f"{place}.text"
        raise
    known = value.get("start") is not None or value.get("end") is not None
    start, end = (
        (parse_seconds(value.get(name), f"{place}.{name}") for name in ("start", "end"))
        if known
        else (None, None)
    )
    if start is not None and end is not None and end < start:
        raise FieldError(f"{end:g}", f"a time not before start ({start:g})", f"{place}.end")
    alignable = value.get("alignable", True)
    if alignable not in (True, False, 0, 1):
        raise FieldError(describe(alignable), "true or false", f"{place}.alignable")
    return Sentence(" ".join(text.split()), start, end, bool(alignable))
