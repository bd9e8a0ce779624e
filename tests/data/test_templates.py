"""Chat templates by file and by name: which is taken, how responses are told apart, and what is wrong with one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from coalign.core.errors import ConfigError, DataError
from coalign.data.encoding import encode_continued, encode_prompt, encode_records, encode_response
from coalign.data.records import Demonstration
from coalign.data.templates import TemplateText, choose_template, shipped_templates
from tests.data.tokenizers import CHATML, byte_tokenizer, metaspace_tokenizer

HI = [{"role": "user", "content": "hi"}]
TALK = [
    {"role": "system", "content": "Be kind."},
    *HI,
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "who?"},
]
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


def both(tokenizer, messages, response):
    ids = encode_prompt(tokenizer, messages), encode_response(tokenizer, messages, response)
    return tuple(
        tokenizer.decode(one, skip_special_tokens=False, clean_up_tokenization_spaces=False) for one in ids
    )


@pytest.mark.parametrize(
    ("name", "prompt", "response"),
    [
        (
            "chatml",
            (
                "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello"
                "<|im_end|>\n<|im_start|>user\nwho?<|im_end|>\n<|im_start|>assistant\n"
            ),
            "me<|im_end|>",
        ),
        (
            "llama-3",
            (
                "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user"
                "<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nhello<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nwho?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            ),
            "me<|eot_id|></s>",  # no token of this tokenizer
        ),
        (
            "gemma",
            (
                "<s><start_of_turn>user\nBe kind.\n\nhi<end_of_turn>\n<start_of_turn>model\nhello<end_of_turn>\n"
                "<start_of_turn>user\nwho?<end_of_turn>\n<start_of_turn>model\n"
            ),
            "me<end_of_turn></s>",
        ),
        (
            "zephyr",
            "<|system|>\nBe kind.</s>\n<|user|>\nhi</s>\n<|assistant|>\nhello</s>\n<|user|>\nwho?</s>\n<|assistant|>\n",
            "me</s>",
        ),
        (
            "alpaca",
            "<s>Be kind.\n\n### Instruction:\nhi\n\n### Response:\nhello</s>\n\n### Instruction:\nwho?\n\n### Response:\n",
            "me</s>",
        ),
    ],
)
def test_shipped_templates_write_the_published_formats(name, prompt, response):
    tokenizer = byte_tokenizer()
    choose_template(tokenizer, name)
    assert both(tokenizer, TALK, "me") == (prompt, response)


def test_every_shipped_template_is_tested_and_alpaca_has_its_own_first_sentence():
    assert [*shipped_templates()] == ["alpaca", "chatml", "gemma", "llama-3", "zephyr"]
    tokenizer = byte_tokenizer()
    choose_template(tokenizer, "alpaca")
    assert both(tokenizer, HI, "yes")[0] == f"<s>{ALPACA}\n\n### Instruction:\nhi\n\n### Response:\n"


def test_a_file_comes_before_a_shipped_name_and_the_tokenizers_own_before_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("chatml").write_text("{% for m in messages %}{{ '[' + m.content + ']' }}{% endfor %}")
    tokenizer = byte_tokenizer({"default": CHATML, "rag": CHATML.replace("im_start", "start")})  # type: ignore[arg-type]
    choose_template(tokenizer, "rag")
    assert both(tokenizer, HI, "yes")[0].startswith("<|start|>user")
    choose_template(tokenizer, "chatml")
    assert both(tokenizer, HI, "yes")[0].startswith("[hi]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ bos_token }}\n{% for m in messages %}\n{{ m.content }", r"t.jinja:3: unexpected '}'"),
        ("{% for m in messages %}\n{{ m.content }}", r"t.jinja:2: .*endfor"),
        ("\n\n{{ 1 + messages }}", r"t.jinja:3: TypeError: unsupported operand"),
        ("{{ '' }}\n{{ raise_exception('only tools here') }}", r"t.jinja:2: only tools here"),
        ("{{ messages | nosuchfilter }}", r"t.jinja:1: No filter named"),
        ("{{ messages[0].nothing.more }}", r"t.jinja:1: .*has no attribute"),
        ("Hello", r"t.jinja: writes nothing of a user's message"),
        (" \n", r"t.jinja: is empty"),
        (b"\xff\xfe\xff", r"t.jinja: cannot be read"),
    ],
)
def test_a_template_that_cannot_be_used_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "t.jinja"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    tokenizer = byte_tokenizer(CHATML)
    with pytest.raises(ConfigError, match=message):
        choose_template(tokenizer, str(path))
    assert tokenizer.chat_template == CHATML


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ConfigError, match=r"chat_template: 'chatlm' is neither .* Did you mean chatml"):
        choose_template(byte_tokenizer(), "chatlm")
    with pytest.raises(ConfigError, match="Known: rag, alpaca, chatml"):
        choose_template(byte_tokenizer({"rag": CHATML}), "zzz")  # type: ignore[arg-type]


def test_a_template_that_fails_on_some_records_names_them_and_its_line(tmp_path):
    path = tmp_path / "strict.jinja"
    path.write_text(
        "{% for m in messages %}\n{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}\n"
        "{{ m.role + ': ' + m.content }}\n{% endfor %}"
    )
    tokenizer = byte_tokenizer()
    choose_template(tokenizer, str(path))
    records = [Demonstration(prompt=one, completion="a") for one in (HI, [*TALK[:2]])]
    with pytest.raises(DataError, match=r"(?s)1 of 2 records.*strict.jinja:2: no system\).*--chat-template"):
        encode_records(records, tokenizer)


def test_markers_that_are_no_tokens_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        choose_template(byte_tokenizer(), "chatml")
        assert not caplog.records
        choose_template(byte_tokenizer(), "gemma")
    assert "<end_of_turn>, <start_of_turn> are no tokens of this tokenizer" in caplog.text


def test_a_chosen_template_is_plain_text_when_saved(tmp_path):
    tokenizer = byte_tokenizer({"tool_use": CHATML, "rag": CHATML})  # type: ignore[arg-type]
    choose_template(tokenizer, "rag")
    assert isinstance(tokenizer.chat_template, TemplateText)
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert type(again.chat_template) is str
    assert again.chat_template == CHATML
    assert not (tmp_path / "additional_chat_templates").exists()


# Templates without a generation prompt, each with where a response begins.
TURNS = "{% for m in messages %}{{ '<|start|>' + m.role + '<|end|>\n' + m.content + '<|eot|>' }}{% endfor %}"
HEADINGS = "{% for m in messages %}{{ '### ' + m.role | capitalize + ': ' + m.content + '\n' }}{% endfor %}"
BRACKETS = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
ALWAYS = TURNS + "{% if messages[-1].role == 'user' %}{{ '<|start|>assistant<|end|>\n' }}{% endif %}"
EMPTY_THOUGHT = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and '</think>' not in m.content %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|end|>\n' }}{% endfor %}"
)
STRIPS_THOUGHT = "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content.split('</think>')[-1] + '<|end|>' }}{% endfor %}"


@pytest.mark.parametrize("make", [byte_tokenizer, metaspace_tokenizer])
@pytest.mark.parametrize(
    ("template", "prompt", "response"),
    [
        (TURNS, "<|start|>user<|end|>\nhi<|eot|><|start|>assistant<|end|>\n", "yes it is<|eot|>"),
        (HEADINGS, "### User: hi\n### Assistant:", " yes it is</s>"),
        (BRACKETS, "[INST] hi [/INST]", " yes it is</s>"),
        (ALWAYS, "<|start|>user<|end|>\nhi<|eot|><|start|>assistant<|end|>\n", "yes it is<|eot|>"),
        (
            EMPTY_THOUGHT,
            "<|start|>user\nhi<|end|>\n<|start|>assistant\n",
            "<think>\n\n</think>\n\nyes it is<|end|>",
        ),
        (STRIPS_THOUGHT, "<|start|>user\nhi<|end|><|start|>assistant\n", "yes it is<|end|>"),
        # A generation prompt that is only a part of the header stays as the template has it.
        (
            CHATML.replace("assistant\n'", "assistant'"),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant",
            "\nyes it is<|im_end|>",
        ),
    ],
    ids=["turns", "headings", "brackets", "always", "empty-thought", "strips-thought", "partial"],
)
def test_headers_without_a_generation_prompt_belong_to_the_prompt(make, template, prompt, response):
    tokenizer = make(template)
    ids = encode_prompt(tokenizer, HI), encode_response(tokenizer, HI, "yes it is")
    if make is byte_tokenizer:  # the other one has no token for most of this text
        assert both(tokenizer, HI, "yes it is") == (prompt, response)
    whole = tokenizer.decode([*ids[0], *ids[1]], skip_special_tokens=False).strip()
    assert whole.count("yes it is") == 1
    assert "yes" not in tokenizer.decode(ids[0])


def test_a_reasoning_reply_under_a_template_that_writes_empty_thoughts():
    tokenizer = byte_tokenizer(EMPTY_THOUGHT)
    prompt, response = both(tokenizer, HI, "<think>\nhm\n</think>\n\nyes")
    assert prompt.endswith("<|start|>assistant\n")
    assert response == "<think>\nhm\n</think>\n\nyes<|end|>"


def test_a_begun_answer_goes_on_after_the_header():
    tokenizer = byte_tokenizer(TURNS)
    messages = [*HI, {"role": "assistant", "content": "yes, "}]
    text = tokenizer.decode(encode_continued(tokenizer, messages), skip_special_tokens=False)
    assert text == "<|start|>user<|end|>\nhi<|eot|><|start|>assistant<|end|>\nyes, "
