"""What the Transformers back end gives beyond whole texts: prefill, token texts, alternatives, pieces of a stream."""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken

from coalign.core.errors import ConfigError, DataError
from coalign.data.encoding import encode_continued, encode_prompt, encode_response
from coalign.models.generation.endings import Endings, special_ids
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Sampling
from tests.data import tokenizers
from tests.data.tokenizers import CHATML, byte_tokenizer, metaspace_tokenizer
from tests.models.test_generation import PROMPTS, scripted, tiny

ASKED = [{"role": "user", "content": "is the sea blue?"}]
BEGUN = [*ASKED, {"role": "assistant", "content": "the sea"}]


def make(tokenizer, **options):
    return TransformersGenerator(tiny(dtype=torch.float32), tokenizer, **options)


@pytest.mark.parametrize("template", ["CHATML", "LLAMA3", "GEMMA", "PHI3", "NO_END", None])
def test_a_begun_turn_is_the_prompt_and_the_start_of_a_response(template):
    tokenizer = byte_tokenizer(getattr(tokenizers, template) if template else None)
    begun, prompt = encode_continued(tokenizer, BEGUN), encode_prompt(tokenizer, ASKED)
    assert tokenizer.decode(begun[len(prompt) :]).strip() == "the sea"
    response = encode_response(tokenizer, ASKED, "the sea is")
    assert begun == (prompt + response)[: len(begun)]
    empty, spaced = ([*ASKED, {"role": "assistant", "content": one}] for one in ("", "the \n"))
    assert encode_continued(tokenizer, empty) == prompt
    assert tokenizer.decode(encode_continued(tokenizer, spaced)).endswith("the \n")


def test_a_template_that_rewrites_the_answer_cannot_be_continued():
    with pytest.raises(DataError, match=r"prompt 1: .*changes it when the answer is added"):
        make(byte_tokenizer(tokenizers.REWRITING)).generate([ASKED, BEGUN], Sampling(3))


def test_a_begun_turn_goes_on_as_its_text_does(tokenizer):
    text = tokenizer.decode(encode_continued(tokenizer, BEGUN))
    begun, plain = (make(tokenizer).generate([one], Sampling(12, n=2, seed=3)) for one in (BEGUN, text))
    assert begun == plain


def test_the_continuation_of_a_turn_keeps_its_space():
    generator = make(metaspace_tokenizer(CHATML))
    sample = generator.generate([BEGUN], Sampling(8, temperature=0.0, logprobs=True))[0][0]
    ids = encode_continued(generator.tokenizer, BEGUN) + sample.token_ids
    assert generator.tokenizer.decode(ids).endswith("the se<unk>" + sample.text)


@pytest.mark.parametrize("make_tokenizer", [byte_tokenizer, metaspace_tokenizer])
def test_token_texts_add_up_to_the_text(make_tokenizer):
    tokenizer = make_tokenizer(CHATML)
    special = set(tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer))))
    results = make(tokenizer).generate([*PROMPTS, ASKED], Sampling(24, seed=4, n=2, logprobs=True))
    for one in (sample for samples in results for sample in samples):
        assert len(one.tokens) == len(one.token_ids) == len(one.logprobs)
        text = "".join(token for token in one.tokens if token not in special)
        assert text == one.text or one.text.startswith(text)  # the last may be half a character
        assert one.top_logprobs is None


def test_a_special_token_that_is_not_listed_is_no_text_and_no_stop():
    tokenizer = byte_tokenizer(CHATML)
    tokenizer.add_tokens([AddedToken("<|tool|>", special=True)])
    added = tokenizer.convert_tokens_to_ids("<|tool|>")
    assert added not in tokenizer.all_special_ids
    ids = [*tokenizer("A cat")["input_ids"], added, *tokenizer("sat")["input_ids"]]
    before = tokenizer("Hi")["input_ids"][-1]
    endings = Endings(tokenizer, ["<|tool|>"])
    assert endings.text(ids) == endings.text(ids, before) == ("A catsat", False)
    assert endings.has_stop([ids]) == [False]
    assert endings.settled(ids, before) == "A catsat"
    assert "<|tool|>" in endings.tokens(ids)


def test_a_character_belongs_to_the_token_that_completes_it(tokenizer):
    ids = tokenizer("blé!")["input_ids"]
    assert len(ids) == 4
    texts = Endings(tokenizer, ()).tokens([*ids, tokenizer.eos_token_id])
    assert "".join(texts) == "blé!</s>"
    assert "" in texts
    assert len(texts) == len(ids) + 1


def test_alternatives_are_the_most_probable_tokens(tokenizer):
    generator = make(tokenizer)
    sampling = Sampling(9, temperature=0.7, n=2, top_logprobs=4)
    for prompt, samples in zip(PROMPTS, generator.generate(PROMPTS, sampling), strict=True):
        start = len(tokenizer(prompt)["input_ids"])
        for one in samples:
            ids = torch.tensor([tokenizer(prompt)["input_ids"] + one.token_ids])
            with torch.inference_mode():
                logps = torch.log_softmax(generator.model(ids).logits[0, start - 1 : -1].double(), -1)
            assert len(one.top_logprobs) == len(one.token_ids)
            for place, expected in zip(one.top_logprobs, logps.topk(4).values, strict=True):
                assert [logp for _, logp in place] == pytest.approx(expected.tolist(), abs=1e-4)
    greedy = generator.generate(PROMPTS, Sampling(9, temperature=0.0, top_logprobs=2))
    for one in (samples[0] for samples in greedy):
        pairs = zip(one.tokens, (place[0][0] for place in one.top_logprobs), strict=True)
        assert all(own == top for own, top in pairs if own and "\ufffd" not in own + top)
        assert one.logprobs == pytest.approx([place[0][1] for place in one.top_logprobs], abs=1e-5)


def test_more_alternatives_than_tokens(tokenizer):
    one = make(tokenizer).generate(["a"], Sampling(1, top_logprobs=10_000))[0][0]
    assert len(one.top_logprobs[0]) == len(tokenizer)
    with pytest.raises(ConfigError, match="top_logprobs"):
        make(tokenizer).generate(["a"], Sampling(1, top_logprobs=-1))


@pytest.mark.parametrize(
    "sampling", [Sampling(20, n=2, seed=1, top_logprobs=1), Sampling(20, n=3, temperature=0.0)]
)
@pytest.mark.parametrize("make_tokenizer", [byte_tokenizer, metaspace_tokenizer])
def test_pieces_add_up_to_what_generate_gives(make_tokenizer, sampling):
    generator = make(make_tokenizer(CHATML), batch_size=4)
    prompts = [*PROMPTS, ASKED, BEGUN]
    pieces = list(generator.stream(prompts, sampling))
    for index, samples in enumerate(generator.generate(prompts, sampling)):
        for number, sample in enumerate(samples):
            own = [one for one in pieces if (one.prompt, one.sample) == (index, number)]
            assert "".join(one.text for one in own) == sample.text
            assert [one.generation is None for one in own] == [True] * (len(own) - 1) + [False]
            for name in ("text", "token_ids", "tokens"):
                assert getattr(own[-1].generation, name) == getattr(sample, name)


def test_what_may_become_a_stop_text_is_held_back(tokenizer):
    texts = ["the sea\n\nUser: hi and more", "one\n\nUse it é well", "never\n\nUs"]
    generator, prompts = scripted(tokenizer, *texts)
    pieces = list(generator.stream(prompts, Sampling(18, temperature=0.0, stop=("\n\nUser:",))))
    said = {index: [one.text for one in pieces if one.prompt == index] for index in range(3)}
    assert "".join(said[0]) == "the sea"
    assert not any("\ufffd" in text or "\n\nU" in text[-4:] for texts in said.values() for text in texts[:-1])
    assert "é" in "".join(said[1])
    assert len(said[1]) > 3


def test_a_stream_can_be_left(tokenizer):
    generator = make(tokenizer)
    generator.model.train()
    pieces = generator.stream(PROMPTS, Sampling(50, n=2))
    next(pieces)
    pieces.close()
    assert generator.model.training
    assert not torch.is_inference_mode_enabled()
