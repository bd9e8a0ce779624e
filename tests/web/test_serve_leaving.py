"""Clients that leave before they were answered, and what fails beside answers."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import httpx
import openai
import pytest
import torch

from coalign.core.errors import ModelError
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Sampling
from coalign.web.batching import Work
from coalign.web.metrics import Metrics
from coalign.web.openai_format import ApiError
from coalign.web.streams import EventStream
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.test_generation import tiny
from tests.web.serving import asked
from tests.web.test_serve import ASKED, make


def test_whoever_leaves_a_line_gives_up_the_place_in_it():
    """Also a stream that has not begun."""
    long = tiny(dtype=torch.float32, max_position_embeddings=100_000)
    generator = TransformersGenerator(long, byte_tokenizer(CHATML), batch_size=1)
    generator.stop_ids = []
    with asked(generator) as (address, client):
        health, wanted = address.replace("/v1", "/health"), {"model": "tiny", "messages": ASKED}
        first = client.chat.completions.create(**wanted, max_tokens=50_000, stream=True)
        next(iter(first))
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(**wanted, max_tokens=9, stream=True, timeout=0.3)
        until = time.monotonic() + 20
        while httpx.get(health).json()["waiting"] > 1 and time.monotonic() < until:
            time.sleep(0.1)
        assert httpx.get(health).json()["waiting"] == 1
        first.close()


def test_a_stream_one_of_whose_prompts_fails_before_it_begins_decodes_no_other():
    class Request:
        async def is_disconnected(self) -> bool:
            return False

    works = [Work("a", Sampling(9), False, True, print) for _ in range(2)]

    async def begun() -> None:
        events: asyncio.Queue[Any] = asyncio.Queue()
        events.put_nowait((1, ModelError("not numbers")))
        stream = EventStream(works, events, cast(Any, None), SimpleNamespace(stream_options=None), Metrics())
        await stream.first(Request())

    with pytest.raises(ApiError, match="not numbers"):
        asyncio.run(begun())
    assert all(one.cancelled for one in works)


def test_answers_go_on_where_a_precision_cannot_be_compared(monkeypatch):
    generator = make()
    failing = MagicMock(side_effect=MemoryError("no room"))
    monkeypatch.setattr(generator, "settle", failing)
    with asked(generator) as (_, client):
        for _ in range(2):
            time.sleep(0.5)
            assert client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=3).choices
    failing.assert_called_once()
