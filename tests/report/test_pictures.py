"""Pictures in reports: bounded, self-contained, read back equal."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from coalign.core.errors import CoalignError
from coalign.report.html import render_html
from coalign.report.model import from_dict, to_dict
from coalign.report.pictures import MOST_BYTES, Gallery, Shown, Thumbnail, gallery, thumbnail
from tests.report.build import report_of


def _decoded(one: Thumbnail) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(one.data.partition(",")[2])))


def _noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def noise() -> Thumbnail:
    """What compresses worst."""
    return thumbnail(_noise(1200, 900))


def test_a_report_of_a_thousand_pictures_is_below_20_megabytes(noise: Thumbnail) -> None:
    assert len(base64.b64decode(noise.data.partition(",")[2])) <= MOST_BYTES
    assert (noise.width, noise.height) == _decoded(noise).size
    items = (Shown([noise], f"picture {number}") for number in range(3000))
    sections = gallery("Pictures", items, total=3000)
    assert len(sections[0].items) == 1000
    assert sections[0].note == "The first 1,000 of 3,000."
    assert len(render_html(report_of(*sections))) < 20_000_000


def test_small_pictures_keep_their_pixels() -> None:
    values = _noise(32, 24)
    one = thumbnail(values)
    assert np.array_equal(np.asarray(_decoded(one).convert("RGB")), values)
    assert one.factor == 3
    assert thumbnail(_noise(1, 1)).factor == 96


def test_sizes() -> None:
    wide = thumbnail(Image.new("RGB", (2000, 10)))
    assert (wide.width, wide.height, wide.factor) == (192, 1, 1)
    assert thumbnail(Image.new("RGB", (300, 600)), side=64).height == 64


def test_values_and_modes() -> None:
    assert _decoded(thumbnail(np.full((4, 4), 2.0))).convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert _decoded(thumbnail(Image.new("CMYK", (4, 4)))).mode == "RGB"


def test_several_pictures_an_item_are_counted_as_such(noise: Thumbnail) -> None:
    found = gallery("Pairs", (Shown([noise, noise]) for _ in range(2000)))
    assert found[0].rows
    assert len(found[0].items) == 500
    assert gallery("None", []) == []


def test_a_gallery_reads_back_equal_and_escapes(noise: Thumbnail) -> None:
    said = Shown([noise], "<script>alert(1)</script>", {"right": True, "score": 0.25, "of": "a & b"}, "bad")
    report = report_of(Gallery(title="Pictures", items=[said]))
    assert from_dict(to_dict(report)) == report
    page = render_html(report)
    assert page.count("<script>alert") == 0
    assert 'src="data:image/jpeg;base64,' in page
    assert 'class="card bad"' in page


@pytest.mark.parametrize(
    "data", ["https://example.org/a.png", "data:image/svg+xml;base64,AAAA", 'data:image/png;base64,A"']
)
def test_only_pictures_within_the_page(data: str) -> None:
    with pytest.raises(ValueError, match="no data URL"):
        Thumbnail(data, 1, 1)
    given = to_dict(report_of(Gallery(title="x", items=[Shown([thumbnail(_noise(2, 2))])])))
    given["sections"][0]["items"][0]["pictures"][0]["data"] = data
    with pytest.raises(CoalignError):
        from_dict(given)
