"""Rewards of texts that share a beginning are those of the texts one by one: values, gradients, any grouping."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.models.reward_inputs import RewardText, grouped, shared_beginnings
from coalign.models.scoring.engine import resolve_path
from coalign.models.scoring.sequence_states import _can_share, reads_last_token, sequence_states
from coalign.models.types import Responses
from tests.models.tiny import MODELS, VOCABULARY

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma", "mistral", "gpt2")


def classifier(architecture: str, dtype: torch.dtype = torch.float32, **changes):
    """A random classifier of one output, whose padding id occurs in texts like any other."""
    _, config, shape = MODELS[architecture]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        made = hf.AutoModelForSequenceClassification.from_config(
            config(**{**shape, "num_labels": 1, **changes})
        )
    with torch.no_grad():
        for one in made.parameters():
            one.mul_(4 if one.ndim > 1 else 1)
    return made.to(dtype).eval()


def texts(seed: int = 0) -> Responses:
    draw = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [draw.randrange(VOCABULARY) for _ in range(draw.randint(low, high))]

    return Responses([ids(4, 9), [], ids(2, 3)], [ids(1, 6) for _ in range(6)], [0, 0, 0, 1, 2, 2])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shared_and_padded_texts_have_the_same_states_outputs_and_gradients(architecture: str) -> None:
    model = classifier(architecture)
    assert reads_last_token(model)
    assert resolve_path(model, "auto", texts(), _can_share) == "packed"
    found = {}
    for path in ("packed", "padded"):
        model.zero_grad()
        made = sequence_states(model, texts(), path=path)
        made.outputs.square().sum().backward()
        grads = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
        found[path] = (made.states.detach(), made.outputs.detach(), grads)
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_a_state_is_that_of_the_text_alone_whatever_its_tokens_are() -> None:
    model, given_texts = classifier("llama"), texts()
    together = sequence_states(model, given_texts).outputs
    budget = sequence_states(model, given_texts, batch_tokens=12).outputs
    for row, (prompt, ids) in enumerate(zip(given_texts.prompt_index, given_texts.response_ids, strict=True)):
        whole = torch.tensor([given_texts.prompt_ids[prompt] + ids])
        with torch.no_grad():
            hidden = model.model(input_ids=whole).last_hidden_state[0, -1]
            alone = model.score(hidden)
        torch.testing.assert_close(together[row].detach(), alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(budget[row].detach(), alone, rtol=1e-4, atol=1e-4)


def test_a_model_that_mixes_along_the_row_is_computed_text_by_text(caplog) -> None:
    config = hf.Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    model = hf.AutoModelForSequenceClassification.from_config(config).eval()
    assert resolve_path(model, "auto", texts(), _can_share) == "padded"  # soft-capped attention
    assert "every text is computed whole" in caplog.text


rows = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(rows, min_size=1, max_size=4), min_size=1, max_size=4))
def test_shared_beginnings_put_together_are_the_texts(groups) -> None:
    made = shared_beginnings([[RewardText(ids, (0,) * len(ids)) for ids in group] for group in groups])
    whole = [made.prompt_ids[at] + ids for at, ids in zip(made.prompt_index, made.response_ids, strict=True)]
    assert whole == [list(ids) for group in groups for ids in group]
    assert all(made.response_ids)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), rows), max_size=12))
def test_groups_hold_every_distinct_text_once_with_its_prompt(pairs) -> None:
    prompts = [prompt for prompt, _ in pairs]
    given_texts = [RewardText(ids, (0,) * len(ids)) for _, ids in pairs]
    groups = grouped(prompts, given_texts)
    places = sorted(place for group in groups for place in group)
    assert [given_texts[place] for place in places] == list(dict.fromkeys(given_texts))
    assert all(len({prompts[place] for place in group}) == 1 for group in groups)
