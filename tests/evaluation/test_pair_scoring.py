"""Scores of text pairs: sentences, encoding, functions of published and own checkpoints, claims."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RobertaForSequenceClassification

from coalign.core.errors import CoalignError, ConfigError, ModelError
from coalign.evaluation.factuality.functions import (
    FunctionOptions,
    entailment_label,
    headed_scorer,
    load_checkpoint,
    load_function,
)
from coalign.evaluation.factuality.model import load_pair_classifier, save_pair_classifier
from coalign.evaluation.factuality.pair_scoring import PairEncoder, kept_lengths
from coalign.evaluation.factuality.scorer import ClaimScorer, aggregate, score_rows, split
from coalign.evaluation.factuality.sentences import chunk_sizes, group, sentence_spans
from coalign.evaluation.factuality.text_pairs import TextPair
from coalign.models.batching import length_batches
from coalign.models.generation.first_token import FirstTokenLayer
from tests.evaluation import encoders

PAIRS = [("the sky is blue", "it rains"), ("a cat sat on a mat", "a cat sat")]


@pytest.mark.parametrize("position_ids", [True, False])
@pytest.mark.parametrize("mlm_head", [True, False])
def test_the_published_layout_gives_the_models_scores(
    tmp_path: Path, position_ids: bool, mlm_head: bool
) -> None:
    model = encoders.pair_classifier()
    path = encoders.published_layout(tmp_path / "a.ckpt", model, position_ids=position_ids, mlm_head=mlm_head)
    loaded, longest = load_checkpoint(path, heads=2)
    assert longest == 64
    inputs = encoders.pair_tokenizer()(*PAIRS[1], return_tensors="pt")
    with torch.no_grad():
        for ours, theirs in zip(model(**inputs)[:3], loaded(**inputs)[:3], strict=True):
            assert torch.equal(ours, theirs)


def test_a_checkpoint_needs_its_tokenizer_and_every_weight(tmp_path: Path) -> None:
    model = encoders.pair_classifier()
    path = encoders.published_layout(tmp_path / "a.ckpt", model, position_ids=True, mlm_head=True)
    with pytest.raises(ConfigError, match="width is 16"):
        load_function(FunctionOptions(str(path)))
    encoders.pair_tokenizer().save_pretrained(tmp_path / "tokens")
    (tmp_path / "tokens" / "config.json").write_text('{"model_type": "roberta"}')
    found = load_function(FunctionOptions(str(path), tokenizer=str(tmp_path / "tokens"), device="cpu"))(PAIRS)
    assert all(0 < one < 1 for one in found.scores)
    state = {f"base_model.{k.removeprefix('encoder.')}": v for k, v in model.state_dict().items()}
    torch.save({"state_dict": {**state, "base_model.base_model.x": torch.zeros(1)}}, path)
    with pytest.raises(ModelError, match=r"tri_layer|bin_layer|reg_layer"):
        load_checkpoint(path)
    torch.save({"state_dict": {"w": torch.zeros(1)}}, path)
    with pytest.raises(ModelError, match="not an alignment checkpoint"):
        load_checkpoint(path)


def test_our_own_folder_reads_back_equal(tmp_path: Path) -> None:
    model = encoders.pair_classifier()
    folder = save_pair_classifier(model, encoders.pair_tokenizer(), tmp_path / "m", max_length=40)
    loaded, longest = load_pair_classifier(folder)
    assert longest == 40
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    for head in ("nli", "bin", "reg"):
        assert len(load_function(FunctionOptions(str(folder), head=head, device="cpu"))(PAIRS).scores) == 2  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="entailment has no effect"):
        load_function(FunctionOptions(str(folder), entailment="0"))
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="not a whole alignment model"):
        load_pair_classifier(folder)


def test_any_nli_classifier_scores_by_its_entailment_label(tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
    config = encoders.encoder_config(num_labels=3, id2label=names, label2id={v: k for k, v in names.items()})
    model = RobertaForSequenceClassification(config).eval()
    encoders.save_encoder(model, tmp_path / "nli")
    found = load_function(FunctionOptions(str(tmp_path / "nli"), device="cpu"))
    assert found.max_length == 64
    inputs = encoders.pair_tokenizer()(*PAIRS[0], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits.softmax(-1)[0, 2]
    assert found(PAIRS).scores[0] == pytest.approx(float(expected), abs=1e-6)
    with pytest.raises(ConfigError, match="'bin' is not there"):
        load_function(FunctionOptions(str(tmp_path / "nli"), head="bin"))
    with pytest.raises(ConfigError, match="tokenizer has no effect"):
        load_function(FunctionOptions(str(tmp_path / "nli"), tokenizer="x"))


class MeanClassifier(RobertaForSequenceClassification):
    """A classifier that reads every token."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> object:
        hidden = self.roberta(input_ids, attention_mask=attention_mask).last_hidden_state
        return SimpleNamespace(logits=self.classifier(hidden.mean(1, keepdim=True)))


KINDS = [(RobertaForSequenceClassification, True), (MeanClassifier, False)]


@pytest.mark.parametrize(("kind", "short"), KINDS)
def test_the_last_layer_is_cut_short_only_where_the_scores_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, short: bool
) -> None:
    torch.manual_seed(0)
    model = kind(encoders.encoder_config(num_labels=2, id2label={0: "entailment", 1: "neutral"})).eval()
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(10)
    encoders.save_encoder(model, tmp_path / "nli")
    loader = "transformers.AutoModelForSequenceClassification.from_pretrained"
    monkeypatch.setattr(loader, kind.from_pretrained)  # type: ignore[attr-defined]
    found = load_function(FunctionOptions(str(tmp_path / "nli"), device="cpu"))
    used = found.score.args[0]  # type: ignore[attr-defined]
    assert isinstance(used.roberta.encoder.layer[-1], FirstTokenLayer) == short
    inputs = encoders.pair_tokenizer()(*PAIRS[0], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits.softmax(-1)[0, 0]
    assert found(PAIRS[:1]).scores[0] == pytest.approx(float(expected), abs=1e-6)


def test_unclear_labels_are_asked_for() -> None:
    plain = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    with pytest.raises(ConfigError, match="do not say"):
        entailment_label(plain, None, "x")
    assert entailment_label(plain, "2", "x") == 2
    assert entailment_label(plain, "LABEL_1", "x") == 1
    with pytest.raises(ConfigError, match="is not a label"):
        entailment_label(plain, "entailment", "x")
    assert entailment_label({0: "entailment", 1: "not_entailment"}, None, "x") == 0
    with pytest.raises(ConfigError, match="do not say"):
        entailment_label({0: "entailment", 1: "odd"}, None, "x")


def test_a_language_model_is_not_taken_for_a_classifier(tmp_path: Path) -> None:
    from transformers import RobertaModel

    encoders.save_encoder(RobertaModel(encoders.encoder_config()), tmp_path / "m")
    with pytest.raises(ModelError, match="missing and would be random"):
        load_function(FunctionOptions(str(tmp_path / "m"), device="cpu"))


TOKENIZER = encoders.pair_tokenizer()
WORD_LISTS = st.lists(st.sampled_from(encoders.WORDS[:20]), max_size=40).map(" ".join)


@settings(max_examples=60)
@given(WORD_LISTS, WORD_LISTS.filter(bool), st.sampled_from([8, 15, 30, 64]))
def test_pairs_are_encoded_and_cut_as_the_tokenizer_does(first: str, second: str, longest: int) -> None:
    found = PairEncoder(TOKENIZER, longest).encode([(first, second)])[0]
    whole = TOKENIZER(first, second)["input_ids"]
    room = longest - 4 - len(second.split())
    how = "only_first" if room >= 1 else "longest_first"
    expected = TOKENIZER(first, second, truncation=how, max_length=longest)["input_ids"]
    assert found.ids == expected
    assert found.truncated == (len(whole) > longest)


def test_a_long_claim_cuts_both_texts() -> None:
    assert kept_lengths(3, 4, 10) == (3, 4)
    assert kept_lengths(20, 4, 10) == (6, 4)
    assert kept_lengths(0, 30, 10) == (0, 10)
    assert kept_lengths(30, 30, 9) == (4, 5)
    with pytest.raises(ValueError, match="at least 6"):
        PairEncoder(TOKENIZER, 5)


def test_scores_do_not_depend_on_batch_padding_or_order_and_repeat_costs_nothing() -> None:
    draw = random.Random(0)
    sizes = [(draw.randint(0, 50), draw.randint(1, 9)) for _ in range(20)]
    pairs = [tuple(" ".join(draw.choices(encoders.WORDS, k=k)) for k in both) for both in sizes]
    model = encoders.pair_classifier()
    alone = headed_scorer(model, TOKENIZER, 64, batch_tokens=1)(pairs).scores
    scorer = headed_scorer(model, TOKENIZER, 64, batch_tokens=300)
    counting = encoders.Counting(scorer)
    shuffled = draw.sample(pairs, len(pairs))
    found = scorer([*shuffled, *pairs])
    assert counting.rows == len(set(pairs))
    expected = [alone[pairs.index(one)] for one in shuffled] + alone
    torch.testing.assert_close(torch.tensor(found.scores), torch.tensor(expected), atol=2e-6, rtol=0)
    assert max(alone) - min(alone) > 0.05, "the scores differ, so the comparison says something"


def test_padding_to_the_longest_gives_what_padding_to_the_limit_gives() -> None:
    model = encoders.pair_classifier()
    inputs = TOKENIZER("a cat sat", "a dog", padding="max_length", max_length=64, return_tensors="pt")
    with torch.no_grad():
        padded = model(inputs["input_ids"], inputs["attention_mask"]).tri.softmax(-1)[0, 0]
    found = headed_scorer(model, TOKENIZER, 64)([("a cat sat", "a dog")]).scores[0]
    assert abs(found - float(padded)) < 1e-6


def test_no_pairs() -> None:
    assert headed_scorer(encoders.pair_classifier(), TOKENIZER, 64)([]).scores == []


@given(st.lists(st.integers(0, 100), max_size=50), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], limit: int) -> None:
    batches = length_batches(lengths, lambda longest: limit // max(longest, 1))
    assert sorted(row for one in batches for row in one) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= max(limit, len(rows))


CONTEXT = "The red box holds four coins. The blue box holds five coins.\n\nThe sky is blue."


def scorer(**options: object) -> ClaimScorer:
    return ClaimScorer(headed_scorer(encoders.pair_classifier(), encoders.pair_tokenizer(), 64), **options)  # type: ignore[arg-type]


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
    counting = encoders.Counting(metric.function)
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


def _sentences(text: str, language: str = "english") -> list[str]:
    return [one.of(text) for one in sentence_spans(text, language)]


def test_abbreviations_do_not_end_a_sentence() -> None:
    sentences = ["Dr. Smith paid $3.5 million.", "He left."]
    assert _sentences(" ".join(sentences)) == sentences


def test_the_last_of_several_closing_marks_stands_alone_as_in_nltk() -> None:
    assert _sentences("Really?! Yes!!") == ["Really?!", "Yes!", "!"]
    assert _sentences('"Go!!"') == ['"Go!!"']


def test_nothing_has_no_sentences() -> None:
    assert [_sentences(text) for text in ("", "  \n ", "\t")] == [[]] * 3


def test_other_languages_and_unknown_ones() -> None:
    assert len(_sentences("Das ist z.B. gut. Ja.", "german")) == 2
    with pytest.raises(ConfigError, match="german"):
        _sentences("a", "germn")


@given(st.text(alphabet="aB .!?\n\"')", max_size=60))
def test_spans_are_in_order_and_hold_all_but_space(text: str) -> None:
    spans = sentence_spans(text)
    place, outside = 0, ""
    for one in spans:
        assert place <= one.start < one.end <= len(text)
        outside += text[place : one.start]
        place = one.end
    assert not (outside + text[place:]).strip()


@given(st.integers(1, 200), st.integers(0, 5000), st.integers(1, 400))
def test_chunks_take_every_sentence_once_and_only_the_last_is_shorter(
    sentences: int, words: int, most: int
) -> None:
    sizes = chunk_sizes(sentences, words, most)
    assert sum(sizes) == sentences
    assert len(set(sizes[:-1])) <= 1
    assert 1 <= sizes[-1] <= sizes[0]
    assert [one for part in group(range(sentences), sizes) for one in part] == list(range(sentences))


def test_a_remainder_makes_one_more_chunk() -> None:
    assert chunk_sizes(19, 1000, 350) == [6, 6, 6, 1]
    with pytest.raises(ValueError, match="at least 1"):
        chunk_sizes(3, 10, 0)
