"""A world of facts in words: documents that state them, claims that repeat or change them, and training pairs of tasks.

A fact says what a box holds: "the n17 box holds v3 coins ." A claim is supported when every sentence of it is. Lengths are
a quarter of a usual encoder's: 128 tokens are read of a pair.

The encoder is small enough to learn in seconds: word vectors mixed over seven neighbours, so that a value knows its box;
one attention from the second text to the first; a comparison of each word with what it found (after the decomposable
attention of Parikh et al. 2016, arXiv 1606.01933). It has the interface of a Hugging Face encoder.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from coalign.evaluation.factuality.records import Task, TaskRecord

NAMES = [f"n{i}" for i in range(80)]
VALUES = [f"v{i}" for i in range(12)]
FRAME = ["<s>", "<pad>", "</s>", "<unk>"]
PLAIN = ["the", "box", "holds", "coins", "lie", "in", "how", "many", "yes", ".", "?"]
WORDS = [*FRAME, *PLAIN, *NAMES, *VALUES]
LIMIT = 128
"""Most tokens of a pair."""
WORDS_PER_CHUNK = 88
"""A quarter of 350."""

Fact = tuple[str, str]


def stated(fact: Fact) -> str:
    """A fact as the source says it."""
    return f"the {fact[0]} box holds {fact[1]} coins ."


def rephrased(fact: Fact) -> str:
    """The same fact in other words."""
    return f"{fact[1]} coins lie in the {fact[0]} box ."


def changed(fact: Fact, draw: random.Random) -> Fact:
    """The same box with another value."""
    return fact[0], draw.choice([one for one in VALUES if one != fact[1]])


def facts(n: int, draw: random.Random) -> list[Fact]:
    """Facts about n different boxes."""
    return [(name, draw.choice(VALUES)) for name in draw.sample(NAMES, n)]


def training_pair(task: Task, draw: random.Random, most: int = 12) -> TaskRecord:
    """A pair of the task (nli, paraphrase, qa or sts); contexts state 1 to `most` facts."""
    *inside, outside = facts(draw.randint(1, most) + 1, draw)
    context, fact = " ".join(map(stated, inside)), draw.choice(inside)
    if task == "nli":
        label = draw.randrange(3)
        claim = stated((fact, outside, changed(fact, draw))[label])
        return TaskRecord(task, context, (claim,), (), label)
    if task == "paraphrase":
        label = draw.randrange(2)
        claim = rephrased(fact if label else changed(fact, draw))
        return TaskRecord(task, stated(fact), (claim,), (), label)
    if task == "qa":
        label = draw.randrange(2)
        question = f"how many coins lie in the {fact[0]} box ?"
        answer = (fact if label else changed(fact, draw))[1] + " ."
        return TaskRecord(task, context, (question,), (answer,), label)
    first, shared = facts(4, draw), draw.randint(0, 2)
    second = [*first[:shared], *first[2 : 4 - shared]]
    one, other = (" ".join(map(stated, part)) for part in (first[:2], second))
    return TaskRecord(task, one, (other,), (), 2.5 * shared)


def documents(n: int, draw: random.Random) -> list[tuple[str, str, bool]]:
    """(document of 40 to 60 facts, claim of three sentences, whether all three are supported), half of them not."""
    made = []
    for index in range(n):
        inside = facts(draw.randint(40, 60), draw)
        claim = draw.sample(inside, 3)
        supported = index % 2 == 0
        if not supported:
            place = draw.randrange(3)
            claim[place] = changed(claim[place], draw)
        made.append((_text(inside), _text(claim), supported))
    return made


def _text(inside: Sequence[Fact]) -> str:
    """Sentences as a splitter expects them: a capital letter first, no space before the full stop."""
    return " ".join(stated(one).capitalize().replace(" .", ".") for one in inside)


class AligningEncoder(nn.Module):
    """Encoder of text pairs, see the module. The first position of its output holds what is known of the pair."""

    def __init__(self, width: int = 64, window: int = 7) -> None:
        super().__init__()
        self.config: Any = SimpleNamespace(hidden_size=width, layer_norm_eps=1e-5, vocab_size=len(WORDS))
        self.embedding = nn.Embedding(len(WORDS), width)
        self.mix = nn.Conv1d(width, width, window, padding=window // 2)
        self.norm = nn.LayerNorm(width)
        self.match = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.match.weight)
        self.compare = nn.Sequential(
            nn.Linear(4 * width, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.out = nn.Linear(2 * width, width)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> BaseModelOutput:
        """[B, T, H] of inputs [B, T]; type 0 marks the first text, 1 the second."""
        words = self.embedding(input_ids) * attention_mask[..., None]
        mixed = self.norm(words + self.mix(words.transpose(1, 2)).transpose(1, 2))
        keys = self.match(mixed)
        first = (token_type_ids == 0) & attention_mask.bool()
        second = (token_type_ids == 1) & attention_mask.bool()
        scores = (keys @ keys.transpose(1, 2)) / keys.shape[-1] ** 0.5
        found = scores.masked_fill(~first[:, None], -1e4).softmax(-1) @ mixed
        parts = self.compare(torch.cat([mixed, found, mixed * found, (mixed - found).abs()], dim=-1))
        weights = second[..., None].to(parts.dtype)
        mean = (parts * weights).sum(1) / weights.sum(1).clamp(min=1)
        most = parts.masked_fill(~second[..., None], -1e4).amax(1)
        pair = self.out(torch.cat([mean, most], dim=-1))
        return BaseModelOutput(last_hidden_state=torch.cat([pair[:, None], mixed[:, 1:]], dim=1))


def fact_tokenizer() -> Any:
    """Words as tokens, lower case, in BERT's frame of a pair: `<s> a </s> b </s>` with the types 0 and 1."""
    core = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.normalizer = Lowercase()
    core.pre_tokenizer = Whitespace()
    core.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
