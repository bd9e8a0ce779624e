"""Properties of alignments, sampling and the hinge."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import ConfigError
from coalign.speech.awp import AlignWithPurpose, Constants, alignment_scores, hinge_loss, sample_alignments
from coalign.speech.ctc.align import collapse
from coalign.speech.ctc.vocabulary import Vocabulary
from coalign.speech.objectives import properties

BLANK = 0
VOCABULARY = Vocabulary.of_texts(["abcdefghijklmnopqrstuvwxyz"])
LETTERS = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def context(seed: int = 0, **options: int) -> properties.Context:
    return properties.Context(VOCABULARY, torch.Generator().manual_seed(seed), **options)


def path_of(text: str) -> list[int]:
    """A path written with `^` for the blank and a space for the delimiter."""
    return [BLANK if char == "^" else VOCABULARY.encode(char)[0] for char in text]


def text_of(path: list[int]) -> str:
    return "".join("^" if label == BLANK else VOCABULARY.tokens[label].replace("|", " ") for label in path)


@settings(deadline=None)
@given(LETTERS, st.integers(1, 3), st.integers(0, 99))
def test_low_latency_keeps_the_text_and_moves_it_forward(path: list[int], shift: int, seed: int) -> None:
    paths, lengths = torch.tensor([[path]]), torch.tensor([len(path)])
    found = properties.low_latency(paths, lengths, None, context(seed, shift=shift))[0, 0].tolist()
    assert collapse(found, BLANK) == collapse(path, BLANK)
    count = min(shift, int(properties.removable(paths, lengths, BLANK).sum()))
    assert found[len(path) - count :] == [BLANK] * count
    if count == 0:
        assert found == path


def test_low_latency_leaves_padding_alone() -> None:
    paths = torch.tensor([[[1, 1, 2, 7, 7, 7]], [[0, 1, 1, 1, 2, 2]]])
    lengths = torch.tensor([3, 6])
    for seed in range(20):
        found = properties.low_latency(paths, lengths, None, context(seed))
        assert found[0, 0].tolist() == [1, 2, BLANK, 7, 7, 7]
    assert not properties.removable(paths, lengths, BLANK)[0, 0, 3:].any()


def test_every_candidate_is_drawn_alike() -> None:
    """The last candidate as well, and a single one: the official code draws neither."""
    path = torch.tensor([[[1, 1, 2, 2, 3, 3]]])
    drawn = {
        tuple(properties.low_latency(path, torch.tensor([6]), None, context(seed))[0, 0].tolist())
        for seed in range(60)
    }
    assert drawn == {(1, 2, 2, 3, 3, 0), (1, 1, 2, 3, 3, 0), (1, 1, 2, 2, 3, 0)}


def corrected(path: str, reference: str, seed: int = 0) -> str:
    paths = torch.tensor([[path_of(path)]])
    found = properties.minimum_wer(paths, torch.tensor([paths.shape[-1]]), [reference], context(seed))
    return text_of(found[0, 0].tolist())


def test_minimum_wer_corrects_one_word() -> None:
    assert corrected("thhe^ caat^ ^saat", "the cat sit") == "thhe^ caat^ ^siit"
    assert {corrected("dig rum", "dog ran", seed) for seed in range(20)} == {"dog rum", "dig ran"}
    assert corrected("abcd xyz", "abcd uvw") == "abcd xyz", "three characters are too many"
    assert corrected("cat", "cats") == "cat"
    assert corrected("the brave", "the world brave") == "the brave"


def test_a_leading_space_does_not_move_the_correction() -> None:
    """The official code is off by one here and writes ` the uat sat`."""
    assert corrected(" the cut sat", "the cat sat") == " the cat sat"


def test_letters_that_the_model_cannot_write_are_not_corrected() -> None:
    assert corrected("caf", "caé") == "caf"


def test_properties_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_property.py").write_text(
        "def last_blank(path, reference, context):\n    return [*path[:-1], context.vocabulary.blank]\n"
        "def wrong(path, reference, context):\n    return path[1:]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = properties.get_property("my_property:last_blank")
    paths = torch.tensor([[[1, 2, 3, 9]]])
    assert found(paths, torch.tensor([3]), None, context())[0, 0].tolist() == [1, 2, BLANK, 9]
    with pytest.raises(ValueError, match="2 labels for 3 frames"):
        properties.get_property("my_property:wrong")(paths, torch.tensor([3]), None, context())
    with pytest.raises(ConfigError, match="has no 'absent'"):
        properties.get_property("my_property:absent")
    with pytest.raises(ConfigError, match="Did you mean"):
        properties.get_property("low-latncy")
    assert all(map(properties.get_property, ("low-latency", "minimum-wer")))
    sys.modules.pop("my_property")


def logits_of(seed: int, batch: int, frames: int) -> torch.Tensor:
    drawn = torch.randn(batch, frames, len(VOCABULARY), generator=torch.Generator().manual_seed(seed))
    return drawn.double().requires_grad_()


def test_samples_follow_the_model_and_carry_no_gradient() -> None:
    logits = torch.zeros(1, 2, 3)
    logits[0, 0, 1] = 30
    logits.requires_grad_()
    paths = sample_alignments(logits, torch.tensor([2]), 400, torch.Generator().manual_seed(0))
    assert paths.shape == (1, 400, 2)
    assert not paths.requires_grad
    assert (paths[0, :, 0] == 1).all()
    shares = torch.bincount(paths[0, :, 1], minlength=3) / 400
    assert (shares - 1 / 3).abs().max() < 0.08
    sharp = sample_alignments(logits * 100, torch.tensor([2]), 9, torch.Generator(), temperature=100.0)
    assert sharp.shape == (1, 9, 2)


def test_an_unchanged_pair_costs_nothing() -> None:
    paths = torch.tensor([[[1, 2, 3]], [[1, 1, 2]]])
    better = torch.tensor([[[1, 2, 3]], [[1, 1, 9]]])
    losses = hinge_loss(logits_of(1, 2, 3), paths, better, torch.tensor([3, 2]), margin=1.0)
    assert losses.tolist() == [0, 0], "equal, or different in the padding alone"


def test_padding_and_batch_order_do_not_matter() -> None:
    logits, lengths = logits_of(2, 2, 6), torch.tensor([6, 4])
    paths = torch.randint(0, 5, (2, 3, 6), generator=torch.Generator().manual_seed(0))
    better = torch.randint(0, 5, (2, 3, 6), generator=torch.Generator().manual_seed(1))
    losses = hinge_loss(logits, paths, better, lengths, margin=0.1)
    turned = hinge_loss(logits.flip(0), paths.flip(0), better.flip(0), lengths.flip(0), margin=0.1)
    assert torch.allclose(losses, turned.flip(0))
    alone = hinge_loss(logits[1:, :4], paths[1:, :, :4], better[1:, :, :4], lengths[1:], margin=0.1)
    assert torch.allclose(losses[1:], alone)
    assert torch.isfinite(alignment_scores(torch.full((1, 6, 5), -1e9), paths[:1], lengths[:1])).all()


def test_the_term_repeats_at_a_step_and_takes_half_precision() -> None:
    term = AlignWithPurpose("low-latency", Constants(weight=0.5, margin=1.0), VOCABULARY, seed=3)
    logits, lengths = logits_of(4, 2, 9), torch.tensor([9, 5])
    term.at_step(7)
    first = term(logits, lengths)
    term.at_step(7)
    again = term(logits, lengths)
    assert torch.equal(first, again)
    assert not torch.equal(first, term(logits, lengths)), "the next draw differs"
    half = logits.detach().to(torch.bfloat16).requires_grad_()
    term(half, lengths).sum().backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()


def test_word_errors_need_references() -> None:
    term = AlignWithPurpose("minimum-wer", Constants(), VOCABULARY)
    with pytest.raises(ValueError, match="needs references"):
        term(logits_of(0, 1, 3), torch.tensor([3]))
