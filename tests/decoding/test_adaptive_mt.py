"""Translation files as they come; memory, prompts, terms, batch and interactive translation over a scripted back end."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.decoding import adaptive_mt
from coalign.decoding.translation import memory
from coalign.decoding.translation import prompts as wording
from coalign.decoding.translation.files import (
    Sentence,
    language_code,
    read_glossary,
    read_sentences,
    write_tmx,
    write_tsv,
)
from coalign.decoding.translation.memory import TranslationUnit
from coalign.decoding.translation.translator import AdaptiveTranslator, TranslationOptions
from coalign.models.types import Generation
from coalign.report.html import read_report

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


LABELS = wording.Labels("English", "Spanish")
PAIRS = [
    ("wash your hands", "lávese las manos"),
    ("wash your face", "lávese la cara"),
    ("the virus spreads", "el virus se propaga"),
    ("stay at home", "quédese en casa"),
]
UNITS = [memory.TranslationUnit(*pair) for pair in PAIRS]


class Letters:
    """Vectors of letter counts."""

    def __init__(self):
        self.asked: list[str] = []

    def encode(self, texts):
        self.asked += texts
        counts = torch.tensor([[text.count(chr(97 + n)) + 0.01 for n in range(26)] for text in texts])
        return torch.nn.functional.normalize(counts.float(), dim=-1) if texts else torch.zeros(0, 26)


class Echo:
    """Writes the Spanish side of the last example, or `?`; keeps what it was asked."""

    def __init__(self):
        self.prompts: list[str] = []
        self.samplings: list = []

    def generate(self, prompts, sampling, *, done=(), on_batch=None, label=""):
        self.prompts += prompts
        self.samplings.append(sampling)
        made = []
        for prompt in prompts:
            text = prompt if isinstance(prompt, str) else prompt[0]["content"]
            found = [line for line in text.splitlines()[:-1] if line.startswith("Spanish: ")]
            made.append([Generation(" " + found[-1].removeprefix("Spanish: ") if found else " ?")])
        return made


def filled(**more):
    return memory.TranslationMemory(list(UNITS), **{"encoder": Letters(), **more})


@pytest.mark.parametrize("retrieval", ["embeddings", "edit", "hybrid"])
def test_the_nearest_entry_comes_first(retrieval):
    found = filled(retrieval=retrieval).matches("wash your hair", 3)
    assert found[0].index in (0, 1)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_entries_that_must_not_be_found():
    whole = filled(retrieval="edit")
    assert whole.matches("wash your hands", 1)[0].index == 1, "an equal source is no match"
    assert whole.matches("wash your hands", 1, allow_exact=True)[0].index == 0
    assert whole.matches("wash your hands", 9, leave_out=1)[0].index == 2
    assert all(one.score <= 0.5 for one in whole.matches("wash your hands", 9, max_similarity=0.5))
    assert whole.matches("x", 0) == [] == memory.TranslationMemory(retrieval="edit").matches("x", 3)


def test_a_new_entry_is_found_at_once_and_survives(tmp_path):
    journal, encoder = tmp_path / "memory.jsonl", Letters()
    first = memory.TranslationMemory(list(UNITS), encoder=encoder, journal=journal)
    first.matches("cover your mouth", 1)
    first.add(memory.TranslationUnit("cover your nose", "cúbrase la nariz"))
    assert first.matches("cover your mouth", 1)[0].index == 4
    assert encoder.asked.count("wash your hands") == 1, "only new entries are embedded"
    with journal.open("a") as file:
        file.write('{"source": "torn')
    again = memory.TranslationMemory(list(UNITS), encoder=Letters(), journal=journal)
    assert len(again) == 5
    assert again.matches("cover your mouth", 1)[0].index == 4
    first.forget(4)
    assert len(first) == 4
    assert first.matches("cover your mouth", 9)[-1].index < 4


def test_vectors_are_kept_on_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path))
    texts = [f"sentence {chr(97 + n % 26)} {n}" for n in range(70)]
    inner = Letters()
    first = memory.KeptEncoder(inner, "letters").encode(texts)
    again = memory.KeptEncoder(inner, "letters").encode(texts)
    assert torch.equal(first, again)
    assert len(inner.asked) == 70
    memory.KeptEncoder(inner, "other").encode(texts)
    assert len(inner.asked) == 140


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.lists(st.integers(-9, 9), min_size=3, max_size=3).filter(any), min_size=1, max_size=7),
    st.integers(1, 7),
)
def test_mined_pairs_hold_each_sentences_nearest(rows, count):
    vectors = torch.tensor(rows, dtype=torch.float64)
    pairs = memory.mine_pairs(vectors, count)
    units = torch.nn.functional.normalize(vectors, dim=-1)
    assert pairs == sorted(pairs, key=lambda one: (-one[0], one[1], one[2]))
    for index in range(len(rows)):
        cosines = sorted(
            (float(units[index] @ units[j]) for j in range(len(rows)) if j != index), reverse=True
        )
        found = [one.score for one in memory.matches_in(pairs, index, count)]
        assert found == pytest.approx(cosines[: len(found)])
        assert len(found) == min(count, len(rows) - 1)


def test_prompts():
    shots = [wording.Shot("near", "cerca", "mt near", [("a", "b")]), wording.Shot("far", "lejos")]
    request = wording.TranslationRequest("new", shots, "mt new", [("c", "d"), ("e", "f")])
    assert wording.translation_prompt(request, LABELS) == (
        "English: far\nSpanish: lejos\nEnglish: near\nMT: mt near\nTerms: a = b\nSpanish: cerca\n"
        "English: new\nMT: mt new\nTerms: c = d, e = f\nSpanish:"
    )
    assert wording.translation_prompt(request, LABELS, best_last=False).startswith("English: near")
    assert wording.translation_prompt(wording.TranslationRequest("new"), LABELS) == "English: new\nSpanish:"


def test_reading_replies():
    assert wording.clean_translation("  uno\nEnglish: two", "one") == "uno"
    assert wording.clean_translation("Hola. Adiós amigos míos, hasta la vista.", "Hello.") == "Hola."
    assert wording.clean_translation("Hola. Adiós.", "Hello. Bye.") == "Hola. Adiós."
    assert wording.clean_translation("", "one") == ""
    assert wording.length_limit(["one two three"], 4) == 12
    assert wording.length_limit(["洗手" * 5], 4) == 40
    assert wording.read_terms(
        "1. virus = virus\n- mask = bata\nno pair\nvirus = virus", "the virus mask", "el virus", 5
    ) == [("virus", "virus")]


def test_terms_occur_as_whole_words_longest_first():
    glossary = [("art", "arte"), ("hand", "mano"), ("hand wash", "lavado"), ("Art", "ARTE"), ("手", "mano")]
    assert memory.terms_in(glossary, "A hand wash at the party") == [("hand wash", "lavado")]
    assert memory.terms_in(glossary, "art by hand") == [("hand", "mano"), ("art", "arte")]
    assert memory.terms_in(glossary, "art by hand", count=1) == [("hand", "mano")]
    assert memory.terms_in(glossary, "art by hand", target="el arte") == [("art", "arte")]
    assert memory.terms_in(glossary, "洗手") == [("手", "mano")]


def translator(generator, **options):
    glossary = options.pop("glossary", [])
    return AdaptiveTranslator(generator, filled(retrieval="edit"), glossary, TranslationOptions(**options))


def test_what_the_model_is_asked():
    echo = Echo()
    one = translator(echo, glossary=[("hands", "MANOS")], mt="new").translate(
        [Sentence("wash your hands now", mt="draft")], 2
    )[0]
    assert echo.prompts[0].splitlines()[-4:] == [
        "English: wash your hands now", "MT: draft", "Terms: hands = MANOS", "Spanish:",
    ]  # fmt: skip
    assert "Terms" in echo.prompts[0].split("English: wash your hands now")[0], "the example has the term too"
    assert one.translation == "lávese las manos"
    assert one.copied
    assert echo.samplings[0].stop == ("\n",)
    assert echo.samplings[0].max_new_tokens == 16
    with pytest.raises(ConfigError, match="--glossary"):
        translator(echo, terms="glossary")


def test_terms_can_come_from_the_model():
    class Extracting(Echo):
        def generate(self, prompts, sampling, **rest):
            if "Extract" in prompts[0]:
                self.prompts += prompts
                return [[Generation("hands = manos\nyour = las\nknife = cuchillo")] for _ in prompts]
            return super().generate(prompts, sampling, **rest)

    model = Extracting()
    one = translator(model, terms="matches").translate([Sentence("dirty hands")], 1)[0]
    assert one.terms == (("hands", "manos"),)


def test_random_examples_are_the_same_every_time_and_never_the_sentence_itself():
    echo = Echo()
    mine = AdaptiveTranslator(echo, filled(retrieval="edit"), [], TranslationOptions(), own=True)
    sentences = [Sentence(unit.source, unit.target) for unit in UNITS]
    first = mine.translate(sentences, 3, drawn=True)
    assert [one.prompt for one in mine.translate(sentences, 3, drawn=True)] == [one.prompt for one in first]
    for one, sentence in zip(first, sentences, strict=True):
        assert one.prompt.count(sentence.source) == 1
        assert all(math.isnan(score) for _, score in one.matches)


GLOSSARY = "virus\tvirus\n"
MEMORY = "".join(f"{source}\t{target}\n" for source, target in PAIRS)
TEXT = "wash your hair\tlávese el pelo\nstay at work\tquédese en el trabajo\nthe virus\tel virus\n"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A run over the text of files; what is typed is a text too."""

    def work(folder="run", typed="", **options):
        for name in {"data", "memory", "glossary"} & options.keys():
            path = tmp_path / (f"{name}.tsv" if "\t" in options[name] else f"{name}.txt")
            path.write_text(options[name])
            options[name] = path if name == "glossary" else [path]
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        monkeypatch.setattr(adaptive_mt, "open_generator", lambda config: Echo())
        config = adaptive_mt.Config(retrieval="edit", bleu_tokens="13a", **options)
        run = Run.start(tmp_path / folder, "adaptive-mt", config, seed=0)
        adaptive_mt.run(config, run)
        return run

    return work


def test_a_batch_reports_scores_by_matches_and_similarity(work):
    run = work(data=TEXT, memory=MEMORY, glossary=GLOSSARY, shots=[0, 1, 2], random_shots=2)
    report = read_report(run.report)
    table = report.sections[0]
    assert [row[0] for row in table.rows] == ["no match", "2 at random", "1 match", "2 matches"]
    assert report.verdict.outcome in ("improved", "worse", "neutral")
    assert "chrF++ by similarity of the best match" in [one.title for one in report.sections]
    rows = read_rows(run.artefacts / "1-match.jsonl")
    assert [row["source"] for row in rows] == ["wash your hair", "stay at work", "the virus"]
    assert rows[2]["terms"] == [["virus", "virus"]]
    assert (rows[2]["terms_counted"], rows[2]["terms_used"]) == (1, 1)
    scores = json.loads((run.artefacts / "scores.json").read_text())
    assert scores["1 match"]["chrf"] > scores["no match"]["chrf"]


def test_the_text_is_its_own_memory_where_there_is_none(work):
    rows = read_rows(work(data=TEXT, shots=[1]).artefacts / "1-match.jsonl")
    assert all(row["matches"][0][0] != row["source"] for row in rows)


def test_a_text_without_references_is_translated_and_not_scored(work):
    report = read_report(work(data="wash your feet\n", memory=MEMORY, shots=[1]).report)
    assert report.verdict.outcome == "neutral"
    assert "no references" in report.verdict.text


def test_references_enter_the_memory_as_they_come(work):
    data = "cover your nose\tcúbrase la nariz\ncover your mouth\tcúbrase la boca\n"
    rows = read_rows(work(data=data, memory=MEMORY, shots=[1], adapt=True).artefacts / "1-match.jsonl")
    assert rows[1]["matches"][0][1] == "cúbrase la nariz"


def test_a_translator_corrects_and_the_memory_learns(work, capsys):
    new = "cover your nose\ncover your mouth\nstay at home now\nwash\n"
    options = {"data": new, "memory": MEMORY, "shots": [1], "interactive": True}
    work(typed="cúbrase la nariz\n\n/quit\n", **options)
    shown = capsys.readouterr().out
    assert "proposal  cúbrase la nariz" in shown, "the second proposal follows the first correction"
    run = work(typed="/skip\n", **options)
    again = capsys.readouterr().out
    assert "cover your nose\n" not in again.split("proposal")[0].split("source")[1]
    assert "source    stay at home now" in again
    finals = [row["final"] for row in read_rows(run.artefacts / "session.jsonl")]
    assert finals == ["cúbrase la nariz", "cúbrase la nariz", None]
    learnt = read_sentences([run.path / "memory.tmx"], ("en", "es"), targets=True)
    assert [one.source for one in learnt][-2:] == ["cover your nose", "cover your mouth"]
    assert (run.path / "memory.tsv").read_text().count("\n") == 7
    assert read_report(run.report).sections[0].title == "Decisions"


def test_typed_sentences(work):
    options = {"memory": MEMORY, "shots": [1], "interactive": True}
    work(typed="wash your feet\nlávese los pies\n\n", **options)
    rows = read_rows(work(typed="now wash your feet\n\n\n", **options).artefacts / "session.jsonl")
    assert [(row["id"], row["final"]) for row in rows] == [(f"typed-{n}", "lávese los pies") for n in (0, 1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs data: sentences"),
        ({"interactive": True}, "needs a memory, or data"),
        ({"data": TEXT, "memory": MEMORY, "mt": "new"}, "column mt"),
    ],
)
def test_what_a_run_cannot_do_without(options, message, work):
    with pytest.raises(ConfigError, match=message):
        work(**options)
