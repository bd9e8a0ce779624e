from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import CoalignError
from coalign.evaluation.factuality.functions import headed_scorer
from coalign.evaluation.factuality.scorer import ClaimScorer, aggregate, score_rows, split
from coalign.evaluation.factuality.text_pairs import TextPair
from tests.evaluation.encoders import Counting, pair_classifier, pair_tokenizer

CONTEXT = "The red box holds four coins. The blue box holds five coins.\n\nThe sky is blue."


def scorer(**options: object) -> ClaimScorer:
    return ClaimScorer(headed_scorer(pair_classifier(), pair_tokenizer(), 64), **options)  # type: ignore[arg-type]


def test_spans_of_chunks_and_sentences_lie_in_the_texts() -> None:
    claim = "The sky is blue. It rains! "
    parts = split(CONTEXT, claim, words_per_chunk=8)
    assert [one.of(claim) for one in parts.sentence_spans] == ["The sky is blue.", "It rains!"]
    assert parts.chunks == [f"{one}." for one in CONTEXT.rstrip(".").replace("\n\n", " ").split(". ")]
    assert [one.of(CONTEXT) for one in parts.chunk_spans] == parts.chunks
    assert len(parts.pairs()) == 6


def test_score_is_the_mean_over_sentences_of_the_best_chunk() -> None:
    metric = scorer(words_per_chunk=8)
    found = metric.score([CONTEXT], ["The sky is blue. It rains!"])[0]
    columns = list(zip(*found.matrix, strict=True))
    assert found.sentence_scores == [max(column) for column in columns]
    assert found.best_chunks == [column.index(max(column)) for column in columns]
    assert found.score == pytest.approx(sum(found.sentence_scores) / 2)


def test_without_splitting_the_texts_are_one_pair() -> None:
    found = scorer(splits=False).score([CONTEXT], ["The sky is blue. It rains!"])[0]
    assert len(found.matrix) == 1
    assert found.sentences[0].end == len("The sky is blue. It rains!")


def test_an_empty_context_is_allowed_and_an_empty_claim_is_not() -> None:
    found = scorer().score([""], ["It rains."])[0]
    assert 0 < found.score < 1
    assert (found.chunks[0].start, found.chunks[0].end) == (0, 0)
    for splits in (True, False):
        with pytest.raises(CoalignError, match=r"claims\[1\].*empty"):
            scorer(splits=splits).score(["a", "b"], ["It rains.", " \n"])


def test_truncation_is_counted() -> None:
    found = scorer().score(["red " * 100 + "."], ["It rains. It snows."])[0]
    assert found.truncated == 2


def test_shared_sentences_and_chunks_are_computed_once() -> None:
    metric = scorer(words_per_chunk=8)
    counting = Counting(metric.function)
    metric.score([CONTEXT, CONTEXT], ["The sky is blue. It rains!", "It rains! It rains!"])
    assert counting.rows == 3 * 2


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=5))
def test_more_context_never_lowers_a_score(matrix: list[list[float]]) -> None:
    scores = torch.tensor(matrix, dtype=torch.float64)
    whole, best, support = aggregate(scores)
    assert torch.equal(best, scores[support, torch.arange(3)])
    assert whole >= aggregate(scores[:1])[0]
    order = torch.randperm(len(matrix))
    assert torch.equal(aggregate(scores[order])[1], best)


def test_of_equal_chunks_the_first_supports() -> None:
    assert aggregate(torch.tensor([[0.5, 0.1], [0.5, 0.2]]))[2].tolist() == [0, 1]
    with pytest.raises(ValueError, match="chunks x sentences"):
        aggregate(torch.zeros(0, 2))


def test_rows_resume_by_id_and_name_the_bad_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coalign.evaluation.factuality.scorer.WINDOW", 2)
    pairs = [TextPair(str(i), CONTEXT, f"The sky is w{i}. It rains.", i % 2) for i in range(4)]
    kept: list[list[dict]] = []
    rows = score_rows(pairs, scorer(), on_window=kept.append)
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    assert len(kept) == 4
    again = score_rows(pairs, scorer(), done=["0", "1", "3"])
    assert again == [rows[2]]
    with pytest.raises(CoalignError, match="row 7"):
        score_rows([TextPair("7", "a", " ")], scorer())
