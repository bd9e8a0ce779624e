"""Metrics of generated text that need no reference: diversity, repetition, length, perplexity.

Tokens are case-folded words as `coalign.measures.texts.text_units` defines them, so figures do not depend on a tokenizer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import regex

from coalign.measures.texts.text_units import CJK, folded_words, ngrams

_ROUGE_WORD = regex.compile(rf"[{CJK}]|(?:(?![{CJK}_])\w)+")


def rarefied_distinct_n(texts: Sequence[str], n: int, size: int) -> float:
    """Expected distinct-n of `size` n-grams drawn from the corpus without replacement.

    With N n-grams in all, of which n-gram g occurs c_g times:
    E[D] / size, E[D] = sum over g of 1 - C(N - c_g, size) / C(N, size).
    Exact, so there is no seed. This is rarefaction (Hurlbert 1971), which makes corpora of different
    size comparable; that plain distinct-n is not: Liu et al. 2022 (arXiv 2202.13587).

    Raises:
        ValueError: n below 1, or size outside 1..N.
    """
    counts = _counts(texts, n)
    total = sum(counts.values())
    if not 1 <= size <= total:
        raise ValueError(f"size is {size}, expected 1 to {total}, the number of {n}-grams in the texts")
    by_count = Counter(counts.values())
    expected = sum(many * (1 - _missed(total, count, size)) for count, many in by_count.items())
    return expected / size


def compare_distinct_n(before: Sequence[str], after: Sequence[str], n: int) -> tuple[float, float, int]:
    """Distinct-n of two corpora at equal size: (before, after, number of n-grams compared).

    The larger corpus is rarefied to the number of n-grams of the smaller one; (0, 0, 0) where one has none.

    Raises:
        ValueError: n below 1.
    """
    size = min(_counts(before, n).total(), _counts(after, n).total())
    if not size:
        return 0.0, 0.0, 0
    return rarefied_distinct_n(before, n, size), rarefied_distinct_n(after, n, size), size


def rouge_words(text: str) -> list[str]:
    """The words that ROUGE compares: runs of letters and digits in lower case, without stemming; every Han, Hiragana or
    Katakana character is one.
    """
    return _ROUGE_WORD.findall(text.lower())


def rouge_1(prediction: str, reference: str) -> float:
    """ROUGE-1 F, in [0, 1]: the harmonic mean of unigram precision and recall, counts clipped (Lin 2004).

    Words are those of `rouge_words`. Two texts without words give 0.
    """
    found, wanted = (Counter(rouge_words(text)) for text in (prediction, reference))
    shared = (found & wanted).total()
    return 2 * shared / (found.total() + wanted.total()) if shared else 0.0


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F, in [0, 1]: with the longest common subsequence of L words of n and m, 2 L / (n + m) (Lin 2004).

    Words are those of `rouge_words`. Two texts without words give 0.
    """
    from rapidfuzz.distance import Indel

    found, wanted = rouge_words(prediction), rouge_words(reference)
    return Indel.normalized_similarity(found, wanted) if found and wanted else 0.0


def perplexity_from_logps(sum_logps: Sequence[float], n_tokens: Sequence[int]) -> float:
    """Corpus perplexity: exp(-sum of log-probabilities / sum of tokens), each token weighing the same.

    Args:
        sum_logps: [texts] natural-log probability of each text, summed over its tokens.
        n_tokens: [texts] how many tokens each sum is over; 0 is allowed where the sum is 0.

    Returns:
        The perplexity, at least 1; inf where it is beyond the range of float64.

    Raises:
        ValueError: different lengths, no token, a negative count, or a log-probability above 0 or not finite.
    """
    if len(sum_logps) != len(n_tokens):
        raise ValueError(f"{len(sum_logps)} sums for {len(n_tokens)} token counts, expected as many")
    for index, (logp, tokens) in enumerate(zip(sum_logps, n_tokens, strict=True)):
        if tokens < 0 or not -math.inf < logp <= 0 or (tokens == 0 and logp != 0):
            raise ValueError(
                f"text {index}: log-probability {logp} over {tokens} tokens, expected a finite sum <= 0"
            )
    total = sum(n_tokens)
    if not total:
        raise ValueError("the texts have no tokens, expected at least one")
    try:
        return math.exp(-math.fsum(sum_logps) / total)
    except OverflowError:
        return math.inf


def _counts(texts: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    return Counter(gram for text in texts for gram in ngrams(folded_words(text), n))


def _missed(total: int, count: int, size: int) -> float:
    """C(total - count, size) / C(total, size): the chance that none of `count` among `total` is drawn."""
    if size > total - count:
        return 0.0
    # The same ratio with count factors instead of size: the product over i of (total - size - i) / (total - i).
    return math.exp(math.fsum(math.log1p(-size / (total - i)) for i in range(count)))
