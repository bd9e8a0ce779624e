"""Decoding with prompts that come and go: what each gets is what it would get alone."""

from __future__ import annotations

from typing import Any

import pytest

from coalign.models.generation import incremental
from coalign.models.generation.decode_loop import DecodeLoop, Decoding
from coalign.models.generation.fused_model import FusedModel
from coalign.models.generation.fused_rows import FusedRows
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Sampling
from tests.models.test_generation import PROMPTS, tiny

SAMPLINGS = [
    Sampling(20, temperature=0.0),
    Sampling(31, n=3, seed=5),
    Sampling(7, n=2, seed=6, top_p=0.8, top_logprobs=2),
    Sampling(25, temperature=0.0, n=2, logprobs=True),
    Sampling(40, temperature=0.7, top_k=20, seed=8, stop=("e",)),
    Sampling(1, seed=9),
    Sampling(16, n=2, seed=5),
]


pytestmark = pytest.mark.usefixtures("exact_norms")


def run(loop: DecodeLoop, arrivals: dict[int, list[Decoding]]) -> dict[Decoding, dict[int, Any]]:
    """Steps until all is done; `arrivals`: what comes before which step."""
    wholes: dict[Decoding, dict[int, Any]] = {}
    texts: dict[tuple[Decoding, int], str] = {}
    for step in range(500):
        loop.add(arrivals.get(step, []))
        for one, piece in loop.step():
            texts[one, piece.sample] = texts.get((one, piece.sample), "") + piece.text
            if piece.generation is not None:
                assert texts[one, piece.sample] == piece.generation.text
                wholes.setdefault(one, {})[piece.sample] = piece.generation
        if loop.is_idle and step > max(arrivals):
            return wholes
    raise AssertionError("it does not end")


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "mistral"])
@pytest.mark.parametrize("path", ["fastest", "cached", "plain"])
def test_requests_that_come_and_go_get_what_they_get_alone(architecture, path, tokenizer, monkeypatch):
    changes = {"sliding_window": 8} if architecture == "mistral" else {}
    model = tiny(architecture, **changes)
    if path != "fastest":
        monkeypatch.setattr(FusedModel, "open", lambda *_: None)
    if path == "plain":
        monkeypatch.setitem(incremental._can_continue.known, model, False)
    generator = TransformersGenerator(model, tokenizer)
    asked = [
        Decoding(generator.encode(prompt), sampling, goes_on=True, streaming=number % 2 == 0)
        for number, (prompt, sampling) in enumerate(zip(PROMPTS, SAMPLINGS, strict=True))
    ]
    arrivals = {0: asked[:2], 3: asked[2:3], 4: asked[3:5], 19: asked[5:6], 28: asked[6:]}
    wholes = run(DecodeLoop(generator), arrivals)
    for one, prompt, sampling in zip(asked, PROMPTS, SAMPLINGS, strict=True):
        alone = generator.generate([prompt], sampling)[0]
        found = [wholes[one][sample] for sample in range(sampling.n)]
        for mine, other in zip(found, alone, strict=True):
            for name in ("token_ids", "text", "finish_reason", "tokens"):
                assert getattr(mine, name) == getattr(other, name)
            if other.logprobs:
                assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-6)
            assert (mine.top_logprobs is None) == (other.top_logprobs is None)


def test_limits_of_a_batch_make_requests_wait(tokenizer):
    generator = TransformersGenerator(tiny(), tokenizer, batch_size=3)
    loop = DecodeLoop(generator)
    asked = [Decoding(generator.encode(one), Sampling(6, n=2, seed=1)) for one in PROMPTS]
    loop.add(asked)
    most = 0
    wholes: set[Decoding] = set()
    while not loop.is_idle:
        wholes |= {one for one, piece in loop.step() if piece.generation}
        most = max(most, loop.rows)
    assert most <= 3
    assert wholes == set(asked)
    alone = DecodeLoop(TransformersGenerator(tiny(), tokenizer, batch_tokens=1))
    assert len(run(alone, {0: [Decoding([5, 6], Sampling(4, n=3))]})) == 1


def test_cancelled_requests_leave(tokenizer):
    generator = TransformersGenerator(tiny(eos_token_id=None), tokenizer)
    loop = DecodeLoop(generator)
    gone = Decoding(generator.encode("the sea"), Sampling(200, n=4))
    stays = Decoding(generator.encode("the sky is"), Sampling(12, temperature=0.0), goes_on=True)
    waits = Decoding(generator.encode("green"), Sampling(12))
    loop.add([gone, stays])
    for _ in range(4):
        loop.step()
    gone.cancelled = waits.cancelled = True
    loop.add([waits])
    wholes = run(loop, {0: []})
    assert list(wholes) == [stays]
    assert wholes[stays][0] == generator.generate(["the sky is"], stays.sampling)[0][0]
    assert loop.step() == []


def width(rows: Any) -> int:
    """Places of the longest row, padding included."""
    return rows._own.length if isinstance(rows, FusedRows) else rows._mask.shape[1]


@pytest.mark.parametrize("path", ["fastest", "cached"])
def test_places_that_are_padding_everywhere_are_dropped(path, tokenizer, monkeypatch):
    generator = TransformersGenerator(tiny(eos_token_id=None), tokenizer)
    if path == "cached":
        monkeypatch.setattr(FusedModel, "open", lambda *_: None)
    generator.stop_ids = []
    loop: Any = DecodeLoop(generator)
    assert loop.step() == []
    long = Decoding(generator.encode("the sea is green " * 8), Sampling(2))
    short = Decoding(generator.encode("a"), Sampling(40))
    loop.add([long, short])
    for _ in range(4):
        loop.step()
    assert width(loop._forward) > 30
    loop.add([Decoding(generator.encode("b"), Sampling(40))])
    loop.step()
    assert width(loop._forward) < 12
