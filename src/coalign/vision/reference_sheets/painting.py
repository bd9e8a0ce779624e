"""Paint a scene: a sheet for every order of its elements, the filled centres scored, the best one kept.

A candidate is a row of `candidates.jsonl` and two pictures; a row is there when both pictures are, and is never made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from coalign.core.files import append_rows, atomic_path, read_rows
from coalign.data.media.pictures import open_picture
from coalign.vision.reference_sheets.inpainting import seeded
from coalign.vision.reference_sheets.matching import (
    CENTRE,
    Matched,
    Place,
    Scored,
    arrange,
    permutations_of,
    replaced,
    score_candidates,
)
from coalign.vision.reference_sheets.sheets import centre_of, contact_sheet, seam, sheet_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from coalign.vision.reference_sheets.inpainting import Inpaint
    from coalign.vision.reference_sheets.scenes import Reference, Scene

Row = dict[str, Any]
PINNED_NAME = "pinned"


class Scorer(Protocol):
    """Pictures and texts in one space."""

    def pictures(self, pictures: Sequence[Image.Image]) -> NDArray[np.float64]:
        """[N, D] embeddings."""
        ...

    def texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[N, D] embeddings."""
        ...


@dataclass(frozen=True)
class Pool:
    """The references with their embeddings [M, D]."""

    references: Sequence[Reference]
    embeddings: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How scenes are painted.

    Attributes:
        prefix: put before the text that the generator sees.
        side: pixels of a tile.
        rounds, gain: most rounds; a round that gains less is the last.
        weight: of the reference score in the choice.
        skip_centre: leave no tile under the mask.
        all_orders: try every order of the elements, else the given one alone.
        held_out: another scorer, which reports and never chooses.
    """

    prefix: str
    side: int
    rounds: int = 1
    gain: float = 0.005
    weight: float = 0.0
    skip_centre: bool = False
    all_orders: bool = True
    held_out: Scorer | None = None


@dataclass
class Painter:
    """Paints scenes into a folder; what is there is not painted again.

    Args:
        rows: the file of candidates.
        folder: of their pictures.
    """

    inpaint: Callable[[], Inpaint]
    scorer: Callable[[], Scorer]
    pool: Pool
    settings: Settings
    rows: Path
    folder: Path
    _done: dict[tuple[str, int, str], Row] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for row in read_rows(self.rows, repair=True):
            self._done[row["id"], row["round"], row["order"]] = row

    def paint(
        self,
        number: int,
        scene: Scene,
        blocks: Sequence[Matched],
        cosines: NDArray[np.float64],
        seed: int,
        pinned: Sequence[Image.Image] = (),
        *,
        on_candidate: Callable[[Row], None] = lambda row: None,
    ) -> list[Row]:
        """Every candidate of a scene, in the order in which they were painted.

        Args:
            number: of the scene, for its folder.
            blocks: the references of each element; none for a sheet without references.
            cosines: [E, M] of every element with every reference.
            seed: of the generator, shared by all candidates: they differ by their sheets alone.
            pinned: pictures with places of their own.
        """
        found: list[Row] = []
        blocks, order = list(blocks), list(range(len(blocks)))
        best = -np.inf
        for turn in range(1, self.settings.rounds + 1):
            rows = self._round(number, scene, turn, blocks, order, seed, pinned, on_candidate)
            found += rows
            reached = max(self.value(row) for row in rows)
            if turn == self.settings.rounds or (turn > 1 and reached - best < self.settings.gain):
                break
            best = max(best, reached)
            order = chosen(rows, self.settings.weight)["permutation"]
            shown = [tile for one in blocks for tile in one.tiles]
            for place, one in enumerate(blocks):
                blocks[place] = replaced(one, cosines[place].tolist(), shown)
                shown += blocks[place].tiles
        return found

    def value(self, row: Row) -> float:
        """What candidates are chosen by."""
        return _value(row, self.settings.weight)

    def _round(
        self,
        number: int,
        scene: Scene,
        turn: int,
        blocks: Sequence[Matched],
        first: Sequence[int],
        seed: int,
        pinned: Sequence[Image.Image],
        on_candidate: Callable[[Row], None],
    ) -> list[Row]:
        orders = (
            permutations_of(len(blocks), seed) if self.settings.all_orders else [tuple(range(len(blocks)))]
        )
        rows = []
        for order in orders:
            permutation = [first[place] for place in order]
            name = "".join(map(str, permutation)) or "none"
            row = self._done.get((scene.id, turn, name))
            if row is None:
                row = self._candidate(number, scene, turn, blocks, permutation, name, seed, pinned)
                append_rows(self.rows, [row])
                self._done[scene.id, turn, name] = row
            rows.append(row)
            on_candidate(row)
        return rows

    def _candidate(
        self,
        number: int,
        scene: Scene,
        turn: int,
        blocks: Sequence[Matched],
        permutation: Sequence[int],
        name: str,
        seed: int,
        pinned: Sequence[Image.Image],
    ) -> Row:
        own = {-1 - place: one for place, one in enumerate(pinned)}  # below the numbers of references
        grid = arrange(
            [one.tiles for one in blocks], permutation, pinned=[*own], skip_centre=self.settings.skip_centre
        )
        opened = {
            tile: own[tile] if tile < 0 else self.pool.references[tile].open() for tile in {*grid.values()}
        }
        canvas, mask = sheet_of({place: opened[tile] for place, tile in grid.items()}, self.settings.side)
        text = f"{self.settings.prefix} {scene.prompt}".strip()
        painted = self.inpaint()(canvas, mask, text, seeded(seed))
        centre = centre_of(painted, self.settings.side)
        seen = [tile for place, tile in grid.items() if place != CENTRE]
        scored = self._score(centre, scene, [tile for tile in seen if tile >= 0], [own[one] for one in own])
        folder = self.folder / f"{number:04d}"
        files = {
            "tile": folder / f"round-{turn}-{name}.png",
            "sheet": folder / f"round-{turn}-{name}-sheet.png",
        }
        for kind, picture in (("tile", centre), ("sheet", painted)):
            with atomic_path(files[kind]) as path:
                picture.convert("RGB").save(path, "PNG")
        return {
            "id": scene.id,
            "round": turn,
            "order": name,
            "permutation": list(permutation),
            "seed": seed,
            "tiles": _named(grid, self.pool.references),
            **scored,
            "seam": seam(painted, self.settings.side),
            **{kind: str(file.relative_to(self.folder.parent)) for kind, file in files.items()},
        }

    def _score(
        self, centre: Image.Image, scene: Scene, shown: Sequence[int], pinned: Sequence[Image.Image]
    ) -> Row:
        """Scores of one candidate; references count once each, pinned pictures among them."""
        scorer = self.scorer()
        unique = sorted({*shown})
        references = [*self.pool.embeddings[unique], *(scorer.pictures([one])[0] for one in pinned)]
        one: Scored = score_candidates(
            scorer.pictures([centre]), scorer.texts([scene.prompt])[0], np.array(references)
        )
        held_out = self.settings.held_out
        second = (
            {}
            if held_out is None
            else {
                "held_out_score": float(
                    score_candidates(
                        held_out.pictures([centre]), held_out.texts([scene.prompt])[0], np.zeros((0, 1))
                    ).text[0]
                )
            }
        )
        return {
            "text_score": float(one.text[0]),
            "reference_score": float(one.references[0]),
            "copy_score": float(one.copies[0]),
            **second,
        }


def _value(row: Row, weight: float) -> float:
    return row["text_score"] + weight * row["reference_score"]


def chosen(rows: Sequence[Row], weight: float) -> Row:
    """The candidate with the largest text score plus `weight` times its reference score; the first of equals."""
    return max(rows, key=lambda row: _value(row, weight))


def _named(grid: dict[Place, int], references: Sequence[Reference]) -> list[list[str | None]]:
    """The grid as rows of ids: `MASK` in the centre, None where nothing lies."""
    names: dict[Place, str] = {
        place: references[tile].id if tile >= 0 else f"{PINNED_NAME} {-tile}" for place, tile in grid.items()
    }
    names[CENTRE] = "MASK"
    return [[names.get((column, row)) for column in range(3)] for row in range(3)]


def publish_scene(folder: Path, number: int, rows: Sequence[Row], best: Row) -> dict[str, str]:
    """The chosen picture as `best.png`, and all candidates side by side as `contact.png`; their places in the run.

    Args:
        folder: of the pictures.
    """
    place = folder / f"{number:04d}"
    tiles = [open_picture(folder.parent / row["tile"]) for row in rows]
    made = {"best": open_picture(folder.parent / best["tile"]), "contact": contact_sheet(tiles)}
    for name, picture in made.items():
        with atomic_path(place / f"{name}.png") as path:
            picture.save(path, "PNG")
    return {name: str((place / f"{name}.png").relative_to(folder.parent)) for name in made}
