"""Sentence pairs and glossaries in files: TMX, tab-separated, JSON Lines, and plain text line by line."""

from __future__ import annotations

import logging
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coalign import __version__
from coalign.core.errors import ConfigError, DataError, RecordProblem
from coalign.core.extras import require
from coalign.core.files import atomic_path, write_text
from coalign.data.messages import FieldError
from coalign.data.rows import Row, iter_rows, parse_each
from coalign.decoding.translation.memory import TranslationUnit
from coalign.decoding.translation.prompts import Term

logger = logging.getLogger(__name__)

LANGUAGES = {
    "arabic": "ar", "bengali": "bn", "bulgarian": "bg", "catalan": "ca", "chinese": "zh", "croatian": "hr", "czech": "cs",
    "danish": "da", "dutch": "nl", "english": "en", "estonian": "et", "finnish": "fi", "french": "fr", "german": "de",
    "greek": "el", "hebrew": "he", "hindi": "hi", "hungarian": "hu", "indonesian": "id", "irish": "ga", "italian": "it",
    "japanese": "ja", "kinyarwanda": "rw", "korean": "ko", "latvian": "lv", "lithuanian": "lt", "maltese": "mt",
    "norwegian": "no", "persian": "fa", "polish": "pl", "portuguese": "pt", "romanian": "ro", "russian": "ru",
    "serbian": "sr", "slovak": "sk", "slovenian": "sl", "spanish": "es", "swahili": "sw", "swedish": "sv", "thai": "th",
    "turkish": "tr", "ukrainian": "uk", "urdu": "ur", "vietnamese": "vi",
}  # fmt: skip
"""Names of languages, as prompts use them, to the codes of TMX."""
_NATIVE_CODE = {"bpt", "ept", "it", "ph", "ut"}
"""Inline elements of TMX that hold the markup of a document, not text."""
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Sentence:
    """A line of work: a source, and its translation and other columns where the file has them."""

    source: str
    target: str | None = None
    mt: str | None = None
    terms: tuple[Term, ...] = ()
    id: str = ""

    @property
    def unit(self) -> TranslationUnit:
        """As an entry of a memory."""
        assert self.target is not None
        return TranslationUnit(self.source, self.target, self.mt, self.id or None)


@dataclass
class _Reading:
    """Sentences read from files, and what is wrong with others."""

    sentences: list[Sentence] = field(default_factory=list)
    problems: list[RecordProblem] = field(default_factory=list)

    def bad(self, path: Path, line: int | None, name: str, problem: str, expected: str) -> None:
        index = None if line is not None else len(self.sentences)
        self.problems.append(RecordProblem(str(path), line, name, problem, expected, index))


def language_code(name: str, code: str | None = None) -> str:
    """The code of a language in TMX files: as given, else by its English name, else the name where it is a code.

    Raises:
        ConfigError: a name without a known code.
    """
    if code:
        return code
    if name.lower() in LANGUAGES:
        return LANGUAGES[name.lower()]
    if re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*", name):
        return name
    raise ConfigError(
        f"{name!r} has no language code that is known here.", hint="Give it: --source-code, --target-code."
    )


def read_sentences(
    paths: Sequence[Path], codes: tuple[str, str], *, targets: bool, comments: bool = False
) -> list[Sentence]:
    """Read a file of sentences or pairs, or two plain files whose lines belong together.

    By its ending a file is TMX (`.tmx`), tab-separated (`.tsv`: source, target, and optionally mt, or named columns in a
    first line), JSON Lines (`.jsonl`: source, target, mt, terms, id), or else text with a source a line.

    Args:
        paths: one file, or two.
        codes: language codes of source and target, for TMX.
        targets: every sentence must have a translation.
        comments: lines of a tab-separated file that start with # are left out.

    Raises:
        DataError: what cannot be used, by file and line.
    """
    reading = _Reading()
    if len(paths) == 2:
        _read_parallel(paths[0], paths[1], reading)
    elif len(paths) == 1:
        path, kind = paths[0], paths[0].suffix.lower()
        if kind == ".tmx":
            _read_tmx(path, reading, codes)
        elif kind in (".tsv", ".tab"):
            _read_tsv(path, reading, comments=comments)
        elif kind == ".jsonl":
            reading.sentences += parse_each(iter_rows(path), path, _sentence, reading.problems)
        else:
            _read_lines(path, reading)
    else:
        raise DataError(f"{len(paths)} files were given, expected one, or one a language.")
    if targets:
        for one in reading.sentences:
            if not one.target:
                reading.bad(paths[0], None, "target", f"is missing for {one.source[:40]!r}", "a translation")
    names = ", ".join(map(str, paths))
    if reading.problems:
        raise DataError(f"{len(reading.problems)} entries of {names} cannot be used.", reading.problems)
    if not reading.sentences:
        raise DataError(f"{names}: no sentences.")
    return [one if one.id else replace(one, id=str(place)) for place, one in enumerate(reading.sentences)]


def read_glossary(path: Path, codes: tuple[str, str]) -> list[Term]:
    """Pairs of terms from TMX or tab-separated text; lines that start with # are comments.

    Raises:
        DataError: what cannot be used, by file and line.
    """
    pairs = read_sentences([path], codes, targets=True, comments=True)
    return [(one.source, one.target or "") for one in pairs]


def write_tsv(path: Path, units: Iterable[TranslationUnit]) -> None:
    """Source and target, one pair a line, under a line of names; tabs and line breaks inside become spaces."""
    lines = [
        "source\ttarget",
        *("\t".join(" ".join(text.split()) for text in (u.source, u.target)) for u in units),
    ]
    write_text(path, "\n".join(lines) + "\n")


def write_tmx(path: Path, units: Iterable[TranslationUnit], codes: tuple[str, str]) -> None:
    """A TMX 1.4 file. Characters that XML does not allow become U+FFFD."""
    root = ElementTree.Element("tmx", {"version": "1.4"})
    header = {
        "creationtool": "coalign", "creationtoolversion": __version__, "segtype": "sentence", "o-tmf": "coalign",
        "adminlang": "en", "srclang": codes[0], "datatype": "plaintext",
    }  # fmt: skip
    ElementTree.SubElement(root, "header", header)
    body = ElementTree.SubElement(root, "body")
    for unit in units:
        entry = ElementTree.SubElement(body, "tu", {"tuid": unit.id} if unit.id else {})
        for code, text in zip(codes, (unit.source, unit.target), strict=True):
            variant = ElementTree.SubElement(entry, "tuv", {"xml:lang": code})
            ElementTree.SubElement(variant, "seg").text = _NOT_XML.sub("\ufffd", text)
    ElementTree.indent(root)
    with atomic_path(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def _read_tmx(path: Path, reading: _Reading, codes: tuple[str, str]) -> None:
    """Entries that lack one of the two languages are left out and counted."""
    parser: Any = require("defusedxml.ElementTree", "translation")
    lacking, seen = 0, set[str]()
    try:
        for _, element in parser.iterparse(str(path), events=("end",), forbid_dtd=False):
            if _name(element) != "tu":
                continue
            variants = list(_variants(element))
            seen.update(code for code, _ in variants)
            source, target = (_of_language(variants, code) for code in codes)
            if source and target:
                reading.sentences.append(Sentence(source, target, id=element.get("tuid") or ""))
            else:
                lacking += 1
            element.clear()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: not a TMX file that can be read ({error}).") from error
    if lacking:
        if not reading.sentences:
            raise DataError(
                f"{path}: no entry has both {codes[0]} and {codes[1]}; its languages: {', '.join(sorted(seen))}.",
                hint="Name the languages of the file with --source-code and --target-code.",
            )
        logger.warning("%s: %d entries without text in both languages are left out.", path, lacking)


def _name(element: Any) -> str:
    """The tag without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _variants(unit: Any) -> Iterator[tuple[str, str]]:
    """(language code, text) of each variant."""
    for variant in unit:
        if _name(variant) == "tuv":
            code = variant.get(_XML_LANG) or variant.get("lang") or ""
            for segment in variant:
                if _name(segment) == "seg":
                    yield code, " ".join(_text(segment).split())


def _text(element: Any) -> str:
    """Text without the markup of documents; highlighted text (`hi`) stays."""
    parts = [element.text or ""]
    for child in element:
        if _name(child) not in _NATIVE_CODE:
            parts.append(_text(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _of_language(variants: Sequence[tuple[str, str]], code: str) -> str | None:
    """The text in a language: that of the very code, else of a variant of the language (`en` and `en-US`)."""
    plain = code.lower().replace("_", "-")
    same = [(one.lower().replace("_", "-"), text) for one, text in variants]
    for test in (lambda one: one == plain, lambda one: one.partition("-")[0] == plain.partition("-")[0]):
        for one, text in same:
            if test(one) and text:
                return text
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}).") from error


def _read_lines(path: Path, reading: _Reading) -> None:
    reading.sentences += [Sentence(line.strip()) for line in _lines(path) if line.strip()]


def _read_parallel(first: Path, second: Path, reading: _Reading) -> None:
    sources, targets = _lines(first), _lines(second)
    if len(sources) != len(targets):
        raise DataError(
            f"{first} has {len(sources)} lines and {second} {len(targets)}, expected as many.",
            hint="Line n of one file is the translation of line n of the other.",
        )
    for number, (source, target) in enumerate(zip(sources, targets, strict=True), start=1):
        if source.strip() and target.strip():
            reading.sentences.append(Sentence(source.strip(), target.strip()))
        elif source.strip() or target.strip():
            path = second if source.strip() else first
            reading.bad(path, number, "text", "is empty", "a sentence, as in the other file")


def _read_tsv(path: Path, reading: _Reading, *, comments: bool = False) -> None:
    names = ["source", "target", "mt"]
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip() or (comments and line.startswith("#")):
            continue
        cells = [one.strip() for one in line.split("\t")]
        if number == 1 and "source" in map(str.lower, cells):
            names = [one.lower() for one in cells]
            continue
        row = dict(zip(names, cells, strict=False))
        if not row.get("source"):
            reading.bad(path, number, "source", "is empty", "a sentence")
        elif "target" in row and not row["target"]:
            reading.bad(path, number, "target", "is empty", "a translation, or no such column")
        else:
            reading.sentences.append(
                Sentence(row["source"], row.get("target"), row.get("mt") or None, id=row.get("id", ""))
            )


def _sentence(row: Row) -> Sentence:
    value = row.value or {}
    source, terms = value.get("source"), value.get("terms") or []
    if not isinstance(source, str) or not source.strip():
        raise FieldError(f"is {source!r}", "text that is not empty", "source")
    usable = isinstance(terms, list) and all(
        isinstance(one, list) and len(one) == 2 and all(isinstance(text, str) for text in one)
        for one in terms
    )
    if not usable:
        raise FieldError(f"is {str(terms)[:60]!r}", "a list of [source, target]", "terms")
    for name in ("target", "mt"):
        if not isinstance(value.get(name), str | None):
            raise FieldError(f"is {str(value[name])[:60]!r}", "text", name)
    pairs = tuple((one[0], one[1]) for one in terms)
    return Sentence(source.strip(), value.get("target"), value.get("mt"), pairs, str(value.get("id", "")))
