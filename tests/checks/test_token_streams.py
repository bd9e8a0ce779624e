"""The world of token streams."""

from __future__ import annotations

import torch

from coalign.checks.worlds.speech import token_streams


class Writer(torch.nn.Module):
    """Writes the label that the first feature of a frame names."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(frames[..., 0].long(), 13).float()


def test_streams_depend_on_seed_and_purpose() -> None:
    world = token_streams.StreamWorld(3)
    first, again = world.streams(4, "a"), token_streams.StreamWorld(3).streams(4, "a")
    assert torch.equal(first.frames, again.frames)
    assert first.tokens == again.tokens
    assert world.streams(4, "b").tokens != first.tokens
    assert token_streams.StreamWorld(4).streams(4, "a").tokens != first.tokens


def test_tokens_are_where_their_starts_say() -> None:
    world = token_streams.StreamWorld(0, noise=0.0)
    data = world.streams(5, "x")
    for frames, tokens, starts in zip(data.frames, data.tokens, data.starts, strict=True):
        for token, begin in zip(tokens, starts, strict=True):
            held = frames[begin : begin + world.shortest]
            assert torch.allclose(held, world.prototypes[token].expand_as(held))


def test_delay_and_errors_of_a_known_writer() -> None:
    frames = torch.full((2, 8, 1), float(token_streams.BLANK))
    frames[0, 3:5], frames[0, 6] = 1, 2  # both right, one and two frames late
    frames[1, 2] = 5  # wrong token
    streams = token_streams.Streams(frames, [[1, 2], [4]], [[2, 4], [2]])
    found = token_streams.measure_streams(Writer(), streams)  # pyright: ignore[reportArgumentType]
    assert found == {"delay": 1.5, "token error rate": 1 / 3, "correct": 0.5}


def test_training_is_of_a_copy_and_repeats() -> None:
    world = token_streams.StreamWorld(0)
    data = world.streams(40, "train")
    torch.manual_seed(0)
    model = token_streams.StreamModel(world.dimensions, world.labels + 1, width=8)
    before = [one.clone() for one in model.parameters()]
    first, again = (
        token_streams.train_streams(model, data, 0, "x", steps=3, learning_rate=1e-2) for _ in range(2)
    )
    for a, b, c, d in zip(model.parameters(), before, first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(c, d)
        assert not torch.equal(a, c)
