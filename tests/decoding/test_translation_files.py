"""Translation files as they come: namespaces, variants of languages, inline markup, broken lines."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.decoding.translation.files import (
    language_code,
    read_glossary,
    read_sentences,
    write_tmx,
    write_tsv,
)
from coalign.decoding.translation.memory import TranslationUnit

CODES = ("en", "es")
TMX = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"{namespace}>
 <header creationtool="x" creationtoolversion="1" segtype="sentence" o-tmf="x" adminlang="en" srclang="en-US" datatype="xml"/>
 <body>
  <tu tuid="one">
   <note>a note</note>
   <tuv xml:lang="EN-us"><seg>Wash <bpt i="1">&lt;b&gt;</bpt>your<ept i="1">&lt;/b&gt;</ept>
     <hi type="x">hands</hi><ph x="1">&lt;br/&gt;<sub>hidden</sub></ph> &amp; face.</seg></tuv>
   <tuv xml:lang="es-MX"><seg>L\u00e1vese las manos mexicanas.</seg></tuv>
   <tuv xml:lang="es"><seg>L\u00e1vese las manos.</seg></tuv>
  </tu>
  <tu><tuv lang="en"><seg>Old attribute</seg></tuv><tuv lang="es_ES"><seg>Atributo antiguo</seg></tuv></tu>
  <tu><tuv xml:lang="en"><seg>No Spanish</seg></tuv><tuv xml:lang="fr"><seg>Bonjour</seg></tuv></tu>
 </body>
</tmx>
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("namespace", ["", ' xmlns="http://www.lisa.org/tmx14"'])
def test_tmx_as_tools_write_it(tmp_path, namespace, caplog):
    path = write(tmp_path / "m.tmx", TMX.replace("{namespace}", namespace))
    first, second = read_sentences([path], CODES, targets=True)
    assert (first.source, first.target, first.id) == ("Wash your hands & face.", "Lávese las manos.", "one")
    assert (second.source, second.target) == ("Old attribute", "Atributo antiguo")
    assert "1 entries without text in both languages" in caplog.text
    assert read_sentences([path], ("en-GB", "es-MX"), targets=True)[0].target == "Lávese las manos mexicanas."


def test_tmx_in_other_languages_says_which(tmp_path):
    path = write(tmp_path / "m.tmx", TMX.replace("{namespace}", ""))
    with pytest.raises(DataError, match="its languages: EN-us, en, es, es-MX, es_ES, fr") as caught:
        read_sentences([path], ("de", "es"), targets=True)
    assert "--source-code" in str(caught.value)


def test_xml_that_would_read_other_files_is_refused(tmp_path):
    bomb = '<!DOCTYPE tmx [<!ENTITY x SYSTEM "file:///etc/passwd">]><tmx><body><tu><tuv xml:lang="en"><seg>&x;</seg></tuv></tu></body></tmx>'
    with pytest.raises(DataError, match="not a TMX file that can be read"):
        read_sentences([write(tmp_path / "bomb.tmx", bomb)], CODES, targets=True)
    with pytest.raises(DataError, match="not a TMX file"):
        read_sentences([write(tmp_path / "cut.tmx", TMX[:200])], CODES, targets=True)
    with pytest.raises(DataError, match="no such file"):
        read_sentences([tmp_path / "absent.tmx"], CODES, targets=True)


texts = st.text(min_size=1, max_size=20).map(lambda one: " ".join(one.split())).filter(bool)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
def test_what_is_written_is_read_again(tmp_path_factory, pairs):
    import re

    clean = [
        tuple(
            re.sub("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", one) for one in pair
        )
        for pair in pairs
    ]
    path = tmp_path_factory.mktemp("tmx") / "m.tmx"
    write_tmx(path, [TranslationUnit(*pair) for pair in clean], CODES)
    found = read_sentences([path], CODES, targets=True)
    assert [(one.source, one.target) for one in found] == [
        (" ".join(a.split()), " ".join(b.split())) for a, b in clean
    ]


def test_tsv_with_and_without_names(tmp_path):
    plain = write(tmp_path / "a.tsv", "one\tuno\n\n# two\tdos\ttwo-mt\n")
    assert [(one.source, one.target, one.mt) for one in read_sentences([plain], CODES, targets=True)] == [
        ("one", "uno", None),
        ("# two", "dos", "two-mt"),
    ]
    named = write(tmp_path / "b.tsv", "\ufeffid\ttarget\tsource\nx\tuno\tone\n")
    only = read_sentences([named], CODES, targets=True)[0]
    assert (only.id, only.source, only.target) == ("x", "one", "uno")
    write_tsv(tmp_path / "c.tsv", [TranslationUnit("a\tb", "c\nd")])
    assert (tmp_path / "c.tsv").read_text() == "source\ttarget\na b\tc d\n"


def test_a_glossary_may_have_comments(tmp_path):
    path = write(tmp_path / "g.tsv", "# terms\nmask\tmascarilla\n")
    assert read_glossary(path, CODES) == [("mask", "mascarilla")]


def test_mistakes_are_named_by_line(tmp_path):
    cases = {
        "a.tsv": ("one\tuno\n\tdos\n", "a.tsv:2: source: is empty"),
        "b.tsv": ("one\t\n", "b.tsv:1: target: is empty"),
        "c.jsonl": ('{"source": "a", "target": "b"}\n{"source": 3}\n{"x\n', "c.jsonl:2: source: is 3"),
        "d.jsonl": ('{"source": "a", "target": "b", "terms": [["x"]]}\n', "d.jsonl:1: terms"),
        "e.jsonl": ('{"source": "a", "target": 4}\n', "e.jsonl:1: target: is '4'"),
        "f.txt": ("one\n", "target: is missing for 'one'"),
        "g.tsv": ("", "no sentences"),
    }
    for name, (text, message) in cases.items():
        with pytest.raises(DataError) as caught:
            read_sentences([write(tmp_path / name, text)], CODES, targets=True)
        assert message in str(caught.value)


def test_parallel_files(tmp_path):
    first, second = write(tmp_path / "a.en", "one\r\ntwo\r\n"), write(tmp_path / "a.es", "uno\ndos\n")
    found = read_sentences([first, second], CODES, targets=True)
    assert [(one.source, one.target, one.id) for one in found] == [("one", "uno", "0"), ("two", "dos", "1")]
    write(second, "uno\n")
    with pytest.raises(DataError, match=r"has 2 lines and .* 1, expected as many"):
        read_sentences([first, second], CODES, targets=True)
    write(second, "uno\n\n")
    with pytest.raises(DataError, match=r"a\.es:2: text: is empty"):
        read_sentences([first, second], CODES, targets=True)


def test_codes_of_languages():
    assert language_code("English") == "en"
    assert language_code("pt-BR") == "pt-BR"
    assert language_code("Klingon", "tlh") == "tlh"
    with pytest.raises(ConfigError, match="--source-code"):
        language_code("Old High German")
