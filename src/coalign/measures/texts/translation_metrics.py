"""Scores of translations: corpus BLEU, chrF and TER (sacrebleu), term usage, word-level edit similarity, copying."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import regex

from coalign.core.extras import require
from coalign.measures.texts.text_units import edit_units

logger = logging.getLogger(__name__)

EXTRA = "translation"
BleuTokens = Literal["auto", "flores200", "13a", "zh", "ja-mecab", "intl", "char", "none"]


@dataclass(frozen=True)
class TranslationScores:
    """Corpus scores.

    Attributes:
        bleu: 0 to 100; spBLEU where the tokens are flores200.
        chrf: chrF++ (word order 2), 0 to 100.
        ter: edits over words of the reference, in percent; lower is better.
        signatures: how sacrebleu computed each, to be quoted with it.
    """

    bleu: float
    chrf: float
    ter: float
    signatures: dict[str, str]


def corpus_scores(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    tokens: BleuTokens = "auto",
    language: str | None = None,
) -> TranslationScores:
    """BLEU, chrF++ and TER of a corpus with one reference each.

    Args:
        tokens: tokeniser of BLEU. `auto`: that of the language where it is written without spaces: `zh` for Chinese,
            `ja-mecab` for Japanese (`char` where MeCab is not installed), `char` for Thai, Lao, Khmer and Burmese. For
            others flores200, whose model sacrebleu fetches once; where that fails, 13a, which is said.
        language: code of the target language (`zh-TW`); by default what the references are written in, as far as
            their script tells. TER splits texts of Chinese and Japanese into characters.

    Raises:
        MissingExtraError: sacrebleu is not installed.
        ValueError: no sentence, or different numbers of them.
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} translations for {len(references)} references, expected as many")
    metrics: Any = require("sacrebleu.metrics", EXTRA)
    spaceless = _spaceless(language) if language else _script_of(references)
    ter = metrics.TER(asian_support=True, normalized=True) if spaceless in ("zh", "ja") else metrics.TER()
    used = {"bleu": _bleu(metrics, tokens, spaceless), "chrf": metrics.CHRF(word_order=2), "ter": ter}
    texts = list(hypotheses), [list(references)]
    scores = {name: one.corpus_score(*texts).score for name, one in used.items()}
    signatures = {name: str(one.get_signature()) for name, one in used.items()}
    return TranslationScores(**scores, signatures=signatures)


def sentence_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """chrF++ of each sentence, 0 to 100: for intervals and breakdowns.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    metrics: Any = require("sacrebleu.metrics", EXTRA)
    chrf = metrics.CHRF(word_order=2)
    return [
        chrf.sentence_score(one, [other]).score for one, other in zip(hypotheses, references, strict=True)
    ]


def _spaceless(language: str) -> str | None:
    """The code of a language that is written without spaces; None for others."""
    code = language.lower().replace("_", "-").partition("-")[0]
    code = {"cmn": "zh", "yue": "zh", "zho": "zh", "jpn": "ja", "tha": "th"}.get(code, code)
    return code if code in ("zh", "ja", "th", "lo", "km", "my") else None


def _script_of(texts: Sequence[str]) -> str | None:
    """A language that is written without spaces, where most letters of the texts are of its script."""
    counts = {code: sum(len(found.findall(text)) for text in texts) for code, found in _SCRIPTS.items()}
    letters = sum(len(_LETTER.findall(text)) for text in texts)
    kana, han = counts.pop("ja"), counts.pop("zh")
    counts["ja" if kana > han / 20 else "zh"] = han + kana
    best = max(counts, key=lambda code: counts[code])
    return best if letters and counts[best] > letters / 2 else None


_SCRIPTS = {
    "zh": regex.compile(r"\p{Script=Han}"),
    "ja": regex.compile(r"[\p{Script=Hiragana}\p{Script=Katakana}]"),
    "th": regex.compile(r"[\p{Script=Thai}--\p{M}]", regex.V1),
    "lo": regex.compile(r"[\p{Script=Lao}--\p{M}]", regex.V1),
    "km": regex.compile(r"[\p{Script=Khmer}--\p{M}]", regex.V1),
    "my": regex.compile(r"[\p{Script=Myanmar}--\p{M}]", regex.V1),
}
_LETTER = regex.compile(r"\p{L}")


def _bleu(metrics: Any, tokens: BleuTokens, spaceless: str | None) -> Any:
    if tokens == "auto" and spaceless == "zh":
        tokens = "zh"
    elif tokens == "auto" and spaceless == "ja":
        tokens = "ja-mecab" if find_spec("MeCab") and find_spec("ipadic") else "char"
    elif tokens == "auto" and spaceless:
        tokens = "char"
    if tokens != "auto":
        return metrics.BLEU(tokenize=tokens)
    if "flores200" not in _working:
        _working["flores200"] = _flores_works(metrics)
    return metrics.BLEU(tokenize="flores200" if _working["flores200"] else "13a")


_working: dict[str, bool] = {}


def _flores_works(metrics: Any) -> bool:
    """The tokeniser needs sentencepiece and a model that sacrebleu fetches."""
    noisy = logging.getLogger("sacrebleu")
    before = noisy.level
    noisy.setLevel(logging.CRITICAL)
    try:
        metrics.BLEU(tokenize="flores200").corpus_score(["a"], [["a"]])
        return True
    except Exception as error:  # whatever the network or the missing library raises
        logger.warning(
            "BLEU is computed on 13a tokens: those of flores200 are not to be had here (%s).",
            " ".join(str(error).split())[:120] or type(error).__name__,
        )
        return False
    finally:
        noisy.setLevel(before)


def edit_similarity(one: str, other: str) -> tuple[int, float]:
    """Word-level Levenshtein distance, and `1 - distance / words of the longer`; 1 for two empty texts.

    Words are `edit_units`: in Chinese, Japanese and Thai characters.
    """
    from rapidfuzz.distance import Levenshtein

    first, second = edit_units(one), edit_units(other)
    distance = Levenshtein.distance(first, second)
    longer = max(len(first), len(second))
    return distance, 1 - distance / longer if longer else 1.0


def term_usage(
    terms: Sequence[tuple[str, str]], hypothesis: str, reference: str
) -> tuple[int, int, float | None]:
    """(terms whose target side the reference has, those of them that the translation has, their share).

    Compared as lower-cased substrings. A term that the reference does without is not counted. The share is None where
    none is counted.
    """
    wanted = [target.lower() for _, target in terms if target.lower() in reference.lower()]
    used = sum(one in hypothesis.lower() for one in wanted)
    return len(wanted), used, used / len(wanted) if wanted else None
