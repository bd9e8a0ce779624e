"""A batch of records has the tokens, masks and errors of every record by itself."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from coalign.core.errors import DataError
from coalign.data.encoding import encode_records
from coalign.data.frame import EncodingError, Frame
from coalign.data.prepared.batched import encode_one, encoded_batches
from coalign.data.prepared.keeping import _letters, lost_characters
from coalign.data.records import Demonstration, Preference, PromptRecord, Ranking, Reply
from tests.data import tokenizers as made

HEADLESS = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</s>{% endfor %}"
TEMPLATES = [
    None,
    made.CHATML,
    made.LLAMA3,
    made.GEMMA,
    made.PHI3,
    made.REWRITING,
    made.NO_END,
    HEADLESS,
]
TEXT = st.text(
    st.sampled_from("ab 1.\n\té中😀") | st.characters(codec="utf-8", exclude_characters="\0"), max_size=12
) | st.sampled_from(["<|im_end|>", " </s> ", "x<think>y</think> z", "  ", "hi\n"])


def _user(text):
    return [{"role": "user", "content": text}]


def _alone(records, tokenizer, plain):
    frame, found = Frame(tokenizer), []
    for one in records:
        try:
            found.append(encode_one(one, frame, plain))
        except EncodingError as error:
            found.append(str(error))
    return found


def _together(records, tokenizer, plain):
    found = [one for _, part in encoded_batches(records, Frame(tokenizer), plain=plain) for one in part]
    return [str(one) if isinstance(one, EncodingError) else one for one in found]


@st.composite
def _records(draw):
    prompt = _user(draw(TEXT))
    if draw(st.booleans()):
        prompt = [{"role": draw(st.sampled_from(["system", "assistant"])), "content": draw(TEXT)}, *prompt]
    prompt = draw(st.sampled_from([prompt, []]))
    plain = draw(st.booleans()) and len(prompt) < 2
    kind = draw(st.sampled_from([PromptRecord, Demonstration, Preference, Ranking]))
    if kind is PromptRecord:
        return PromptRecord(prompt=prompt or _user("?"), plain=plain)
    if kind is Demonstration:
        return Demonstration(prompt=prompt, plain=plain, completion=draw(TEXT))
    if kind is Preference:
        return Preference(prompt=prompt, plain=plain, chosen=draw(TEXT), rejected=draw(TEXT))
    replies = tuple(draw(st.lists(TEXT, min_size=2, max_size=4)))
    return Ranking(prompt=prompt, plain=plain, responses=replies, scores=tuple(range(len(replies))))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("make", [made.byte_tokenizer, made.metaspace_tokenizer])
def test_batch_is_every_record_by_itself(template, make):
    tokenizer = make(template)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(_records(), max_size=6), st.booleans())
    def check(records, plain):
        assert _together(records, tokenizer, plain) == _alone(records, tokenizer, plain)

    check()


def test_what_a_batch_does_not_show_goes_by_itself():
    call = {"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]}
    records = [
        Demonstration(prompt=_user("a"), completion="b"),
        Demonstration(prompt=_user("a"), completion=Reply("b", call)),
        Demonstration(prompt=_user("a"), completion="c", tools=[{"function": {"name": "add"}}]),
        Demonstration(prompt=[*_user("a"), {"role": "tool", "content": "7"}], completion="c"),
    ]
    tokenizer = made.byte_tokenizer(made.CHATML)
    together = _together(records, tokenizer, plain=False)
    assert together == _alone(records, tokenizer, plain=False)
    assert [isinstance(one, str) for one in together] == [False, True, True, False]


def test_one_record_that_a_template_refuses_is_named_among_others():
    records = [Demonstration(prompt=_user(str(n)), completion="b") for n in range(5)]
    records[3] = Demonstration(prompt=[{"role": "system", "content": "s"}, *_user("?")], completion="b")
    with pytest.raises(DataError, match="1 of 5 records") as caught:
        encode_records(records, made.byte_tokenizer(made.GEMMA))
    assert "System role not supported" in caught.value.problems[0].problem


def test_truncation_and_padding_that_a_tokenizer_keeps_reach_no_record():
    tokenizer = made.byte_tokenizer(made.CHATML)
    records = [Demonstration(prompt=_user("a long question"), completion="a long answer")]
    before = encode_records(records, tokenizer).records
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    assert encode_records(records, tokenizer).records == before


def _byte_level(change):
    inner = Tokenizer.from_str(made.byte_tokenizer().backend_tokenizer.to_str())
    change(inner)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def _set(**parts):
    def change(inner):
        for name, part in parts.items():
            setattr(inner, name, part)

    return change


LOSING = {
    "nothing": (lambda inner: None, True),
    "digits": (
        _set(
            pre_tokenizer=pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            )
        ),
        True,
    ),
    "a space before": (_set(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), False),
    "spaces removed": (
        _set(
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
        ),
        False,
    ),
    "lower case": (_set(normalizer=normalizers.Lowercase()), False),
    "another decoder": (_set(decoder=decoders.Metaspace()), False),
    "a token that takes spaces": (
        lambda inner: inner.add_special_tokens([AddedToken("<|x|>", lstrip=True)]),
        False,
    ),
    "a token that is read as bytes": (lambda inner: inner.add_tokens(["é"]), False),
}


@pytest.mark.parametrize("name", LOSING)
def test_proof_holds_where_texts_are_kept_and_nowhere_else(name):
    change, kept = LOSING[name]
    assert (lost_characters(_byte_level(change)) is not None) is kept


@settings(max_examples=50, deadline=None)
@given(TEXT, TEXT)
def test_texts_of_a_tokenizer_with_the_proof_come_back(first, second):
    for tokenizer in (WHOLE, POOR):
        lost = lost_characters(tokenizer)
        assert lost is not None
        texts = [one for one in (first, second) if not lost.search(one)]
        ids = [one for text in texts for one in tokenizer(text, add_special_tokens=False)["input_ids"]]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == "".join(texts)


def _poor(bytes_):
    """A tokenizer without tokens for some bytes."""
    inner = json.loads(made.byte_tokenizer().backend_tokenizer.to_str())
    letters = dict(_letters())
    gone = {letters[one] for one in bytes_}
    inner["model"]["vocab"] = {
        token: number for token, number in inner["model"]["vocab"].items() if not gone & {*token}
    }
    inner["model"]["merges"] = [one for one in inner["model"]["merges"] if not gone & {*"".join(one)}]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(inner)), bos_token="<s>", eos_token="</s>"
    )


WHOLE = made.byte_tokenizer()
POOR = _poor([0x04, 0x41, 0xC3, 0xE4, 0xF1, 0xFF])


@pytest.mark.parametrize("text", ["\x04", "A", "é", "中", "\U00040000"])
def test_a_character_whose_bytes_have_no_token_is_lost_and_known(text):
    lost = lost_characters(POOR)
    assert lost.search(f"b{text}c")
    assert not lost_characters(WHOLE).search(text)
    ids = POOR(f"b{text}c", add_special_tokens=False)["input_ids"]
    assert POOR.decode(ids, clean_up_tokenization_spaces=False) != f"b{text}c"
    records = [Demonstration(prompt=_user("a"), completion=one) for one in (f"b{text}c", "b")]
    assert _together(records, POOR, plain=False) == _alone(records, POOR, plain=False)


def test_no_proof_without_a_token_for_a_later_byte_of_a_character():
    assert lost_characters(_poor([0x9F])) is None


def test_letters_are_those_of_the_library():
    letters = {letter for _, letter in _letters()}
    assert letters == {*pre_tokenizers.ByteLevel.alphabet()}
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for byte, letter in _letters():
        if byte < 0x80:
            assert whole.pre_tokenize_str(chr(byte))[0][0] == letter


def test_a_tokenizer_of_words_has_no_proof():
    assert lost_characters(made.metaspace_tokenizer()) is None
