"""How much a text looks like written prose: rules that clean a corpus without a model."""

from __future__ import annotations

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
"""English; a text should have two of them (Gopher)."""
_ENDS = tuple(".!?…\"'”’)]}`。！？」』।؟")


def quality_rules(text: str) -> dict[str, bool]:
    """Rule to whether the text keeps it. Words are what white space separates; a text without any keeps none.

    Rae et al. 2021 (Gopher, arXiv 2112.11446), table A1, with its thresholds: `word length` (3 to 10 characters on average),
    `symbols` (at most one # or ellipsis in ten words), `letters` (80 % of the words have one), `stop words` (two of
    `STOP_WORDS`: English), `bullets` (at most 90 % of the lines begin with one), `repeated lines` (at most 30 % of them),
    `repeated words` (at most 15 % of the runs of five words were there before). Raffel et al. 2020 (C4, arXiv 1910.10683):
    `ending` (the text ends like a sentence).
    """
    words = text.lower().split()
    if not words:
        return dict.fromkeys(RULES, False)
    count, different = len(words), set(words)
    lines = [line for one in text.split("\n") if (line := one.strip())] if "\n" in text else [text]
    symbols = text.count("#") + text.count("...") + text.count("…")
    runs = count - 4 if len(different) < count else 0  # without a repeated word no run repeats
    return {
        "word length": 3 * count <= sum(map(len, words)) <= 10 * count,
        "symbols": 10 * symbols <= count,
        "letters": 5 * sum(map(str.isalpha, words)) >= 4 * count
        or 5 * sum(any(map(str.isalpha, one)) for one in words) >= 4 * count,
        "stop words": len(STOP_WORDS & different) >= 2,
        "bullets": 10 * sum(line[0] in "-*•‣–" for line in lines) <= 9 * len(lines),
        "repeated lines": 10 * (len(lines) - len(set(lines))) <= 3 * len(lines),
        "repeated words": runs < 1 or 100 * (runs - len(set(_runs(words)))) <= 15 * runs,
        "ending": text.rstrip().endswith(_ENDS),
    }


RULES = (
    "word length", "symbols", "letters", "stop words", "bullets", "repeated lines", "repeated words", "ending",
)  # fmt: skip


def rule_quality(text: str) -> float:
    """Share of the rules of `quality_rules` that the text keeps, 0 to 1. The rule on stop words is English: in another
    language the best text has 7/8.
    """
    return sum(quality_rules(text).values()) / len(RULES)


def _runs(words: list[str]) -> zip[tuple[str, ...]]:
    return zip(words, words[1:], words[2:], words[3:], words[4:], strict=False)
