"""Options of painting scenes from sheets of references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coalign.core.options import Count, NonNegative, Seed, option, required
from coalign.vision.reference_sheets.inpainting import InpaintingOptions
from coalign.vision.reference_sheets.matching import PLACES

PREFIX = "A sheet of nine panels in one consistent art style, of high quality and rich in detail; the panel in the middle shows:"
AUTO = {"elements": "auto"}


@dataclass(kw_only=True)
class SheetOptions(InpaintingOptions):
    """Scenes, references, and how sheets are made of them."""

    __group__ = "Method"

    data: str = required(
        "scenes: rows with `prompt`, and where given `elements`, `pinned`, `seed`", group="Data"
    )
    references: str = required("pictures of the theme: a folder, or any source of pictures", group="Data")
    limit: Count | None = option(None, "paint only the first scenes", group="Data")
    encoder: str = option(
        "openai/clip-vit-base-patch32", "image-text model that matches and chooses", source="official code"
    )
    held_out_encoder: str | None = option(
        None, "another image-text model that scores the candidates and never chooses", source="our choice"
    )
    selection: Literal["matched", "random", "none"] = option(
        "matched",
        "references of a sheet: matched to the elements, drawn from all, or black tiles",
        source="paper",
    )
    elements: Literal["given", "auto"] = option(
        "given",
        "read them from the data, or ask a language model where a scene has none",
        source="official code",
    )
    element_count: Count = option(3, "elements that the model is asked for", source="paper", only_with=AUTO)
    element_model: str = option(
        "default",
        "a language model: `default`, a hub id, a folder, or the address of a server",
        only_with=AUTO,
    )
    element_served: str | None = option(None, "its name on that server", only_with=AUTO)
    element_tokens: Count = option(200, "most tokens of its reply", only_with=AUTO)
    top: Count = option(
        9, "references that an element ranks", source="official code", only_with={"selection": "matched"}
    )
    tiles: Count | None = option(
        None,
        "references that an element shows; by default as many as nine places hold",
        source="official code: 3 of 3",
    )
    orders: Literal["all", "given"] = option(
        "all",
        "try every order of the elements (six drawn ones of more than four), or the given one",
        source="paper",
    )
    rounds: Count = option(
        1, "most rounds of arranging again", source="official code", only_with={"selection": "matched"}
    )
    min_gain: NonNegative = option(
        0.005, "a round that gains less is the last", source="our choice", only_with={"selection": "matched"}
    )
    reference_weight: NonNegative = option(
        0.0, "of the likeness to the references beside the text score", source="official code"
    )
    skip_centre: bool = option(False, "lay no reference under the mask", source="official code")
    prefix: str = option(
        PREFIX, "put before the scene's text for the generator", source="paper, in our words"
    )
    tile: Count = option(256, "pixels of a tile's side", source="official code")
    story: bool = option(
        False,
        "keep the first scene's seed, and pin each chosen picture for the next scene",
        source="our choice",
    )
    seed: Seed = option(0, "of the scenes' seeds (0 to 1000 each), and of references that are drawn")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.elements == "auto" and self.element_count > len(PLACES):
            raise ValueError(f"element_count is {self.element_count}, expected at most {len(PLACES)}")
        if self.rounds == 1:
            self.refuse(["min_gain"], "with rounds: 1")
        if self.selection == "none":
            self.refuse(["tiles", "orders", "skip_centre", "reference_weight"], "with selection: none")
