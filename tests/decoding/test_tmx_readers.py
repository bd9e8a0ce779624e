"""A memory that we write is read by lxml and by the Translate Toolkit; one that the toolkit writes is read by us."""

from __future__ import annotations

import pytest

from coalign.decoding.translation.files import read_sentences, write_tmx
from coalign.decoding.translation.memory import TranslationUnit

pytest.importorskip("defusedxml")
CODES = ("en", "zh-TW")
PAIRS = [("hand & <foot>", "手"), ('"Yes," he said.', "「是」"), ("one  two", "一二"), ("a\u00a0b", "甲")]


@pytest.fixture
def written(tmp_path):
    write_tmx(tmp_path / "m.tmx", [TranslationUnit(*pair, id=str(n)) for n, pair in enumerate(PAIRS)], CODES)
    return tmp_path / "m.tmx"


def test_by_lxml(written):
    etree = pytest.importorskip("lxml.etree")
    root = etree.parse(str(written)).getroot()
    lang = "{http://www.w3.org/XML/1998/namespace}lang"
    found = [{tuv.get(lang): tuv.findtext("seg") for tuv in tu.iter("tuv")} for tu in root.iter("tu")]
    assert [(one["en"], one["zh-TW"]) for one in found] == PAIRS
    assert root.find("header").get("srclang") == "en"


def test_by_the_translate_toolkit(written):
    tmx = pytest.importorskip("translate.storage.tmx", reason="translate-toolkit is not installed")
    with written.open("rb") as file:
        found = tmx.tmxfile(file, "en", "zh-TW")
    assert [(one.source, one.target) for one in found.unit_iter()] == PAIRS


def test_a_memory_of_the_translate_toolkit(tmp_path):
    tmx = pytest.importorskip("translate.storage.tmx", reason="translate-toolkit is not installed")
    store = tmx.tmxfile()
    for source, target in PAIRS:
        store.addtranslation(source, "en", target, "zh-TW")
    path = tmp_path / "t.tmx"
    with path.open("wb") as file:
        store.serialize(file)
    found = [(one.source, one.target) for one in read_sentences([path], CODES, targets=True)]
    assert found == [(" ".join(one.split()), other) for one, other in PAIRS]
