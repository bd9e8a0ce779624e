"""Tables and TMX as spreadsheets, libraries and translation programs write them; Chinese, Japanese and Thai."""

from __future__ import annotations

import csv
import logging

import pytest

from coalign.core.errors import DataError
from coalign.decoding.translation.files import read_glossary, read_sentences, write_tsv
from coalign.decoding.translation.memory import TranslationMemory, TranslationUnit
from coalign.measures.texts.text_units import edit_units
from coalign.measures.texts.translation_metrics import corpus_scores, edit_similarity

pytest.importorskip("defusedxml")
CODES = ("en", "es")
PAIRS = [("hand", "mano"), ("foot", "pie")]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def terms(path, codes=CODES):
    return read_glossary(path, codes)


@pytest.mark.parametrize(
    "head",
    [
        ("English", "Spanish"),
        ("en", "es"),
        ("EN-us", "es_MX"),
        ("source", "target"),
        ("Source term", "Target term"),
        ("src", "tgt"),
        ("SRC", "TRG"),
        ("term", "translation"),
        ("Term", "Translation"),
    ],
)
@pytest.mark.parametrize("before", ["", "# ours\n", "\n# ours\n\n"])
def test_names_of_columns_are_no_terms(tmp_path, head, before):
    path = write(tmp_path / "g.tsv", before + "\t".join(head) + "\nhand\tmano\nfoot\tpie\n")
    assert terms(path) == PAIRS


@pytest.mark.parametrize(
    "head", [("Spanish", "English"), ("es", "en"), ("target", "source"), ("note", "en", "es")]
)
def test_columns_may_stand_in_another_order(tmp_path, head):
    sides = {"en": "hand", "english": "hand", "source": "hand", "note": "x"}
    row = [sides.get(name.lower(), "mano") for name in head]
    assert terms(write(tmp_path / "g.tsv", "\t".join(head) + "\n" + "\t".join(row) + "\n")) == PAIRS[:1]


@pytest.mark.parametrize(
    "first", [("no", "no"), ("source", "fuente"), ("it", "lo"), ("English breakfast", "desayuno")]
)
def test_a_first_pair_is_no_header(tmp_path, first):
    path = write(tmp_path / "g.tsv", "\t".join(first) + "\nhand\tmano\n")
    assert terms(path) == [first, PAIRS[0]]


def test_columns_of_other_languages_and_doubtful_lines_are_named(tmp_path, caplog):
    path = write(tmp_path / "g.tsv", "French\tGerman\nmain\tHand\n")
    with pytest.raises(DataError, match=r"g\.tsv:1: the columns are French, German, expected en and es"):
        terms(path)
    with caplog.at_level(logging.WARNING):
        terms(write(tmp_path / "h.tsv", "original terms\tours\nhand\tmano\n"))
    assert "h.tsv:1: original terms | ours is read as a pair" in caplog.text


QUOTED = [('say "hi"', "di «hola»"), ("two\nlines", "dos líneas"), ("hand", "mano")]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(("suffix", "delimiter"), [(".tsv", "\t"), (".csv", ",")])
def test_quotes_of_spreadsheets_are_no_text(tmp_path, quoting, suffix, delimiter):
    path = tmp_path / f"g{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, quoting=quoting).writerows([("source", "target"), *QUOTED])
    assert terms(path) == [(one.replace("\n", " "), other) for one, other in QUOTED]


@pytest.mark.parametrize(
    "rows",
    [
        [('"Yes," he said.', '"Sí", dijo.'), ("hand", "mano")],
        [('"Go away!"', '"¡Vete!"'), ("hand", "mano")],
        [('"One', "Uno"), ("hand", "mano"), ('two"', "dos")],
        [("hand", "mano"), ('"never closed', "nunca")],
    ],
)
def test_quotes_of_speech_are_text(tmp_path, rows):
    path = write(tmp_path / "m.tsv", "".join(f"{one}\t{other}\n" for one, other in rows))
    assert [(one.source, one.target) for one in read_sentences([path], CODES, targets=True)] == rows


def test_a_problem_in_a_table_with_line_breaks_has_its_line(tmp_path):
    path = write(tmp_path / "m.csv", 'source,target\n"two\nlines",dos\nhand,\n')
    with pytest.raises(DataError, match=r"m\.csv:4: target: is empty"):
        read_sentences([path], CODES, targets=True)
    with pytest.raises(DataError, match=r"n\.csv:2: not CSV"):
        read_sentences([write(tmp_path / "n.csv", 'a,b\n"a"b,c\n')], CODES, targets=True)


def test_written_tables_are_read_back_by_two_other_readers(tmp_path):
    pandas = pytest.importorskip("pandas")
    pairs = [
        ('"Yes," he said.', '"Sí", dijo.'),
        ('5" nail', "clavo"),
        ('"', '""'),
        ("NA", "null"),
        ("a,b", "c;d"),
    ]
    path = tmp_path / "m.tsv"
    write_tsv(path, [TranslationUnit(*pair) for pair in pairs])
    with path.open(encoding="utf-8", newline="") as file:
        assert [tuple(row) for row in csv.reader(file, delimiter="\t")][1:] == pairs
    table = pandas.read_csv(path, sep="\t", keep_default_na=False)
    assert list(table.itertuples(index=False, name=None)) == pairs
    assert [(one.source, one.target) for one in read_sentences([path], CODES, targets=True)] == pairs


def test_a_table_that_pandas_wrote(tmp_path):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "m.tsv"
    pandas.DataFrame(QUOTED, columns=["source", "target"]).to_csv(path, sep="\t", index=False)
    assert terms(path) == [(one.replace("\n", " "), other) for one, other in QUOTED]


def tmx(folder, *segments, languages=("en", "es")):
    variants = "".join(
        f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>'
        for code, text in zip(languages, segments, strict=True)
    )
    return write(folder / "m.tmx", f'<tmx version="1.4"><header/><body><tu>{variants}</tu></body></tmx>')


@pytest.mark.parametrize(
    ("segment", "text"),
    [
        ('Line one<ph x="1" type="lb"/>Line two', "Line one Line two"),
        ('One.<ph type="x-lb">&lt;br/&gt;</ph>Two', "One. Two"),
        ("one<ph x='1'/>two", "one two"),
        ("one<ph>{0}</ph>, two", "one, two"),
        ("one <ph/> two", "one two"),
        ("one<it pos='begin'>&lt;br&gt;</it>two", "one two"),
        ("one<ut>\\n</ut>two", "one two"),
        ("un<bpt i='1'>&lt;b&gt;</bpt>believ<ept i='1'>&lt;/b&gt;</ept>able", "unbelievable"),
        ("<bpt i='1'>&lt;p&gt;</bpt>one<ept i='1'>&lt;/p&gt;</ept>two", "one two"),
        ("a<hi>b</hi>c", "abc"),
        ("(<ph/>one<ph/>)", "(one)"),
        ("one<ph type='lb'/><ph type='lb'/>two", "one two"),
        ("one<ph type='lb'/>", "one"),
        ("你好<ph type='lb'/>世界", "你好世界"),
        ("สวัสดี<ph type='lb'/>ครับ", "สวัสดีครับ"),
        ("你好<ph type='lb'/>world", "你好 world"),
        ("one\n  two", "one two"),
    ],
)
def test_markup_of_documents_between_words(tmp_path, segment, text):
    (found,) = read_sentences([tmx(tmp_path, segment, "x")], CODES, targets=True)
    assert found.source == text


@pytest.mark.parametrize(
    ("wanted", "there", "said"),
    [
        ("zh-TW", "zh-CN", True),
        ("pt-BR", "pt-PT", True),
        ("zh_TW", "zh-tw", False),
        ("zh-TW", "zh", True),
        ("zh", "zh-CN", False),
        ("pt", "pt", False),
    ],
)
def test_another_variant_of_the_language_is_said(tmp_path, caplog, wanted, there, said):
    path = tmx(tmp_path, "train", "tren", languages=("en-US", there))
    with caplog.at_level(logging.WARNING):
        (found,) = read_sentences([path], ("en", wanted), targets=True)
    assert found.target == "tren"
    assert (f"1 entries have no {wanted}; their {there} is taken" in caplog.text) is said


def test_the_own_variant_comes_first(tmp_path):
    path = tmx(tmp_path, "train", "a", "b", "c", languages=("en", "zh-CN", "zh", "zh-TW"))
    found = {
        code: read_sentences([path], ("en", code), targets=True)[0].target
        for code in ("zh-TW", "zh-HK", "zh")
    }
    assert found == {"zh-TW": "c", "zh-HK": "b", "zh": "b"}


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("the red cat.", ["the", "red", "cat."]),
        ("我喜欢 cats。", ["我", "喜", "欢", "cats。"]),
        ("猫が好き", ["猫", "が", "好", "き"]),
        ("カタカナ", ["カ", "タ", "カ", "ナ"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("ABC中文", ["ABC", "中", "文"]),
        ("  ", []),
    ],
)
def test_units_of_edits(text, units):
    assert edit_units(text) == units


@pytest.mark.parametrize(
    ("one", "other", "similarity"),
    [("我喜欢猫", "我喜欢狗", 0.75), ("猫が好き", "犬が好き", 0.75), ("ที่นี่", "ที่นั่น", 1 / 3)],
)
def test_similarity_of_scripts_without_spaces(one, other, similarity):
    assert edit_similarity(one, other)[1] == pytest.approx(similarity)
    memory = TranslationMemory([TranslationUnit(other, "x")], retrieval="edit")
    assert memory.matches(one, 1)[0].score == pytest.approx(similarity)


@pytest.mark.parametrize(
    ("language", "text", "token"),
    [
        ("zh", "我喜欢猫。", "zh"),
        ("zh-TW", "我喜歡貓。", "zh"),
        (None, "我喜欢猫和狗。", "zh"),
        ("ja", "猫が好きです。", "(ja-mecab|char)"),
        (None, "猫が好きです。", "(ja-mecab|char)"),
        ("th", "ฉันชอบแมวมาก", "char"),
        (None, "ฉันชอบแมวมาก", "char"),
        ("es", "Me gustan mucho los gatos.", "(13a|flores200)"),
        (None, "Me gustan mucho los gatos (猫).", "(13a|flores200)"),
    ],
)
def test_bleu_has_the_tokens_of_the_language(language, text, token):
    import re

    pytest.importorskip("sacrebleu")
    scores = corpus_scores([text], [text], language=language)
    assert re.search(f"tok:{token}", scores.signatures["bleu"])
    assert scores.bleu == pytest.approx(100)
    assert (
        corpus_scores([text], [text], language=language, tokens="intl").signatures["bleu"].count("tok:intl")
    )
    if token in ("zh", "(ja-mecab|char)"):
        changed = corpus_scores([text[:-2] + "x" + text[-1]], [text], language=language)
        assert 0 < changed.ter < 100
