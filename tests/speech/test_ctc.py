"""CTC: alignment against all paths and a plain table, recognisers, vocabularies, decoding, error rates."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coalign.core.errors import CoalignError, ModelError
from coalign.core.runs import Run
from coalign.speech.audio.error_rates import character_error_rate, edit_pairs, word_error_rate
from coalign.speech.ctc import align
from coalign.speech.ctc import align as ctc_align
from coalign.speech.ctc import recogniser as recognisers
from coalign.speech.ctc.align import emission_frames, greedy
from coalign.speech.ctc.losses import ctc_losses
from coalign.speech.ctc.recogniser import Recogniser, load_recogniser
from coalign.speech.ctc.recogniser_options import RecogniserOptions, open_recogniser
from coalign.speech.ctc.training import Clip, CTCTrainingOptions, train_recogniser
from coalign.speech.ctc.vocabulary import Vocabulary, outside_message
from tests.speech.tiny import TEXTS, tiny_recogniser, tone

pytest.importorskip("numba")
BLANK = 0


def random_logps(seed: int, frames: int, labels: int, sharpness: float = 2.0) -> NDArray[np.float64]:
    logits = np.random.default_rng(seed).normal(0, sharpness, (frames, labels))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def spoken(
    frames: int, count: int, labels: int, seed: int = 0
) -> tuple[NDArray[np.float64], list[int], list[int]]:
    """Log-probabilities in which `count` tokens peak at increasing frames; tokens; frames."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, labels, count)
    places = np.sort(rng.choice(np.arange(2, frames - 1), count, replace=False))
    logits = rng.normal(0, 0.3, (frames, labels))
    logits[:, BLANK] += 6
    logits[places, BLANK] -= 6
    logits[places, tokens] += 6
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), tokens.tolist(), places.tolist()


def loose_table(logps: NDArray[np.float64], states: NDArray[np.int64]) -> NDArray[np.float64]:
    """k[t, c] by the definition."""
    table = np.full((len(logps), len(states)), -np.inf)
    table[:, 0] = 0
    for t in range(1, len(logps)):
        for c in range(1, len(states)):
            emission = logps[t, states[c]]
            stay = table[t - 1, c] + max(logps[t, BLANK], emission)
            table[t, c] = max(stay, table[t - 1, c - 1] + emission)
    return table


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(3, 40), st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_the_loose_path_is_the_best_one(seed: int, extra: int, tokens: list[int]) -> None:
    states, _ = align.ground_truth([tokens], BLANK)
    logps = random_logps(seed, len(states) + extra, 5)
    path = align.segment(logps, states, BLANK)
    best = loose_table(logps, states)[:, -1].max()
    assert path.score == pytest.approx(best, rel=1e-12)
    assert (np.diff(path.frames) > 0).all()
    used = path.logps[path.frames[1] :]
    assert used.sum() == pytest.approx(best, rel=1e-9), "the transitions add up to the score"


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 4), st.lists(st.integers(1, 3), min_size=0, max_size=3))
def test_forced_alignment_is_the_best_of_all_paths(seed: int, extra: int, tokens: list[int]) -> None:
    frames = max(len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens)) + extra, 1)
    logps = random_logps(seed, frames, 4)
    spans, score = align.forced_align(logps, tokens, BLANK)
    paths = (
        path for path in itertools.product(range(4), repeat=frames) if align.collapse(path, BLANK) == tokens
    )
    best = max(sum(logps[t, label] for t, label in enumerate(path)) for path in paths)
    assert score == pytest.approx(best, rel=1e-12)
    assert [one.token for one in spans] == tokens
    assert all(one.start < one.end and 0 < one.score <= 1 for one in spans)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))


def test_long_paths_cross_blocks() -> None:
    logps, tokens, places = spoken(frames=5_000, count=900, labels=20)
    states, _ = align.ground_truth([tokens], BLANK)
    assert align.segment(logps, states, BLANK).frames[2:-1].tolist() == places
    unlike = [token for token, after in itertools.pairwise([*tokens, -1]) if token != after]
    kept = [place for place, (a, b) in zip(places, itertools.pairwise([*tokens, -1]), strict=True) if a != b]
    found, _ = align.forced_align(logps, unlike, BLANK)
    inside = sum(one.start <= place < one.end for one, place in zip(found, kept, strict=True))
    assert inside >= 0.95 * len(kept), "frames that stand for a dropped repetition may move a neighbour"


@pytest.mark.parametrize("band", [40, 400, 4_000])
def test_a_band_that_is_too_narrow_is_widened(band: int) -> None:
    """All text in the last tenth of the audio: far from an even rate."""
    logps, tokens, places = spoken(frames=400, count=80, labels=20)
    silence = np.full((3_600, 20), math.log(1e-4))
    silence[:, BLANK] = math.log(1 - 19e-4)
    states, _ = align.ground_truth([tokens], BLANK)
    whole = np.concatenate([silence, logps])
    exact = align.segment(whole, states, BLANK)
    banded = align.segment(whole, states, BLANK, band=band)
    assert exact.frames[2:-1].tolist() == [3_600 + place for place in places]
    assert banded.frames.tolist() == exact.frames.tolist()
    assert banded.score == pytest.approx(exact.score, rel=1e-12)


def test_a_band_is_taken_for_long_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    logps, tokens, places = spoken(frames=6_000, count=900, labels=20)
    monkeypatch.setattr(ctc_align, "EXACT_CELLS", 1000)
    monkeypatch.setattr(ctc_align, "BAND_FRAMES", 500)
    states, _ = align.ground_truth([tokens], BLANK)
    assert align.segment(logps, states, BLANK).frames[2:-1].tolist() == places


def test_float32_gives_the_same_path() -> None:
    logps, tokens, places = spoken(frames=800, count=100, labels=12)
    states, _ = align.ground_truth([tokens], BLANK)
    assert align.segment(logps.astype(np.float32), states, BLANK).frames[2:-1].tolist() == places


def test_a_text_longer_than_the_audio_says_so() -> None:
    states, _ = align.ground_truth([[1, 2, 3, 1, 2, 3]], BLANK)
    with pytest.raises(align.TextTooLongError, match=r"9 states .* 5 frames"):
        align.segment(random_logps(0, 5, 4), states, BLANK)
    with pytest.raises(align.TextTooLongError, match=r"needs 4 frames .* has 3"):
        align.forced_align(random_logps(0, 3, 4), [1, 1, 2], BLANK)


def test_nan_is_an_error_not_a_path() -> None:
    states, _ = align.ground_truth([[1]], BLANK)
    with pytest.raises(CoalignError, match="NaN"):
        align.segment(np.full((9, 4), np.nan), states, BLANK)


def test_an_utterance_without_tokens_has_no_score() -> None:
    states, begins = align.ground_truth([[1, 2], [], [3]], BLANK)
    assert states.tolist() == [-1, 0, 1, 2, 0, 3, 0]
    logps = random_logps(1, 30, 4)
    found = align.utterance_segments(align.segment(logps, states, BLANK), begins, 0.02)
    assert len(found) == 3
    assert found[1].score == align.NO_SCORE
    assert all(one.score <= 0 for one in found)


def test_a_confidence_is_the_worst_stretch() -> None:
    """One bad second in a good utterance: the lowest mean over 30 frames, not the mean of all."""
    logps, tokens, _ = spoken(frames=300, count=60, labels=12)
    states, begins = align.ground_truth([tokens], BLANK)
    good = align.utterance_segments(align.segment(logps, states, BLANK), begins, 0.02)[0].score
    logps[100:150] = math.log(1 / 12)
    bad = align.utterance_segments(align.segment(logps, states, BLANK), begins, 0.02)[0].score
    assert good > -0.3
    assert bad == pytest.approx(math.log(1 / 12), rel=0.2)


def test_collapse() -> None:
    assert align.collapse([0, 1, 1, 0, 1, 2, 2, 0], 0) == [1, 1, 2]
    assert align.collapse([], 0) == align.collapse([0, 0], 0) == []


def test_padding_changes_nothing() -> None:
    found = tiny_recogniser()
    short, long = tone(0.5, 1), tone(0.9, 2)
    with torch.no_grad():
        logits, lengths = found.logits([short, long])
        alone, own = found.logits([short])
    assert lengths[0] == own[0]
    assert torch.allclose(logits[0, : lengths[0]], alone[0, : own[0]], atol=1e-5)


def test_a_streaming_recogniser_sees_no_future() -> None:
    """Its recurrent layers; features are normalised over the utterance before them."""
    (layer,) = tiny_recogniser(streaming=True).model.layers
    assert len(layer) == 1
    assert not layer[0].bidirectional
    assert len(tiny_recogniser().model.layers[0]) == 2


def test_very_short_audio_has_a_frame() -> None:
    found = tiny_recogniser()
    assert found.logps(np.zeros(10, np.float32)).shape == (1, len(found.vocabulary))


def test_long_audio_in_chunks_has_every_frame_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tiny_recogniser()
    samples = tone(5.3)
    whole = found.logps(samples)
    monkeypatch.setattr(recognisers, "CHUNK_SECONDS", 1.0)
    monkeypatch.setattr(recognisers, "CONTEXT_SECONDS", 0.5)
    parts = found.logps(samples)
    assert abs(len(parts) - len(whole)) <= 1
    assert np.allclose(np.exp(parts).sum(-1), 1, atol=1e-4)


def test_save_and_load(tmp_path: Path) -> None:
    found = tiny_recogniser()
    again = load_recogniser(str(found.save(tmp_path / "model")), device="cpu")
    samples = tone(0.7)
    assert np.allclose(found.logps(samples), again.logps(samples), atol=1e-6)
    assert again.vocabulary.tokens == found.vocabulary.tokens
    assert again.frame_seconds == found.frame_seconds == 0.02
    files = {"config.json", "model.safetensors", "vocab.json", "preprocessor_config.json"}
    assert {path.name for path in (tmp_path / "model").iterdir()} >= files


def model_of_transformers(kind: str, folder: Path, **changes: Any) -> Recogniser:
    import transformers

    vocabulary = Vocabulary.of_texts(TEXTS)
    config_class, model_class = (getattr(transformers, f"{kind}{part}") for part in ("Config", "ForCTC"))
    config = config_class(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 4), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, num_feat_extract_layers=2, pad_token_id=0, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    vocabulary.save(folder)
    return load_recogniser(str(folder), device="cpu")


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM"])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_clip_does_not_depend_on_the_clips_beside_it(kind: str, norm: str, tmp_path: Path) -> None:
    found = model_of_transformers(kind, tmp_path, feat_extract_norm=norm)
    assert found.normalises_over_time is (norm == "group")
    clips = [tone(0.5, 1), tone(0.9, 2), tone(0.5, 3), tone(0.2, 4)]
    with torch.no_grad():
        together, lengths = found.logits(clips)
        for place, clip in enumerate(clips):
            alone, own = found.logits([clip])
            assert lengths[place] == own[0]
            assert torch.allclose(together[place, : own[0]], alone[0, : own[0]], atol=1e-5)


def test_clips_of_different_lengths_train_as_they_do_alone(tmp_path: Path) -> None:
    """Under group norm: the same losses and gradients in one batch as one by one."""
    found = model_of_transformers("Wav2Vec2", tmp_path)
    clips = [tone(0.5, 1), tone(0.9, 2)]

    def gradient(parts: list[list[Any]]) -> torch.Tensor:
        found.model.zero_grad()
        for part in parts:
            logits, lengths = found.logits(part)
            for row, frames in zip(logits, lengths, strict=True):
                row[:frames].log_softmax(-1)[:, 1].sum().backward(retain_graph=True)
        return cast(Any, found.model).lm_head.weight.grad.clone()

    assert torch.allclose(gradient([clips]), gradient([[one] for one in clips]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert"])
def test_models_of_transformers(kind: str, tmp_path: Path) -> None:
    vocabulary = Vocabulary.of_texts(TEXTS)
    found = model_of_transformers(kind, tmp_path)
    assert found.samples_per_frame == 20
    logps = found.logps(tone(0.3))
    assert logps.shape[1] == len(vocabulary)
    assert len(logps) == pytest.approx(0.3 * 16_000 / 20, abs=2)
    with torch.no_grad():
        _, lengths = found.logits([tone(0.2), tone(0.3)])
    assert lengths.tolist() == sorted(lengths.tolist())


def test_what_is_no_recogniser_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_recogniser(str(tmp_path / "absent"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="not a CTC recogniser"):
        load_recogniser(str(tmp_path))


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    tiny_recogniser().save(tmp_path / "model")
    Vocabulary.of_texts(["abcdefghijklmnopqrstuvwxyzäöü"]).save(tmp_path / "model")
    with pytest.raises(ModelError, match="the vocabulary has"):
        load_recogniser(str(tmp_path / "model"))


def test_a_new_recogniser_depends_on_the_seed_alone() -> None:
    options = RecogniserOptions(device="cpu", hidden_size=8, layers=1, streaming=True)
    torch.manual_seed(5)
    first = open_recogniser(options, TEXTS, 1)
    torch.manual_seed(6)
    second = open_recogniser(options, TEXTS, 1)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_ctc_losses_are_sums_over_a_sequence() -> None:
    logits = torch.zeros(2, 4, 3, dtype=torch.float64)
    losses = ctc_losses(logits, torch.tensor([4, 1]), [[1], [1, 2]], 0)
    paths = 4 * 5 / 2  # stretches of frames that emit the token
    assert losses[0] == pytest.approx(-np.log(paths * 3.0**-4))
    assert losses[1] == 0, "no alignment exists"


def clips() -> list[Clip]:
    good = [Clip(f"c{i}", TEXTS[i], samples=tone(1.0, i)) for i in range(4)]
    return [
        *good,
        Clip("silent", TEXTS[0], samples=np.zeros(16_000, np.float32)),
        Clip("short", TEXTS[0], samples=tone(0.1)),
        Clip("empty", "", samples=tone(0.5)),
    ]


def test_training_counts_what_it_leaves_out(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.artefacts.mkdir()
    found = tiny_recogniser()
    before = [one.clone() for one in found.model.parameters()]
    options = CTCTrainingOptions(max_steps=3, batch_size=2, save_steps=0)
    fitted, left_out = train_recogniser(found, clips(), options, run)
    assert fitted.steps == 3
    reasons = ("silent", "text longer than the audio", "no text in the vocabulary")
    assert dict(left_out) == dict.fromkeys(reasons, 1)
    assert any(not torch.equal(a, b) for a, b in zip(before, found.model.parameters(), strict=True))
    with pytest.raises(CoalignError, match="1 x silent"):
        train_recogniser(found, clips()[4:5], options, run)


def test_text_is_written_as_the_model_writes_it() -> None:
    vocabulary = Vocabulary.of_texts(["Hello, world! It's"])
    assert vocabulary.tokens[:3] == ["<pad>", "<unk>", "|"]
    outside: Counter[str] = Counter()
    assert vocabulary.normalise("<b>Hello</b>  WORLD — it’s 5 zü [noise]", outside) == "hello world it's"
    assert outside == {"5": 1, "z": 1, "ü": 1}
    assert "3 characters outside the vocabulary left out" in outside_message(outside)
    assert "Write numbers as words" in outside_message(outside)
    assert outside_message(Counter()) == ""
    ids = vocabulary.encode("hello world")
    assert vocabulary.decode(ids) == "hello world"


def test_case_follows_the_vocabulary() -> None:
    upper = Vocabulary(["<pad>", "|", "A", "B"])
    assert upper.normalise("a b") == "A B"


def test_vocabulary_on_disk(tmp_path: Path) -> None:
    vocabulary = Vocabulary.of_texts(["abc"])
    vocabulary.save(tmp_path)
    again = Vocabulary.load(tmp_path)
    assert (again.tokens, again.blank, again.delimiter) == (vocabulary.tokens, 0, "|")
    (tmp_path / "vocab.json").write_text("[1]")
    with pytest.raises(ModelError, match="not a vocabulary"):
        Vocabulary.load(tmp_path)


def test_transformers_reads_the_vocabulary(tmp_path: Path) -> None:
    from transformers import Wav2Vec2CTCTokenizer

    vocabulary = Vocabulary.of_texts(["abc def"])
    vocabulary.save(tmp_path)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(str(tmp_path))
    assert tokenizer("abc fed").input_ids == vocabulary.encode("abc fed")


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_edits_turn_one_into_the_other(reference: list[str], written: list[str]) -> None:
    pairs = edit_pairs(reference, written)
    assert [mine for mine, _ in pairs if mine is not None] == list(range(len(reference)))
    assert [other for _, other in pairs if other is not None] == list(range(len(written)))
    rate = character_error_rate(["".join(reference)], ["".join(written)])
    assert rate.substitutions + rate.insertions + rate.deletions >= abs(len(reference) - len(written))
    assert (rate.rate == 0) == (reference == written)


def test_error_rates() -> None:
    rate = word_error_rate(["the cat sat", "a b"], ["the cut sat down", "b"])
    assert (rate.substitutions, rate.insertions, rate.deletions, rate.length) == (1, 1, 1, 5)
    assert rate.rate == pytest.approx(0.6)
    assert word_error_rate([""], [""]).rate == 0
    assert word_error_rate([""], ["x"]).rate == 1
    with pytest.raises(ValueError, match="2 references for 1"):
        word_error_rate(["a", "b"], ["a"])


def test_greedy_and_emissions() -> None:
    path = [0, 1, 1, 0, 1, 2]
    assert greedy(np.eye(3)[path], 0) == [1, 1, 2]
    assert emission_frames(path, 0) == [1, 4, 5]
