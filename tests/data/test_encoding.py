from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import DataError, ModelError
from coalign.data.encoding import encode_prompt, encode_records, encode_response, values_of
from coalign.data.records import (
    Demonstration,
    Feedback,
    Judgment,
    Preference,
    PromptRecord,
    Ranking,
    Reply,
    Source,
)
from tests.data.tokenizers import (
    CHATML,
    GEMMA,
    LLAMA3,
    NO_END,
    PHI3,
    REWRITING,
    SPECIAL,
    byte_tokenizer,
    metaspace_tokenizer,
)

CHATML_TOKENIZER = byte_tokenizer(CHATML)
PLAIN_TOKENIZER = byte_tokenizer(adds_bos=True)
HI = [{"role": "user", "content": "hi"}]
TEXT = st.text(min_size=1, max_size=60).filter(lambda text: not any(token in text for token in SPECIAL))


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def both(tokenizer, messages, response, **options):
    return (
        decoded(tokenizer, encode_prompt(tokenizer, messages, **options)),
        decoded(tokenizer, encode_response(tokenizer, messages, response, **options)),
    )


@pytest.mark.parametrize(
    ("template", "prompt", "response"),
    [
        # The line break after ChatML's end of turn and Phi-3's end of text belong to no turn.
        (CHATML, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "yes <|im_end|>"),
        (LLAMA3, "<s><|start|>user<|end|>\n\nhi<|eot|><|start|>assistant<|end|>\n\n", "yes<|eot|>"),
        (GEMMA, "<s><|start|>user\nhi<|eot|>\n<|start|>model\n", "yes<|eot|>"),
        (PHI3, "<|start|>user\nhi<|end|>\n<|start|>assistant\n", "yes <|end|>"),
        (NO_END, "### user:\nhi\n\n### assistant:\n", "yes </s>"),
    ],
    ids=["chatml", "llama3", "gemma", "phi3", "no-end"],
)
@pytest.mark.parametrize("adds_bos", [False, True])
def test_response_is_what_the_template_adds_after_the_generation_prompt(template, prompt, response, adds_bos):
    tokenizer = byte_tokenizer(template, adds_bos=adds_bos)
    assert both(tokenizer, HI, "yes ") == (prompt, response)


def test_templated_prompt_has_one_bos_although_the_tokenizer_adds_one():
    tokenizer = byte_tokenizer(LLAMA3, adds_bos=True)
    assert encode_prompt(tokenizer, HI).count(tokenizer.bos_token_id) == 1


@given(prompt=TEXT, response=TEXT)
def test_chat_tokens_decode_to_the_rendered_text(prompt, response):
    messages = [{"role": "user", "content": prompt}]
    full = CHATML_TOKENIZER.apply_chat_template(
        [*messages, {"role": "assistant", "content": response}], tokenize=False
    )
    ids = encode_prompt(CHATML_TOKENIZER, messages) + encode_response(CHATML_TOKENIZER, messages, response)
    assert decoded(CHATML_TOKENIZER, ids) + "\n" == full


@given(prompt=TEXT, response=TEXT)
def test_plain_text_is_joined_as_it_is(prompt, response):
    record = Demonstration(prompt=[{"role": "user", "content": prompt}], completion=response, plain=True)
    (one,) = encode_records([record], PLAIN_TOKENIZER).records
    assert decoded(PLAIN_TOKENIZER, one.prompt_ids) == f"<s>{prompt}"
    assert decoded(PLAIN_TOKENIZER, one.response_ids[0]) == f"{response}</s>"


@given(response=TEXT)
def test_tokens_do_not_depend_on_the_other_response(response):
    pair = Preference(prompt=HI, chosen=response, rejected="another")
    (one,) = encode_records([pair], CHATML_TOKENIZER).records
    assert one.response_ids[0] == encode_response(CHATML_TOKENIZER, HI, response)


def test_plain_on_request_overrides_the_template_for_plain_records_only():
    plain = Demonstration(prompt=HI, completion=" yes", plain=True)
    chat = Demonstration(prompt=HI, completion=" yes")
    templated, asked = (
        [decoded(CHATML_TOKENIZER, one.prompt_ids) for one in encoded.records]
        for encoded in (
            encode_records([plain, chat], CHATML_TOKENIZER, plain=asked) for asked in (False, True)
        )
    )
    assert templated[0] == templated[1] == asked[1]
    assert asked[0] == "hi"


def test_messages_without_a_template_are_a_transcript():
    conversation = [*HI, {"role": "assistant", "content": "hello"}, {"role": "user", "content": "bye"}]
    prompt, response = both(PLAIN_TOKENIZER, conversation, "see you")
    assert prompt == "<s>\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant:"
    assert response == " see you</s>"


def test_empty_prompt_is_one_token():
    record = Demonstration(prompt=[], completion="once upon a time", plain=True)
    for tokenizer in (CHATML_TOKENIZER, PLAIN_TOKENIZER):
        (one,) = encode_records([record], tokenizer).records
        assert one.prompt_ids == [tokenizer.bos_token_id]


def test_template_that_rewrites_the_prompt_is_refused():
    tokenizer = byte_tokenizer(REWRITING)
    record = Demonstration(prompt=HI, completion="<think>\nhm</think>yes", source=Source("f.jsonl", 7))
    with pytest.raises(
        DataError, match=r"f\.jsonl:7: response: .* leaves out a part of the answer \('<think>'\)"
    ):
        encode_records([record], tokenizer)


def test_template_refusals_are_all_named():
    system = [{"role": "system", "content": "be kind"}, *HI]
    records = [Demonstration(prompt=system, completion="yes", source=Source("f.jsonl", n)) for n in (1, 2)]
    with pytest.raises(DataError) as caught:
        encode_records(records, byte_tokenizer(GEMMA))
    assert [problem.line for problem in caught.value.problems] == [1, 2]
    assert "System role not supported" in str(caught.value)


def test_no_eos_token_is_an_error():
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no EOS token"):
        encode_response(tokenizer, HI, "yes", plain=True)


def test_tokenizer_that_puts_a_space_before_each_text():
    template = (
        "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' else "
        "' ' + m['content'] + '</s>' }}{% endfor %}"
    )
    tokenizer = metaspace_tokenizer(template)
    prompt = encode_prompt(tokenizer, HI)
    response = encode_response(tokenizer, HI, "yes it is")
    full = tokenizer.apply_chat_template([*HI, {"role": "assistant", "content": "yes it is"}], tokenize=False)
    assert prompt + response == tokenizer(full, add_special_tokens=False)["input_ids"]
    assert decoded(tokenizer, response).strip() == "yes it is</s>"


def pair(prompt="a b c d e f g h", chosen="yes", rejected="no, never, not at all"):
    return Preference(
        prompt=[{"role": "user", "content": prompt}], chosen=chosen, rejected=rejected, source=Source("f", 3)
    )


def test_truncation_keeps_the_end_of_the_prompt_and_the_start_of_the_response():
    tokenizer = byte_tokenizer(LLAMA3)
    (whole,) = encode_records([pair()], tokenizer).records
    cut = encode_records([pair()], tokenizer, max_prompt_length=10, max_length=14)
    (one,) = cut.records
    assert one.prompt_ids == [tokenizer.bos_token_id, *whole.prompt_ids[-9:]]
    assert one.response_ids == [ids[:4] for ids in whole.response_ids]
    n_cut = sum(len(ids) > 4 for ids in whole.response_ids)
    assert (cut.n_truncated_prompts, cut.n_truncated_responses) == (1, n_cut)
    assert one.truncated
    assert not whole.truncated
    assert tokenizer.convert_tokens_to_ids("<|eot|>") not in one.response_ids[1]


def test_prompt_that_leaves_no_room_is_dropped_and_named():
    length = len(encode_prompt(CHATML_TOKENIZER, pair().prompt))
    encoded = encode_records([pair(), pair(prompt="a")], CHATML_TOKENIZER, max_length=length)
    assert [one.record_index for one in encoded.records] == [1]
    assert "f:3: prompt:" in str(encoded.dropped[0])
    assert f"max_length {length}" in str(encoded.dropped[0])


@given(length=st.integers(1, 60), room=st.integers(0, 30))
def test_lengths_hold_and_nothing_disappears(length, room):
    records = [pair(), pair(prompt="x"), PromptRecord(prompt=HI)]
    encoded = encode_records(records, CHATML_TOKENIZER, max_prompt_length=length, max_length=length + room)
    assert len(encoded.records) + len(encoded.dropped) == len(records)
    for one in encoded.records:
        assert len(one.prompt_ids) <= length
        assert all(0 < len(ids) <= length + room - len(one.prompt_ids) for ids in one.response_ids)


def test_values():
    assert values_of(Ranking(prompt=HI, responses=("a", "b"), scores=(0.5, 2.0))) == [0.5, 2.0]
    assert values_of(pair()) == [1.0, 0.0]
    scored = Preference(prompt=HI, chosen="a", rejected="b", chosen_score=8, rejected_score=3)
    assert values_of(scored) == [8.0, 3.0]
    assert values_of(Feedback(prompt=HI, completion="a", label=False)) == [0.0]
    assert values_of(Judgment(prompt=HI, completion="a", judgment="ok", label=True)) == [1.0]
    assert math.isnan(values_of(Judgment(prompt=HI, completion="a", judgment="ok"))[0])
    assert math.isnan(values_of(Demonstration(prompt=HI, completion="a"))[0])
    assert values_of(PromptRecord(prompt=HI)) == []


WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] }}"
    "{% if m['tool_calls'] %}{{ m['tool_calls'] | tojson }}{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
OPENS_THOUGHT = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n<think>\n' }}{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "look"}}]


def test_tools_and_calls_are_given_to_the_template():
    calls = [Reply("Wait.", {"tool_calls": [{"function": {"name": name}}]}) for name in ("look", "run")]
    record = Preference(prompt=HI, chosen=calls[0], rejected=calls[1], tools=TOOLS)
    tokenizer = byte_tokenizer(WITH_TOOLS)
    encoded = encode_records([record], tokenizer).records[0]
    assert '"name": "look"' in tokenizer.decode(encoded.prompt_ids)
    for name, ids in zip(("look", "run"), encoded.response_ids, strict=True):
        assert name in tokenizer.decode(ids)
    assert encoded.response_ids[0] != encoded.response_ids[1]


TOOLED = Demonstration(prompt=HI, completion="a", tools=TOOLS)
THOUGHT = Demonstration(prompt=HI, completion=Reply("a", {"thinking": "b"}))
CALLED = [*HI, {"role": "assistant", "content": "", "tool_calls": [{}]}, *HI]
SILENT = Demonstration(prompt=HI, completion="<think>hm</think> yes")


@pytest.mark.parametrize(
    ("record", "template", "message"),
    [
        (TOOLED, CHATML, "tools: the chat template leaves them out"),
        (TOOLED, None, "tools: cannot be written without a chat template"),
        (THOUGHT, CHATML, "thinking: the chat template leaves it out"),
        (THOUGHT, None, "thinking: cannot be written without"),
        (Demonstration(prompt=CALLED, completion="a"), CHATML, "leaves out the tool_calls of message 2"),
        (
            Demonstration(prompt=HI, completion="a"),
            "{{ 1 + messages }}",
            "the chat template refuses these messages",
        ),
        (SILENT, REWRITING.replace("<think>\n", ""), "leaves out a part of the answer"),
    ],
)
def test_what_a_template_leaves_out_is_not_trained_without_it(record, template, message):
    with pytest.raises(DataError, match=message):
        encode_records([record], byte_tokenizer(template))


def test_several_templates_without_a_default_are_named():
    tokenizer = byte_tokenizer(CHATML)
    tokenizer.chat_template = {"rag": CHATML, "tool_use": CHATML}
    with pytest.raises(ModelError, match=r"several chat templates .rag, tool_use. and no default"):
        encode_records([Demonstration(prompt=HI, completion="a")], tokenizer)


@pytest.mark.parametrize(
    ("completion", "prompt_end"), [("yes", "assistant\n"), ("<think>\nhm</think>yes", "<think>\n")]
)
def test_a_block_of_thought_that_the_template_opens(completion, prompt_end):
    """It belongs to the prompt where the answer goes on from it, and to neither where the answer has none."""
    tokenizer = byte_tokenizer(OPENS_THOUGHT)
    encoded = encode_records([Demonstration(prompt=HI, completion=completion)], tokenizer).records[0]
    assert tokenizer.decode(encoded.prompt_ids).endswith(prompt_end)
    assert tokenizer.decode(encoded.prompt_ids + encoded.response_ids[0]).endswith(f"{completion}<|end|>")
