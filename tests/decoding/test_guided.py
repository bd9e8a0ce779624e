"""Guided decoding: what the loop says does not depend on how it is asked, nor on caches, batches or tokenizers."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import DataError
from coalign.decoding.collaboration.cached_speakers import CachedSpeaker, converse, shared_start
from coalign.decoding.collaboration.guided import (
    BASE,
    NUDGING,
    Settings,
    guide,
    nudged_words,
    shares_by_place,
    without_repeated_end,
)
from coalign.decoding.collaboration.mixtures import PLAIN, ensemble, mix, proxy_tuning
from coalign.decoding.collaboration.speakers import Chunk, Conversation, Token, hold
from tests.decoding.pairs import make_pair, plain_speaker
from tests.models.tiny import float64_norms
from tests.vectors.adapters.nudging import table_speaker

QUESTIONS = ["the sky is blue", "is the sea green, said the user?  and then\n\nthe assistant", "hi"]
TABLES = st.fixed_dictionaries(
    {
        key: st.tuples(
            st.sampled_from(["a", "b", "c", "d", "b\nc", "<eos>"]), st.sampled_from([0.1, 0.4, 0.9])
        )
        for key in ("<s>", "<unk>", "a", "b", "c", "d")
    }
)


@pytest.fixture(autouse=True)
def _exact_norms():
    with float64_norms():
        yield


def words(text):
    return len(text.split())


def lazily(talk, speakers, settings):
    """As `hold`, but chunks hold only what was asked for, as a model with a cache gives them."""
    try:
        ask = next(talk)
        while True:
            ask = talk.send([cut(speakers[ask.side](text, ask.max_tokens), ask) for text in ask.texts])
    except StopIteration as end:
        return end.value


def cut(chunk, ask):
    if ask.need == "all":
        return chunk
    enough = 1
    if ask.need == "certain":
        places = [n for n, one in enumerate(chunk.tokens, 1) if one.top_prob < ask.certain]
        enough = min(places, default=len(chunk.tokens))
    if enough >= ask.max_tokens or enough >= len(chunk.tokens) + chunk.stopped:
        return chunk
    return Chunk(chunk.tokens[:enough], partial=True)


@settings(max_examples=300)
@given(TABLES, TABLES, st.sampled_from([0.0, 0.4, 0.5, 1.1]), st.integers(1, 5), st.integers(1, 5))
def test_asking_for_less_or_for_several_words_at_once_changes_nothing(
    base, aligned, gamma, n_base, n_aligned
):
    one = Settings(gamma, n_base, n_aligned, max_length=20, max_rounds=12, window=1)
    speakers = {BASE: table_speaker(base), NUDGING: table_speaker(aligned)}
    expected = hold(guide(one, words), speakers)
    for window, growth in ((1, 1), (2, 1), (1, 2), (0, 1)):
        settings = dataclasses.replace(one, window=window, window_growth=growth)
        assert hold(guide(settings, words), speakers) == expected
        assert lazily(guide(settings, words), speakers, settings) == expected


@settings(max_examples=100)
@given(TABLES, TABLES)
def test_spans_cover_the_answer(base, aligned):
    speakers = {BASE: table_speaker(base), NUDGING: table_speaker(aligned)}
    answer = hold(guide(Settings(max_length=20, max_rounds=9), words), speakers)
    assert "".join(answer.text[start:end] for start, end, _ in answer.spans()) == answer.text
    shares = shares_by_place([(len(answer.text), answer.spans())], 4)
    assert all(one is None or 0 <= one <= 1 for one in shares)


@pytest.mark.parametrize("gamma", [0.05, 0.3])
@pytest.mark.parametrize(
    ("base", "aligned", "architecture", "seed"),
    [
        ("words", "words", "llama", 3),
        ("words", "bytes", "gpt2", 3),
        ("metaspace", "words", "llama", 3),
        ("bytes", "metaspace", "llama", 3),
        ("words", "words", "gemma2", 1),
    ],
)
def test_kept_caches_give_the_answers_of_the_plain_loop(base, aligned, architecture, seed, gamma):
    changes = {"gpt2": {"n_positions": 1024}, "gemma2": {"sliding_window": 48}}.get(architecture, {})
    sides = {BASE: make_pair(base, seed, architecture, **changes), NUDGING: make_pair(aligned, seed + 1)}
    speakers = {side: CachedSpeaker(*pair) for side, pair in sides.items()}
    length = speakers[BASE].length
    settings = Settings(gamma=gamma, max_length=24, base_tokens=6, nudging_tokens=6)
    plainly = dataclasses.replace(settings, window=1)
    prompts = [{BASE: f"Q: {one} A:", NUDGING: f"u {one} a "} for one in QUESTIONS]
    expected = [
        hold(
            guide(plainly, length), {side: plain_speaker(*pair, prompt[side]) for side, pair in sides.items()}
        )
        for prompt in prompts
    ]
    assert len({one.text for one in expected}) > 1
    for rows in (1, 3):
        talks = [Conversation(guide(settings, length), prompt, (n, 0)) for n, prompt in enumerate(prompts)]
        assert converse(talks, speakers, rows=rows) == expected


def test_an_answer_is_computed_about_once():
    """The base model computes each token of its text once, and a pass for each turn of the other."""
    sides = {BASE: make_pair("words", 3), NUDGING: make_pair("words", 4)}
    speakers = {side: CachedSpeaker(*pair) for side, pair in sides.items()}
    length = speakers[BASE].length
    prompt = {BASE: "the sky is blue " * 10, NUDGING: "hi "}
    talk = guide(Settings(gamma=0.3, max_length=60), length)
    (answer,) = converse([Conversation(talk, prompt, (0, 0))], speakers, rows=1)
    rounds, tokens = len(answer.turns), length("".join(answer.rounds))
    assert rounds > 5
    assert speakers[BASE].rows.passes <= tokens + 2 * rounds
    assert speakers[BASE].rows.tokens <= length(prompt[BASE]) + tokens + 20 * rounds


def test_sampling_does_not_depend_on_the_texts_beside():
    sides = {BASE: make_pair("words", 3), NUDGING: make_pair("bytes", 4)}
    settings = Settings(gamma=0.3, max_length=30)

    def answers(questions, rows, seed=5):
        speakers = {
            side: CachedSpeaker(*pair, temperature=1.0, top_p=0.9, seed=seed + n)
            for n, (side, pair) in enumerate(sides.items())
        }
        talks = [
            Conversation(guide(settings, words), {BASE: f"Q: {one} A:", NUDGING: f"u {one} a "}, (n, 0))
            for n, one in enumerate(questions)
        ]
        return converse(talks, speakers, rows=rows)

    together = answers(QUESTIONS, 4)
    assert answers(QUESTIONS, 1) == together
    assert answers(QUESTIONS[:2], 2) == together[:2]
    assert answers(QUESTIONS, 4, seed=60) != together


@pytest.mark.parametrize(
    ("choose", "sides"), [(ensemble, (BASE, NUDGING)), (proxy_tuning, (BASE, NUDGING, PLAIN))]
)
def test_mixtures_over_caches_are_those_of_the_plain_loop(choose, sides):
    pairs = {side: make_pair("words", 3 + n) for n, side in enumerate(sides)}
    speakers = {side: CachedSpeaker(*pair, alternatives=5) for side, pair in pairs.items()}
    length = speakers[BASE].length
    plain = {side: plain_speaker(*pair, "the sky ", 5) for side, pair in pairs.items()}
    expected = hold(mix(choose, sides, length, max_length=25, chunk_tokens=4), plain)
    talk = mix(choose, sides, length, max_length=25, chunk_tokens=4)
    prompts = dict.fromkeys(sides, "the sky ")
    assert converse([Conversation(talk, prompts, (0, 0))], speakers, rows=1) == [expected]
    assert expected.text
    assert len(expected.turns) > 3


def test_the_rules_of_the_mixtures():
    def token(text, **others):
        return Token(text, 0.5, tuple(others.items()))

    assert ensemble({BASE: token("a", a=0.5, b=0.4), NUDGING: token("c", c=0.45, b=0.2)}) == "b"
    three = {
        BASE: token("a", a=0.5, b=0.4),
        NUDGING: token("b", a=0.1, b=0.3),
        PLAIN: token("a", a=0.6, b=0.1),
    }
    assert proxy_tuning(three) == "b"
    assert proxy_tuning({**three, PLAIN: token("c", c=1.0)}) == "a"


def test_the_aligned_model_ends_a_mixture():
    said = {
        BASE: Chunk((Token(" x", 0.9, ((" x", 0.9),)),)),
        NUDGING: Chunk((Token(" y", 0.9),), stopped=True),
    }
    speakers = {side: lambda text, count, side=side: said[side] for side in said}
    answer = hold(mix(ensemble, (BASE, NUDGING), words, max_length=9), speakers)
    assert (answer.text, answer.stop_reason) == ("y", "nudging_model_stop")


def test_a_base_model_with_nothing_to_say_hands_back():
    def base(text, count):
        return Chunk((), stopped=True)

    def aligned(text, count):
        return Chunk((), stopped=True) if words(text) > 3 else Chunk((Token(f"w{words(text)} next", 0.9),))

    answer = hold(guide(Settings(), words), {BASE: base, NUDGING: aligned})
    assert answer.rounds == ["w0", "w1", "w1", "w1"] or answer.stop_reason == "repeated_nudging_words"
    assert {one.ended for one in answer.turns} == {"no_turn"}


def test_stop_texts_end_an_answer_and_are_cut_off():
    speakers = {
        BASE: table_speaker({"<unk>": ("b", 0.9), "<s>": ("b", 0.9)}),
        NUDGING: table_speaker({"<unk>": ("STOP", 0.9), "<s>": ("a", 0.9)}),
    }
    answer = hold(guide(Settings(stop=("STOP", "b"), max_length=30), words), speakers)
    assert answer.stop_reason == "stop_string"
    assert answer.text in ("a", "a ")


def test_a_full_context_is_a_reason_not_an_error():
    sides = {
        BASE: make_pair("words", 3, max_position_embeddings=40),
        NUDGING: make_pair("words", 4, max_position_embeddings=64),
    }
    speakers = {side: CachedSpeaker(*pair) for side, pair in sides.items()}
    talk = guide(Settings(gamma=0.3, max_length=200), speakers[BASE].length)
    (answer,) = converse([Conversation(talk, {BASE: "Q: a A:", NUDGING: "u a "}, (0, 0))], speakers, rows=1)
    assert answer.stop_reason == "context_full"
    assert answer.text


@pytest.mark.parametrize(("prompt", "problem"), [("", "empty"), ("the sky " * 300, "context is 256")])
def test_prompts_that_cannot_be_continued(prompt, problem):
    speakers = {
        side: CachedSpeaker(*make_pair("words", 3, max_position_embeddings=256)) for side in (BASE, NUDGING)
    }
    talk = guide(Settings(), words)
    with pytest.raises(DataError, match=problem):
        converse([Conversation(talk, {BASE: prompt, NUDGING: "hi"}, (0, 0))], speakers, rows=1)


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_shared_start(one, other):
    size = shared_start(one, other)
    assert one[:size] == other[:size]
    assert size == min(len(one), len(other)) or one[size] != other[size]


def test_statistics_of_extreme_answers():
    assert nudged_words("", []) == (1, 1.0)
    assert nudged_words("one two three", ["one two three"]) == (1, 1 / 3)
    assert shares_by_place([], 3) == [None, None, None]
    assert without_repeated_end("") == ""
    assert len(without_repeated_end("x" * 200)) < 60
