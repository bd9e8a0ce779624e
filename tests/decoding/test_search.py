"""Search against the rule written out; search and best-of-n as generators and on the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.data.frame import Frame
from coalign.decoding import deal
from coalign.decoding.search import generator
from coalign.decoding.search.best_of_n import BestOfGenerator
from coalign.decoding.search.generator import SearchGenerator, SearchOptions, with_instruction
from coalign.decoding.search.lookahead import SearchCost, SearchSettings, rows_of, search, top_tokens
from coalign.judging.rewards.mix import RewardMix, Weighted
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.methods import MethodModels, open_methods
from coalign.models.scoring.token_tree import CachedTrees, PlainTrees
from coalign.models.types import Sampling
from coalign.report.html import read_report
from tests.cli.conftest import coalign as coalign  # the command line in this process
from tests.decoding.chain import Chain
from tests.models.tiny import make_model
from tests.preference.tiny_chat import NO_SYSTEM, VOCABULARY, tiny_tokenizer
from tests.preference.tiny_runs import write

END = 2
PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]


def rule(model, prompt, heuristic, settings):
    """The search as the paper states it: no cache, no batch, nothing reused."""

    def logps(ids):
        return model(input_ids=torch.tensor([prompt + ids])).logits[0, -1].log_softmax(-1).double()

    def best(values):
        return max(range(len(values)), key=lambda one: (values[one], -one))

    beams, step = [([], 0.0, 0.0, False)], 0
    while any(not done and len(ids) < settings.max_new_tokens for ids, *_, done in beams):
        pool = []
        for ids, total, score, done in beams:
            if done or len(ids) >= settings.max_new_tokens:
                pool.append((ids, total, score, done))
                continue
            following = logps(ids).tolist()
            order = sorted(range(len(following)), key=lambda one: (-following[one], one))
            for token in order[: settings.candidates]:
                text = [*ids, token]
                while text[-1] != END and len(text) < min(
                    len(ids) + 1 + settings.lookahead, settings.max_new_tokens
                ):
                    text.append(best(logps(text).tolist()))
                logp = total + following[token]
                value = heuristic(text)
                pool.append(([*ids, token], logp, logp + settings.weight * value, token == END))
        beams = sorted(pool, key=lambda one: (-one[2], one[0]))[: settings.beams]
        step += 1
    return [(ids, total, score) for ids, total, score, _ in beams]


def liked(tokens):
    """Even tokens, and 17."""
    return sum(one % 2 == 0 for one in tokens) / len(tokens) + (17 in tokens)


def found(trees, settings, prompts=PROMPTS, value=liked, **more):
    with torch.inference_mode():
        return search(
            trees,
            prompts,
            lambda drafts: [value(one.tokens) for one in drafts],
            lambda texts: [ids[-1] == END for ids in texts],
            settings,
            **more,
        )


@pytest.mark.parametrize(
    ("candidates", "beams", "lookahead", "weight"),
    [(4, 1, 5, 3.0), (3, 3, 4, 3.0), (5, 2, 0, 2.0), (1, 1, 3, 1.0), (4, 2, 1, 100.0), (2, 4, 3, 1.0)],
)
def test_the_rule(candidates, beams, lookahead, weight):
    model = make_model("llama", dtype=torch.float64, scale=2.0)
    one = SearchSettings(
        max_new_tokens=8, candidates=candidates, beams=beams, lookahead=lookahead, weight=weight
    )
    pools = found(CachedTrees(model), one)
    with torch.inference_mode():
        for prompt, pool in zip(PROMPTS, pools, strict=True):
            expected = rule(model, prompt, liked, one)
            assert [beam.tokens for beam in pool] == [ids for ids, *_ in expected]
            assert [beam.score for beam in pool] == pytest.approx([score for *_, score in expected])
            assert [sum(beam.logps) for beam in pool] == pytest.approx([total for _, total, _ in expected])


@pytest.mark.parametrize("every", [1, 2, 4])
def test_cached_plain_and_alone_are_the_same(every):
    model = make_model("gpt2", dtype=torch.float64)
    one = SearchSettings(max_new_tokens=7, candidates=3, beams=2, lookahead=4, weight=4.0, every=every)
    cached, plain = found(CachedTrees(model), one), found(PlainTrees(model), one)
    alone = [found(CachedTrees(model), one, [prompt])[0] for prompt in PROMPTS]
    tokens = [[[beam.tokens for beam in pool] for pool in pools] for pools in (cached, plain, alone)]
    assert tokens[0] == tokens[1] == tokens[2]


def test_without_weight_it_is_greedy():
    model = make_model("llama")
    pools = found(CachedTrees(model), SearchSettings(max_new_tokens=6, candidates=4, weight=0.0))
    with torch.inference_mode():
        for prompt, pool in zip(PROMPTS, pools, strict=True):
            ids: list[int] = []
            while len(ids) < 6 and END not in ids:
                ids.append(int(model(input_ids=torch.tensor([prompt + ids])).logits[0, -1].argmax()))
            assert pool[0].tokens == ids


def test_the_lookahead_of_the_winner_is_computed_once():
    """With one candidate every step needs one new token."""
    model = make_model("llama")
    cost = SearchCost()
    settings = SearchSettings(max_new_tokens=10, candidates=1, lookahead=4)
    pool = found(CachedTrees(model), settings, PROMPTS[:1], cost=cost)[0]
    assert len(pool[0].tokens) == 10
    assert cost.tokens <= 10


def test_equal_scores_go_to_the_smaller_tokens():
    settings = SearchSettings(max_new_tokens=2, candidates=2, beams=3, lookahead=1)
    pools = found(Chain([[0.0, 0.0, 0.0]] * 3), settings, [[0]], lambda tokens: 0.0)
    assert [beam.tokens for beam in pools[0]] == [[0, 0], [0, 1], [1, 0]]


def test_a_finished_beam_stays_and_wins():
    """Token 2 ends; afterwards everything is improbable."""
    table = [[0.0, 0.0, 2.0], [-9.0, -9.0, -9.0], [0.0, 0.0, 0.0]]
    settings = SearchSettings(max_new_tokens=5, candidates=3, beams=2, lookahead=2)
    pools = found(Chain(table), settings, [[0]], lambda tokens: 0.0)
    assert pools[0][0].tokens == [2]
    assert pools[0][0].finished


def test_a_heuristic_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="nan"):
        found(Chain([[0.0, 1.0]] * 2), SearchSettings(max_new_tokens=2), [[0]], lambda tokens: float("nan"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4),
    st.integers(1, 9),
)
def test_top_tokens_are_sorted_by_probability_then_id(rows, count):
    tops = top_tokens(torch.tensor(rows, dtype=torch.float64), count)
    for row, top in zip(rows, tops, strict=True):
        assert top.tokens == sorted(range(6), key=lambda one: (-row[one], one))[:count]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.sampled_from([0.0, 1.0, 20.0]), st.data())
def test_the_rule_on_random_chains(candidates, beams, lookahead, weight, data):
    numbers = st.integers(-300, 300)
    table = [[data.draw(numbers) / 100 + place / 7e4 for place in range(5)] for _ in range(5)]
    one = SearchSettings(
        max_new_tokens=5, candidates=candidates, beams=beams, lookahead=lookahead, weight=weight
    )
    chain = torch.tensor(table, dtype=torch.float64).log_softmax(-1)

    class Model:
        def __call__(self, input_ids):
            return type("Output", (), {"logits": chain[input_ids]})

    def value(tokens):
        return float(3 in tokens)

    pools = found(Chain(table), one, [[0]], value)
    expected = rule(Model(), [0], value, one)
    assert [beam.score for beam in pools[0]] == pytest.approx([score for *_, score in expected])


def test_rows_that_fit():
    one = SearchSettings(max_new_tokens=10, candidates=5, beams=2, lookahead=1)
    assert rows_of(one, 20, batch_tokens=10_000, batch_size=64) == 6
    assert rows_of(one, 20, batch_tokens=160, batch_size=64) == 2
    assert rows_of(one, 20, batch_tokens=10, batch_size=1) == 1


CHATS = [[{"role": "user", "content": text}] for text in ("one", "the second prompt", "3")]
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
    found = searching(base).search(CHATS, SAMPLING)
    plain = base.generate(CHATS, SAMPLING)
    before = Letters().score([one[0] for one in plain])
    after = Letters().score([one[0].generation for one in found])
    assert sum(after) > sum(before) + 0.5
    assert after == pytest.approx([one[0].reward for one in found])


def test_without_weight_it_is_the_plain_back_end(base):
    sampling = Sampling(max_new_tokens=8, temperature=0.0, logprobs=True)
    found = searching(base, reward_weight=0.0).generate(CHATS, sampling)
    for (one,), (other,) in zip(found, base.generate(CHATS, sampling), strict=True):
        for name in ("token_ids", "text", "tokens", "finish_reason"):
            assert getattr(one, name) == getattr(other, name)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_batches_do_not_change_what_is_found(base):
    alone = TransformersGenerator(base.model, base.tokenizer, batch_size=1)
    together = searching(base, beams=2).generate(CHATS, SAMPLING)
    apart = searching(alone, beams=2).generate(CHATS, SAMPLING)
    assert [one[0].token_ids for one in together] == [one[0].token_ids for one in apart]


def test_a_stop_text_ends_a_candidate(base):
    plain = searching(base).generate(CHATS[:1], SAMPLING)[0][0]
    stop = plain.text[2]
    ((cut,),) = searching(base).generate(CHATS[:1], replace(SAMPLING, stop=(stop,)))
    assert stop not in cut.text


def test_several_texts_need_beams(base):
    two = Sampling(max_new_tokens=5, temperature=0.0, n=2)
    found = searching(base, beams=3).search(CHATS[:1], two)[0]
    assert len(found) == 2
    assert found[0].score >= found[1].score
    with pytest.raises(ConfigError, match="beams=2"):
        searching(base).generate(CHATS[:1], two)


@pytest.mark.parametrize("change", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}])
def test_sampling_options_are_refused(base, change):
    with pytest.raises(ConfigError, match="no effect"):
        searching(base).generate(CHATS[:1], Sampling(**{"max_new_tokens": 4, "temperature": 0.0, **change}))


def test_a_run_that_was_cut_goes_on_with_the_same_texts(base):
    alone = TransformersGenerator(base.model, base.tokenizer, batch_size=6)
    whole = searching(alone).generate(CHATS, SAMPLING)
    kept = {}

    class CutError(Exception):
        pass

    def stop(batch):
        kept.update(batch)
        raise CutError

    with pytest.raises(CutError):
        searching(alone).generate(CHATS, SAMPLING, on_batch=stop)
    assert len(kept) == 1
    searching(alone).generate(CHATS, SAMPLING, done=list(kept), on_batch=kept.update)
    assert [kept[place][0].text for place in range(3)] == [one[0].text for one in whole]


def test_blocks_take_fewer_calls_of_the_model(base):
    token, block = searching(base), searching(base, mode="block")
    token.search(CHATS, SAMPLING)
    block.search(CHATS, SAMPLING)
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
    assert all(searching(base).generate(CHATS, SAMPLING))
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
    samples = base.generate(CHATS, Sampling(max_new_tokens=6, temperature=1.0, seed=3, n=5))
    best = BestOfGenerator(base, rewards, 5).generate(CHATS, Sampling(max_new_tokens=6, n=2, seed=3))
    for mine, all_of_them in zip(best, samples, strict=True):
        ranked = sorted(all_of_them, key=lambda one: -Letters().score([one])[0])
        assert [one.text for one in mine] == [one.text for one in ranked[:2]]
    with pytest.raises(ConfigError, match="temperature above 0"):
        BestOfGenerator(base, rewards, 5).generate(CHATS, SAMPLING)
    with pytest.raises(ConfigError, match="out of 2 samples"):
        BestOfGenerator(base, rewards, 2).generate(CHATS, Sampling(n=3))
    assert sampling.n == 1


def test_deal_needs_the_model_itself():
    models = MethodModels(endpoint="http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError, match="best-of-n"):
        open_methods(["deal"], {"reward": "max_words:3"}, models)


REWARDS = ["max_words:2@2", "no_commas"]


@pytest.fixture
def prompts(tmp_path):
    rows = [
        {"id": f"p{n}", "prompt": f"Say {n}.", "constraints": [{"verifier": "max_characters", "n": 5 + n}]}
        for n in range(4)
    ]
    return write(tmp_path / "prompts.jsonl", rows)


def config(model, prompts, **changes):
    values = {
        "model": model, "prompts": prompts, "reward": REWARDS, "candidates": 4, "lookahead": 2, "max_new_tokens": 6,
        "best_of": 3, "device": "cpu", "dtype": "float32", **changes,
    }  # fmt: skip
    return deal.Config(**values)


def work(folder, one):
    run = Run.start(folder, "deal", one, seed=0)
    deal.run(one, run)
    return run


def test_a_run_reports_every_way_to_answer(tiny_model, prompts, tmp_path):
    run = work(tmp_path / "run", config(tiny_model, prompts, alignment_prompt="Be brief."))
    report = read_report(run.report)
    assert [one.title for one in report.sections][:3] == ["Rewards", "Fluency guard", "All ways to answer"]
    samples = next(one for one in report.sections if one.kind == "samples")
    assert list(samples.columns) == ["Plain", "Prompted", "Best of 3", "Deal"]
    rows = read_rows(run.artefacts / "deal.measured.jsonl")
    assert [row["id"] for row in rows] == ["p0", "p1", "p2", "p3"]
    assert set(rows[0]["values"]) == {"at most 2 words", "no commas"}
    figures = run.status()["figures"]
    assert figures["reward_after"] >= figures["reward_before"]


def test_the_prompts_own_constraints_are_rewarded_where_nothing_is_named(tiny_model, prompts, tmp_path):
    run = work(tmp_path / "run", config(tiny_model, prompts, reward=[], best_of=0, limit=2))
    rows = read_rows(run.artefacts / "deal.measured.jsonl")
    assert len(rows) == 2
    assert set(rows[0]["values"]) == {"constraints"}


def test_what_cannot_be_used_is_said_before_a_model_is_loaded(tiny_model, prompts, tmp_path):
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "hi", "id": "a"}\n{"prompt": "ho", "id": "a"}\n')
    with pytest.raises(DataError, match=r"bare.jsonl:2: id: 'a' occurs twice"):
        work(tmp_path / "one", config("absent", bare))
    bare.write_text('{"prompt": "hi"}\n')
    with pytest.raises(DataError, match=r"bare.jsonl:1: constraints"):
        work(tmp_path / "two", config("absent", bare, reward=["constraints"]))
    with pytest.raises(ConfigError, match="no reward"):
        work(tmp_path / "three", config(tiny_model, bare, reward=[]))
    with pytest.raises(ValueError, match="adapter_rank has no effect"):
        config(tiny_model, prompts, adapter_rank=4)


def test_generate_with_a_reward(coalign, tiny_model, prompts, tmp_path):
    def generate(out, *options):
        common = (
            "--model",
            tiny_model,
            "--prompts",
            str(prompts),
            "--max-new-tokens",
            "5",
            "--device",
            "cpu",
        )
        return coalign("generate", *common, "--out", str(tmp_path / out), *options)

    both = ("--reward", "must_include:a,b@2", "--reward", "max_words:3", "--option", "lookahead=2")
    result = generate("out.jsonl", *both)
    assert result.code == 0, result.err
    assert "deal" in result.err
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4
    one = ("--method", "best-of-n", "--reward", "must_include:a,b", "--option", "best_of=2")
    result = generate("best.jsonl", *one)
    assert result.code == 0, result.err
    bad = generate("x.jsonl", "--reward", "max_wrods:3")
    assert bad.code != 0
    assert "Did you mean max_words" in bad.err
    assert not (tmp_path / "x.jsonl.partial").exists(), "a mistake leaves nothing behind"
