"""What a cut leaves beside the kept pairs: all scores, their quantiles beside the reward, shards of what was kept."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.files import atomic_path, stream_rows, write_json, write_rows
from coalign.core.progress import progress
from coalign.curation.image_text.cutting import HASH, SCORE, WORDS
from coalign.curation.image_text.quality import ScoreTable, quantiles_of
from coalign.curation.image_text.scorers import QUANTILES

if TYPE_CHECKING:
    from coalign.core.runs import Run
    from coalign.curation.image_text.corpus import PairCorpus
    from coalign.loops.pipeline import Curated
    from coalign.loops.rows import Row

SCORES = "scores.jsonl"
SHARDS = "shards"


def write_outputs(config: Any, run: Run, done: Curated, corpus: PairCorpus) -> None:
    """Write `artefacts/scores.jsonl` (a row a pair that has a score) and the quantiles of all scores, into
    `artefacts/quantiles.json` and, where this run learnt the reward, beside it; with `shards` also the kept pairs as tar files.
    """
    scores = run.artefacts / SCORES
    if not scores.exists():
        write_rows(scores, scored_rows(done))
    stored = quantiles_of(score_table(run).scores)
    stored = {**stored, "data": config.data, "kept": done.manifest["kept"]}
    write_json(run.artefacts / QUANTILES, stored)
    if config.annotations and run.model.exists():
        write_json(run.model / QUANTILES, stored)
    if config.shards is not None and not (run.path / SHARDS).exists():
        with atomic_path(run.path / SHARDS) as folder:
            folder.mkdir()
            write_shards(folder, done.rows(), corpus, config.shards, done.manifest["kept"])


def score_table(run: Run) -> ScoreTable:
    """The scores that `write_outputs` wrote."""
    return ScoreTable.of(row for _, row in stream_rows(run.artefacts / SCORES))


def scored_rows(done: Curated) -> Iterator[dict[str, Any]]:
    """`id`, `score`, `words`, `origin` and whether it was kept, of every pair that has a score: the kept ones first."""
    for row in done.rows():
        yield _brief(row, kept=True)
    for _, one in stream_rows(done.rejects):
        if SCORE in one["row"]:
            yield _brief(one["row"], kept=False)


def _brief(row: Row, *, kept: bool) -> dict[str, Any]:
    return {
        "id": row["id"],
        SCORE: row[SCORE],
        WORDS: row[WORDS],
        "origin": row.get("origin", ""),
        "kept": kept,
    }


def read_quantiles(folder: Path) -> dict[str, Any] | None:
    """The quantiles of the corpus that was scored with a reward; None where there was none."""
    path = folder / QUANTILES
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_shards(folder: Path, rows: Iterator[Row], corpus: PairCorpus, size: int, total: int) -> None:
    """The pairs as WebDataset shards `00000.tar`, ...: of each its picture's bytes as they are, `txt` and `json`."""
    tar: tarfile.TarFile | None = None
    with progress(total, "Writing shards", "pair") as bar:
        for number, row in enumerate(rows):
            if number % size == 0:
                if tar is not None:
                    tar.close()
                tar = tarfile.open(folder / f"{number // size:05d}.tar", "w")  # noqa: SIM115 - closed below
            assert tar is not None
            data, suffix = _bytes_of(corpus, row)
            about = {key: one for key, one in row.items() if key not in ("image", HASH)}
            key = f"{number:09d}"
            _add(tar, f"{key}.{suffix}", data)
            _add(tar, f"{key}.txt", row["caption"].encode("utf-8", "replace"))
            _add(tar, f"{key}.json", json.dumps(about, ensure_ascii=False).encode("utf-8", "replace"))
            bar.advance()
    if tar is not None:
        tar.close()


def _bytes_of(corpus: PairCorpus, row: Row) -> tuple[bytes, str]:
    """The file of a picture as it is, and its suffix."""
    from coalign.data.media.pictures import picture_info
    from coalign.data.media.sources import resolve

    picture = corpus.picture(row)
    data, _ = resolve(picture.source, picture.name, picture.folder)
    kind = picture_info(picture.source).format.lower()
    return data if isinstance(data, bytes) else data.read_bytes(), {"jpeg": "jpg"}.get(kind, kind)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))
