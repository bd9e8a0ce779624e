"""Search and best-of-n as generators: what they give, refuse and resume."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from coalign.core.errors import ConfigError
from coalign.data.frame import Frame
from coalign.decoding.search import generator
from coalign.decoding.search.best_of_n import BestOfGenerator
from coalign.decoding.search.generator import SearchGenerator, SearchOptions, with_instruction
from coalign.decoding.search.lookahead import search
from coalign.judging.rewards.mix import RewardMix, Weighted
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.methods import MethodModels, open_methods
from coalign.models.types import Sampling
from tests.models.tiny import make_model
from tests.preference.tiny_chat import NO_SYSTEM, VOCABULARY, tiny_tokenizer

PROMPTS = [[{"role": "user", "content": text}] for text in ("one", "the second prompt", "3")]
SAMPLING = Sampling(max_new_tokens=8, temperature=0.0)


@dataclass
class Letters:
    """Share of lower-case letters."""

    name: str = "letters"
    asked: int = 0

    def score(self, drafts):
        self.asked += len(drafts)
        return [sum(c.isascii() and c.islower() for c in one.text) / max(1, len(one.text)) for one in drafts]


@pytest.fixture(scope="module")
def base():
    tokenizer = tiny_tokenizer()
    model = make_model(
        "llama", vocab_size=VOCABULARY, eos_token_id=tokenizer.eos_token_id, bos_token_id=None, scale=2.0
    )
    return TransformersGenerator(model, tokenizer)


def searching(base, **options):
    values = {"candidates": 6, "lookahead": 3, "reward_weight": 20.0, **options}
    return SearchGenerator(base, RewardMix([Weighted(Letters())]), SearchOptions(**values))


def test_the_search_finds_more_reward_than_greedy_decoding(base):
    found = searching(base).search(PROMPTS, SAMPLING)
    plain = base.generate(PROMPTS, SAMPLING)
    before = Letters().score([one[0] for one in plain])
    after = Letters().score([one[0].generation for one in found])
    assert sum(after) > sum(before) + 0.5
    assert after == pytest.approx([one[0].reward for one in found])


def test_without_weight_it_is_the_plain_back_end(base):
    sampling = Sampling(max_new_tokens=8, temperature=0.0, logprobs=True)
    found = searching(base, reward_weight=0.0).generate(PROMPTS, sampling)
    for (one,), (other,) in zip(found, base.generate(PROMPTS, sampling), strict=True):
        for name in ("token_ids", "text", "tokens", "finish_reason"):
            assert getattr(one, name) == getattr(other, name)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_batches_do_not_change_what_is_found(base):
    alone = TransformersGenerator(base.model, base.tokenizer, batch_size=1)
    together = searching(base, beams=2).generate(PROMPTS, SAMPLING)
    apart = searching(alone, beams=2).generate(PROMPTS, SAMPLING)
    assert [one[0].token_ids for one in together] == [one[0].token_ids for one in apart]


def test_a_stop_text_ends_a_candidate(base):
    plain = searching(base).generate(PROMPTS[:1], SAMPLING)[0][0]
    stop = plain.text[2]
    ((cut,),) = searching(base).generate(PROMPTS[:1], replace(SAMPLING, stop=(stop,)))
    assert stop not in cut.text


def test_several_texts_need_beams(base):
    two = Sampling(max_new_tokens=5, temperature=0.0, n=2)
    found = searching(base, beams=3).search(PROMPTS[:1], two)[0]
    assert len(found) == 2
    assert found[0].score >= found[1].score
    with pytest.raises(ConfigError, match="beams=2"):
        searching(base).generate(PROMPTS[:1], two)


@pytest.mark.parametrize("change", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}])
def test_sampling_options_are_refused(base, change):
    with pytest.raises(ConfigError, match="no effect"):
        searching(base).generate(PROMPTS[:1], Sampling(**{"max_new_tokens": 4, "temperature": 0.0, **change}))


def test_a_run_that_was_cut_goes_on_with_the_same_texts(base):
    alone = TransformersGenerator(base.model, base.tokenizer, batch_size=6)
    whole = searching(alone).generate(PROMPTS, SAMPLING)
    kept = {}

    class CutError(Exception):
        pass

    def stop(batch):
        kept.update(batch)
        raise CutError

    with pytest.raises(CutError):
        searching(alone).generate(PROMPTS, SAMPLING, on_batch=stop)
    assert len(kept) == 1
    searching(alone).generate(PROMPTS, SAMPLING, done=list(kept), on_batch=kept.update)
    assert [kept[place][0].text for place in range(3)] == [one[0].text for one in whole]


def test_blocks_take_fewer_calls_of_the_model(base):
    token, block = searching(base), searching(base, mode="block")
    token.search(PROMPTS, SAMPLING)
    block.search(PROMPTS, SAMPLING)
    assert block.last_cost.forwards < token.last_cost.forwards / 2
    assert block.last_cost.judged < token.last_cost.judged


def test_options_that_do_not_go_together():
    with pytest.raises(ValueError, match="no effect with mode: block"):
        SearchOptions(mode="block", every=2)
    with pytest.raises(ValueError, match="lookahead of at least 4"):
        SearchOptions(lookahead=3, every=5)


def test_memory_that_runs_out_halves_the_batch(base, monkeypatch):
    sizes = []

    def scarce(trees, prompts, *rest, **more):
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError
        return search(trees, prompts, *rest, **more)

    monkeypatch.setattr(generator, "search", scarce)
    assert all(searching(base).generate(PROMPTS, SAMPLING))
    assert sizes == [3, 1, 2, 1, 1]


def test_where_an_instruction_stands():
    user = [{"role": "user", "content": "q"}]
    frame, without = Frame(tiny_tokenizer()), Frame(tiny_tokenizer(NO_SYSTEM))
    assert with_instruction(user, "be kind", frame) == [{"role": "system", "content": "be kind"}, *user]
    assert with_instruction(user, "be kind", without) == [{"role": "user", "content": "be kind\n\nq"}]
    old = [{"role": "system", "content": "s"}, *user]
    assert with_instruction(old, "be kind", frame)[0]["content"] == "s\n\nbe kind"
    assert with_instruction("text", "be kind", frame) == "be kind\ntext"


def test_best_of_n_gives_the_best_of_the_samples(base):
    sampling = Sampling(max_new_tokens=6, temperature=1.0, seed=3)
    rewards = RewardMix([Weighted(Letters())])
    samples = base.generate(PROMPTS, Sampling(max_new_tokens=6, temperature=1.0, seed=3, n=5))
    best = BestOfGenerator(base, rewards, 5).generate(PROMPTS, Sampling(max_new_tokens=6, n=2, seed=3))
    for mine, all_of_them in zip(best, samples, strict=True):
        ranked = sorted(all_of_them, key=lambda one: -Letters().score([one])[0])
        assert [one.text for one in mine] == [one.text for one in ranked[:2]]
    with pytest.raises(ConfigError, match="temperature above 0"):
        BestOfGenerator(base, rewards, 5).generate(PROMPTS, SAMPLING)
    with pytest.raises(ConfigError, match="out of 2 samples"):
        BestOfGenerator(base, rewards, 2).generate(PROMPTS, Sampling(n=3))
    assert sampling.n == 1


def test_deal_needs_the_model_itself():
    models = MethodModels(endpoint="http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError, match="best-of-n"):
        open_methods(["deal"], {"reward": "max_words:3"}, models)
