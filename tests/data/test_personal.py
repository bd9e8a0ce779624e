"""Masking of personal data: with a finder of our own, and with presidio's recognisers where they are installed."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import MissingExtraError
from coalign.core.extras import is_installed
from coalign.data import personal
from coalign.data.personal import Found, Masker, pattern_finder


def finder(*found: Found) -> Any:
    return lambda text: [one for one in found if one.end <= len(text)]


def test_what_is_found_is_masked_and_counted() -> None:
    masker = Masker(finder(Found("A", 0, 2), Found("B", 5, 7)))
    assert masker.mask("xx - yy!") == "<A> - <B>!"
    assert masker.mask("short") == "<A>ort"
    assert masker.counts == {"A": 2, "B": 1}


def test_of_overlapping_stretches_the_surest_then_the_longest_counts() -> None:
    found = [
        Found("PHONE", 0, 6, 0.4),
        Found("CARD", 2, 9, 1.0),
        Found("SHORT", 9, 11, 0.5),
        Found("LONG", 9, 12, 0.5),
    ]
    assert Masker(finder(*found)).mask("0123456789abc") == "01<CARD><LONG>c"


STRETCHES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8)


@given(st.text(min_size=20, max_size=30), STRETCHES)
def test_nothing_else_is_changed(text: str, places: Sequence[tuple[int, int]]) -> None:
    found = [Found("K", min(one), max(one)) for one in places]
    masker = Masker(finder(*found))
    masked = masker.mask(text)
    outside = "".join(c for n, c in enumerate(text) if not any(one.start <= n < one.end for one in found))
    assert masked.count("<K>") >= masker.counts["K"]
    kept = masked.replace("<K>", "")
    assert len(kept) <= len(text)
    if "<K>" not in text and not any(
        a.start < b.end and b.start < a.end for a in found for b in found if a is not b
    ):
        assert kept == outside


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> Any:
        raise MissingExtraError(f"{module} is not installed: it comes with the extra '{extra}'.", hint="")

    monkeypatch.setattr(personal, "require", missing)
    with pytest.raises(MissingExtraError, match="the extra 'pii'"):
        pattern_finder()


@pytest.mark.skipif(
    not is_installed("presidio_analyzer"), reason="presidio-analyzer is not installed (extra pii)"
)
def test_recognisers_find_what_has_a_form_and_ask_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    masker = Masker(pattern_finder())
    said = masker.mask(
        "Mail jo.doe@example.org, call +49 30 1234567, card 4111 1111 1111 1111, account DE89 3704 0044 0532 0130 00, "
        "host 192.168.10.4, card 4111 1111 1111 1112. 我的邮箱是 li@example.com，谢谢"
    )
    assert said == (
        "Mail <EMAIL_ADDRESS>, call <PHONE_NUMBER>, card <CREDIT_CARD>, account <IBAN_CODE>, host <IP_ADDRESS>, card "
        "4111 1111 1111 1112. 我的邮箱是 <EMAIL_ADDRESS>，谢谢"
    )
    assert masker.counts["EMAIL_ADDRESS"] == 2
