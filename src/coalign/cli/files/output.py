"""Rows of a command on their way to a file or to shards of it, continued where a killed command stopped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from coalign.cli.flags import assert_new
from coalign.core.engines.row_file import RowFile, begin
from coalign.core.engines.spread import Failures
from coalign.core.errors import ConfigError, DataError
from coalign.core.files import dump_json, hold_file

Row = dict[str, Any]
SHARD_ROWS = "rows of a file: --out NAME.parquet becomes NAME-00000-of-00012.parquet and so on"


class Output:
    """Where the rows of a command go once all are there; until then they wait in `partial`, which one process holds.

    Args:
        out: None prints them; what is made is not continued then.
        shard_rows: rows of a file, where there are to be several.
        overwrite: replace what is there.

    Raises:
        ConfigError: `out` is there.
        RunError: another process works on it.
    """

    def __init__(self, out: Path | None, shard_rows: int | None, overwrite: bool) -> None:
        if out is None and shard_rows is not None:
            raise ConfigError("--shard-rows has no effect without --out.")
        self.out, self._shard_rows = out, shard_rows
        self._folder = None if out else tempfile.TemporaryDirectory()
        self.partial = out.with_name(f"{out.name}.partial") if out else Path(str(self._folder.name)) / "rows"  # type: ignore[union-attr]
        self._assert_new(overwrite)
        self._lock = hold_file(self.partial, hint="Wait for it, or give another --out.")
        self._assert_new(overwrite)  # the other process may just have finished

    def _assert_new(self, overwrite: bool) -> None:
        """Shards of which some are missing, beside rows that wait, are of a command that goes on."""
        from coalign.data.files.written import are_all, shards_of

        shards = shards_of(self.out) if self.out and self._shard_rows else []
        if are_all(shards) or not self.partial.exists():
            assert_new(overwrite, out=next(iter(shards), self.out))

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Start the waiting rows, or find that they were started with the same settings (see `begin`)."""
        begin(self.partial, settings)

    def rows(self, ids: Any, unit: str) -> RowFile:
        """The rows that wait, of known ids; how many are done is said."""
        kept = RowFile(self.partial, ids)
        if self.out and kept.missing < len(kept):
            click.echo(f"Continuing: {len(kept) - kept.missing} of {len(kept)} {unit}s are done.", err=True)
        return kept

    def write(self, rows: Iterable[Row], count: int) -> str:
        """Write all rows, then forget those that waited.

        Returns:
            What was written, as the command names it; empty where it was printed.

        Raises:
            CoalignError: rows with an `error`, which are written like the others and wait to be tried again; a full disk.
            DataError: rows that the format cannot hold.
        """
        failures = Failures()
        told = _told(rows, failures)
        if self.out is None:
            for row in told:
                click.echo(dump_json(row))
            files = []
        else:
            files = self._written(self.out, told, count)
        failures.check(count, str(self.out) if self.out else "the output")
        self.partial.unlink()
        self._lock.release()
        if self._folder is not None:
            self._folder.cleanup()
        return str(files[0]).replace("-00000-of-", "-*-of-") if self._shard_rows else str(self.out or "")

    def _written(self, out: Path, rows: Iterable[Row], count: int) -> list[Path]:
        from coalign.data.files.written import write_shards

        try:
            return write_shards(out, rows, count, self._shard_rows)
        except DataError as error:
            other = out.with_suffix(".jsonl")
            raise DataError(
                error.message,
                hint=f"The rows wait in {self.partial}: rename it to {other.name}.partial and give --out {other}, and none is made "
                "again.",
            ) from error


def _told(rows: Iterable[Row], failures: Failures) -> Iterator[Row]:
    """The rows without their places; those with an error are counted."""
    for row in rows:
        if "error" in row:
            failures.add(row["id"], row["error"])
        yield {name: value for name, value in row.items() if name != "index"}
