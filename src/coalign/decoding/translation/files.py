"""Sentence pairs and glossaries in files: TMX, tab-separated, JSON Lines, and plain text line by line."""

from __future__ import annotations

import csv
import io
import logging
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from coalign import __version__
from coalign.core.errors import ConfigError, DataError, RecordProblem
from coalign.core.files import atomic_path, write_text
from coalign.data.messages import FieldError
from coalign.data.rows import Row, iter_rows, parse_each
from coalign.decoding.translation import tmx
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
_COLUMNS = {
    "source": {"source", "src", "source text", "source term", "source segment", "term"},
    "target": {"target", "tgt", "trg", "target text", "target term", "target segment", "translation"},
}
"""Names of columns that other programs write, lower case, to ours."""
_DOUBTFUL = re.compile(r"\b(source|target|term|translation|language|lang|glossary)s?\b")
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

    By its ending a file is TMX (`.tmx`), a table (`.tsv`, `.csv`: source, target, and optionally mt, or columns that a
    first line names, by our names, usual ones or the languages), JSON Lines (`.jsonl`: source, target, mt, terms, id), or else text with a source a line.

    Args:
        paths: one file, or two.
        codes: language codes of source and target, for TMX and for columns with the names of languages.
        targets: every sentence must have a translation.
        comments: lines of a table that start with # are left out.

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
        elif kind in (".tsv", ".tab", ".csv"):
            _read_table(path, reading, codes, "," if kind == ".csv" else "\t", comments=comments)
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
    """Pairs of terms from TMX or a table; lines that start with # are comments.

    Raises:
        DataError: what cannot be used, by file and line.
    """
    pairs = read_sentences([path], codes, targets=True, comments=True)
    return [(one.source, one.target or "") for one in pairs]


def write_tsv(path: Path, units: Iterable[TranslationUnit]) -> None:
    """Source and target, one pair a line, under a line of names; tabs and line breaks inside become spaces, and cells with
    quotes are quoted as CSV has it, so that spreadsheets and CSV libraries read them back.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(("source", "target"))
    writer.writerows([" ".join(side.split()) for side in (one.source, one.target)] for one in units)
    write_text(path, text.getvalue())


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
    found = tmx.read_entries(path, codes)
    reading.sentences += [Sentence(one.source, one.target, id=one.id) for one in found.entries]
    if found.lacking and not found.entries:
        raise DataError(
            f"{path}: no entry has both {codes[0]} and {codes[1]}; its languages: {', '.join(sorted(found.languages))}.",
            hint="Name the languages of the file with --source-code and --target-code.",
        )
    if found.lacking:
        logger.warning("%s: %d entries without text in both languages are left out.", path, found.lacking)
    for (wanted, taken), count in sorted(found.other_variants.items()):
        logger.warning("%s: %d entries have no %s; their %s is taken.", path, count, wanted, taken)


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


def _read_table(
    path: Path, reading: _Reading, codes: tuple[str, str], delimiter: str, *, comments: bool = False
) -> None:
    """Cells between tabs or commas, in columns that a first line may name."""
    names: list[str] | None = None
    for number, cells in _cells(path, delimiter):
        if not any(cells) or (comments and cells[0].startswith("#")):
            continue
        if names is None:
            names = _column_names(cells, codes, f"{path}:{number}")
            if names is not None:
                continue
            names = ["source", "target", "mt"]
        row = dict(zip(names, cells, strict=False))
        if not row.get("source"):
            reading.bad(path, number, "source", "is empty", "a sentence")
        elif "target" in row and not row["target"]:
            reading.bad(path, number, "target", "is empty", "a translation, or no such column")
        else:
            reading.sentences.append(
                Sentence(row["source"], row.get("target"), row.get("mt") or None, id=row.get("id", ""))
            )


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a table, white space at their ends removed.

    A file in which every cell that begins with a quote ends as CSV has it, and that cannot mean something else (a
    doubled quote or a line break inside, or quotes around all), was written by a spreadsheet or a CSV library: its
    quotes are not text. Elsewhere in tab-separated files they are.
    """
    lines = _lines(path)
    raw = [line.split(delimiter) for line in lines]
    quoted = any(cell.startswith('"') for cells in raw for cell in cells)
    if quoted or delimiter == ",":
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)
        found, begin, spans = [], 1, False
        try:
            for cells in reader:
                found.append((begin, [" ".join(cell.split()) for cell in cells]))
                spans |= delimiter == "\t" and any("\t" in cell for cell in cells)
                begin = reader.line_num + 1
        except csv.Error as error:
            if delimiter == ",":
                raise DataError(f"{path}:{begin}: not CSV ({error}).") from error
        else:
            every = all(cell.startswith('"') for cells in raw for cell in cells if cell)
            doubled = any('""' in cell[1:-1] for cells in raw for cell in cells if cell.startswith('"'))
            broken = len(found) < len(raw) and len({len(cells) for _, cells in found if any(cells)}) == 1
            # a tab in a cell: more likely two stray quotes with all that lies between them
            if delimiter == "," or (not spans and (every or broken or doubled)):
                yield from found
                return
    yield from ((number, [cell.strip() for cell in cells]) for number, cells in enumerate(raw, start=1))


def _column_names(cells: Sequence[str], codes: tuple[str, str], place: str) -> list[str] | None:
    """The columns that a first line names, ours where they are known; None where it is a pair already.

    Raises:
        DataError: it names languages, and others than were asked for.
    """
    lowered = [" ".join(one.lower().replace("_", " ").split()) for one in cells]
    spoken = [LANGUAGES.get(one) for one in lowered]
    wanted = [code.lower().replace("_", "-").partition("-")[0] for code in codes]
    coded = [spoken[at] or one.partition("-")[0].partition(" ")[0] for at, one in enumerate(lowered)]
    if all(code in coded for code in wanted) and wanted[0] != wanted[1]:
        sides = dict(zip(wanted, ("source", "target"), strict=True))
        return [sides.get(one, name) for one, name in zip(coded, lowered, strict=True)]
    if len([one for one in spoken if one]) >= 2:
        raise DataError(f"{place}: the columns are {', '.join(cells)}, expected {codes[0]} and {codes[1]}.")
    names = [next((ours for ours, known in _COLUMNS.items() if one in known), one) for one in lowered]
    if "source" in names and ("target" in names or {*names} <= {"source", "mt", "id"}):
        return names
    if len(names) > 1 and any(_DOUBTFUL.search(one) for one in lowered):
        logger.warning("%s: %s is read as a pair, not as names of columns.", place, " | ".join(cells))
    return None


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
