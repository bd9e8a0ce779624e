"""Tiny models that write together, and the plain way to ask them: every question computes the whole text anew."""

from __future__ import annotations

from typing import Any

import torch

from coalign.decoding.collaboration.cached_speakers import MOST_PARTS
from coalign.decoding.collaboration.speakers import Chunk, Speaker, Token
from coalign.models.generation.endings import stop_token_ids
from coalign.models.generation.growing_text import TokenTexts
from tests.data.tokenizers import CHATML, byte_tokenizer, metaspace_tokenizer
from tests.models.tiny import make_model
from tests.preference.tiny_chat import tiny_tokenizer

LETTERS = "thequickbrownfxjmpsvlazydg \n.é"
PLACES = 1024
TOKENIZERS = {
    "words": lambda: byte_tokenizer(CHATML),
    "metaspace": metaspace_tokenizer,
    "bytes": tiny_tokenizer,
}


def make_pair(kind: str, seed: int, architecture: str = "llama", **changes: Any) -> tuple[Any, Any]:
    """A random model that writes letters, spaces and line breaks, sometimes ends, and does not fall into a loop (what
    it prefers differs from place to place); and a tokenizer."""
    tokenizer: Any = TOKENIZERS[kind]()
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": None}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 1024, **ids, **changes}
    model = make_model(architecture, seed=seed, dtype=torch.float64, scale=3.0, **sizes)
    bias = torch.full((len(tokenizer),), -30.0, dtype=torch.float64)
    for token in range(len(tokenizer)):
        text = TokenTexts(tokenizer, tokenizer("a")["input_ids"], frozenset()).push(token) or ""
        if text and set(text) <= set(LETTERS):
            bias[token] = 2.0 if text == " " else 1.0 * text.startswith(" ")
    bias[tokenizer.eos_token_id] = 0.0
    noise = torch.randn(
        PLACES, len(tokenizer), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )

    def hook(_: Any, __: Any, inputs: dict[str, Any], output: Any) -> Any:
        ids = inputs["input_ids"]
        places = inputs.get("position_ids", torch.arange(ids.shape[1]).expand_as(ids))
        kept = output.logits.shape[1]
        output.logits = 0.5 * output.logits + bias + 2.5 * noise[places[:, -kept:]]
        return output

    model.register_forward_hook(hook, with_kwargs=True)
    return model, tokenizer


def plain_speaker(model: Any, tokenizer: Any, prompt: str, alternatives: int = 0) -> Speaker:
    """Greedy; tokenises and computes prompt and text from the start for every token."""
    stops = stop_token_ids(model, tokenizer)
    special = frozenset(tokenizer.all_special_ids)

    def text_of(token: int) -> str:
        anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
        return TokenTexts(tokenizer, anchor, special).push(token) or ""

    @torch.inference_mode()
    def speak(text: str, count: int) -> Chunk:
        ids = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
        texts, tokens, lowest, taken = TokenTexts(tokenizer, ids, special), [], 1.0, 0
        while True:
            probs = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
            top = int(probs.argmax())
            if top in stops:
                return Chunk(tuple(tokens), stopped=True)
            ids, taken, lowest = [*ids, top], taken + 1, min(lowest, float(probs[top]))
            added = texts.push(top)
            if added is not None:
                best = probs.topk(alternatives)
                pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                tokens.append(Token(added, lowest, tuple((text_of(one), prob) for one, prob in pairs)))
                lowest = 1.0
                if taken >= count:
                    return Chunk(tuple(tokens))
            elif taken >= count + MOST_PARTS:
                return Chunk(tuple(tokens))

    return speak
