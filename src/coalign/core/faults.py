"""Errors that are faults of the code: one line for the user, the traceback in a file."""

from __future__ import annotations

import contextlib
import tempfile
import traceback
from pathlib import Path

from coalign.core.errors import CoalignError, in_one_line
from coalign.core.own_code import OWN_FILES
from coalign.core.secrets import redacted

TRACEBACK = "traceback.log"
"""File of a run folder with the traceback of what ended it."""
FAULT = "This is a fault of coalign."
"""What is told of every error that is one."""


def keep_traceback(error: Exception, folder: Path) -> None:
    """Write the traceback of a fault into a run folder, where `told` finds it; an error of the user's needs none."""
    if not isinstance(error, CoalignError):
        with contextlib.suppress(
            OSError
        ):  # a full disk, which may be what ended the run, is told of by its own error
            _write(error, folder / TRACEBACK)
            error.add_note(str(folder / TRACEBACK))


def _write(error: Exception, path: Path) -> None:
    path.write_text(redacted("".join(traceback.format_exception(error))), encoding="utf-8", errors="replace")


def told(error: Exception) -> str:
    """A fault in words: what it is, where in coalign it came up, and which file holds its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [one for one in frames if one.filename in OWN_FILES]
    inside = theirs or [one for one in frames if f"{Path(__file__).parents[1]}" in one.filename] or frames
    where = f" at {Path(inside[-1].filename).name}:{inside[-1].lineno}" if inside else ""
    kept = next((Path(note) for note in getattr(error, "__notes__", []) if note.endswith(TRACEBACK)), None)
    if kept is None:
        kept = Path(tempfile.mkdtemp(prefix="coalign-")) / TRACEBACK
        _write(error, kept)
    message = in_one_line(error, named=False)
    whose = f"This was raised in {theirs[-1].filename}." if theirs else FAULT
    return f"{type(error).__name__}{where}{': ' if message else ''}{message}\n{whose} Its traceback: {kept}"
