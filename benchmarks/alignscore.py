"""Scoring long documents against the plain pairwise loop: same weights, same tokenizer, same scores.

    python benchmarks/alignscore.py --threads 1                       # encoder of MiniLM's size, every sentence its own
    python benchmarks/alignscore.py --threads 1 --shared 0.5 --claims 4   # claims of a document share half of their sentences
    python benchmarks/alignscore.py --threads 1 --size base --documents 4 --groups 4

The loop is that of the published implementation: one claim at a time, every chunk with every sentence in batches of 32
padded to 512 tokens; attention that writes its scores out (there is no other in the versions of torch and Transformers that
it asks for), and the masked language model's head computed at every token (its forward pass has it, nothing reads it).
`--loop fused` gives it PyTorch's fused attention, `--loop plain` leaves the head out as well.

Weights are random, RoBERTa's own vocabulary of 50,265 rows; the tokenizer is that of the default encoder, documents are
sentences of drawn words. Both sides alternate group by group (A B A B) in one process; figures are processor time, medians.
Printed too are the tokens on both sides and the ratio of multiplications, which is what equally fast kernels would give.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from coalign.evaluation.factuality.functions import headed_scorer
from coalign.evaluation.factuality.model import PairClassifier, new_encoder
from coalign.evaluation.factuality.scorer import ClaimScorer, aggregate
from coalign.models.files.loading import load_tokenizer

SIZES = {"minilm": (384, 6, 12, 1536), "base": (768, 12, 12, 3072)}
VOCABULARY = (
    "the a of and to in for with on at by from its their this that one two three new old long first last council river "
    "engine winter report minister hospital budget agreement researchers yesterday according announced expected increase "
    "infrastructure unemployment pharmaceutical investigation spokesperson commissioner Wellington Guadalajara Reykjavik "
    "approximately nevertheless photosynthesis archaeological municipality amendments negotiators quarterly shareholders "
    "said will was were has been would could after before between during against more than about under over 14 2019 370"
)
WORDS = VOCABULARY.split()


def sentence(draw: random.Random) -> str:
    words = draw.choices(WORDS, k=draw.randint(12, 28))
    return " ".join([words[0].capitalize(), *words[1:]]) + "."


def corpus(
    documents: int, claims: int, sentences: int, shared: float, seed: int
) -> list[tuple[str, list[str]]]:
    """Documents of 500 to 1,600 words, each with claims of so many sentences."""
    draw = random.Random(seed)
    made = []
    for _ in range(documents):
        words, body = draw.randint(500, 1600), []
        while sum(len(one.split()) for one in body) < words:
            body.append(sentence(draw))
        common = [sentence(draw) for _ in range(sentences)]
        texts = [
            " ".join(common[j] if j < shared * sentences else sentence(draw) for j in range(sentences))
            for _ in range(claims)
        ]
        made.append((" ".join(body), texts))
    return made


class Loop:
    """The plain pairwise loop."""

    def __init__(self, metric: ClaimScorer, model: PairClassifier, tokenizer: object, kind: str) -> None:
        self.metric, self.model, self.tokenizer = metric, model, tokenizer
        width, vocabulary = model.encoder.config.hidden_size, model.encoder.config.vocab_size
        if kind == "published":
            self.model = PairClassifier(
                AutoModel.from_config(model.encoder.config, attn_implementation="eager")
            ).eval()
            self.model.load_state_dict(model.state_dict())
        self.head = (
            nn.Sequential(
                nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, vocabulary)
            )
            if kind != "plain"
            else None
        )

    @torch.no_grad()
    def score(self, context: str, claim: str) -> float:
        parts = self.metric.parts(context, claim)
        pairs, scores = parts.pairs(), []
        for start in range(0, len(pairs), 32):
            first, second = zip(*pairs[start : start + 32], strict=True)
            inputs = self.tokenizer(  # type: ignore[operator]
                list(first), list(second), truncation="only_first", padding="max_length", max_length=512,
                return_tensors="pt",
            )  # fmt: skip
            types = {"token_type_ids": inputs["token_type_ids"]} if "token_type_ids" in inputs else {}
            output = self.model.encoder(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **types
            )
            if self.head is not None:
                self.head(output.last_hidden_state)
            scores.append(self.model.tri_layer(output.pooler_output).softmax(-1)[:, 0])
        matrix = torch.cat(scores).double().reshape(len(parts.chunks), len(parts.sentences))
        return float(aggregate(matrix)[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="minilm")
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--claims", type=int, default=1, help="claims about each document")
    parser.add_argument("--sentences", type=int, default=4, help="sentences of a claim")
    parser.add_argument(
        "--shared", type=float, default=0.0, help="share of sentences that its claims have in common"
    )
    parser.add_argument("--loop", choices=["published", "fused", "plain"], default="published")
    parser.add_argument(
        "--groups", type=int, default=5, help="pairs of runs; each scores its part of the documents"
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model, tokenizer = make_model(args.size)
    metric = ClaimScorer(headed_scorer(model, tokenizer, 512))
    loop = Loop(metric, model, tokenizer, args.loop)
    texts = corpus(args.documents, args.claims, args.sentences, args.shared, args.seed)
    describe(texts, metric, model, args)
    loop.score(texts[0][0][:400], "Warm up. Once.")
    metric.score([texts[0][0][:400]], ["Warm up. Once."])
    ours, theirs, worst = [], [], 0.0
    for group in range(args.groups):
        part = texts[group :: args.groups]
        items = [(context, claim) for context, claims in part for claim in claims]
        started = time.process_time()
        expected = [loop.score(context, claim) for context, claim in items]
        middle = time.process_time()
        found = metric.score([context for context, _ in items], [claim for _, claim in items])
        theirs.append(middle - started)
        ours.append(time.process_time() - middle)
        gap = max(abs(one.score - other) for one, other in zip(found, expected, strict=True))
        worst = max(worst, gap)
        print(
            f"group {group + 1}: loop {theirs[-1]:.1f} s, coalign {ours[-1]:.1f} s, ratio {theirs[-1] / ours[-1]:.2f}, "
            f"largest difference {gap:.1e}",
            flush=True,
        )
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    print(
        f"ratio: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}; largest difference of a score "
        f"{worst:.1e}"
    )
    if worst > 1e-5:
        raise SystemExit("the scores differ by more than 1e-5")


def make_model(size: str) -> tuple[PairClassifier, Any]:
    from transformers import RobertaConfig

    tokenizer: Any = load_tokenizer("default-encoder")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    width, layers, heads, inner = SIZES[size]
    config = RobertaConfig(
        vocab_size=50_265,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = PairClassifier(new_encoder(config)).eval()
    with torch.no_grad():
        model.tri_layer.weight.mul_(20)  # scores that differ
    return model, tokenizer


def describe(
    texts: list[tuple[str, list[str]]], metric: ClaimScorer, model: PairClassifier, args: argparse.Namespace
) -> None:
    parts = [metric.parts(context, claim) for context, claims in texts for claim in claims]
    pairs = [pair for one in parts for pair in one.pairs()]
    lengths = [len(one.ids) for one in metric.function.encoder.encode(list(dict.fromkeys(pairs)))]
    words = sum(len(context.split()) for context, _ in texts) / len(texts)
    chunks = [len(chunk.split()) for one in parts for chunk in one.chunks]
    padded = len(pairs) * multiplications(model, 512, head=args.loop != "plain", whole=True)
    needed = sum(multiplications(model, length, head=False, whole=False) for length in lengths)
    print(
        f"RoBERTa of {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M weights ({args.size}), "
        f"{torch.get_num_threads()} threads; {len(texts)} documents of {words:.0f} words, {args.claims} claims of "
        f"{args.sentences} sentences each; chunks of {statistics.mean(chunks):.0f} words; {len(pairs)} pairs, {len(lengths)} "
        f"distinct, {statistics.mean(lengths):.0f} tokens on average; loop: {args.loop}"
    )
    print(
        f"tokens: {len(pairs) * 512} padded, {sum(lengths)} without padding and repetition, ratio "
        f"{len(pairs) * 512 / sum(lengths):.2f}; multiplications: {padded:.2e} and {needed:.2e}, ratio {padded / needed:.2f}",
        flush=True,
    )


def multiplications(model: PairClassifier, tokens: int, *, head: bool, whole: bool) -> float:
    """Of one pair: in the layers, their attention and the masked head; with `whole` the last layer for every token."""
    config = model.encoder.config
    width, inner = config.hidden_size, config.intermediate_size
    dense, attention = 2 * width**2 + 2 * width * inner, 2 * tokens * width
    keys = 2 * width**2
    layers = config.num_hidden_layers - (not whole)
    last = 0 if whole else tokens * keys + dense + attention
    masked = tokens * (width**2 + width * config.vocab_size) if head else 0
    return layers * tokens * (keys + dense + attention) + last + masked


if __name__ == "__main__":
    main()
