"""Nudging with kept caches against the plain loop of two models that computes prompt and text anew for every question.

    python benchmarks/nudging.py --threads 1                  # SmolLM2-135M-Instruct with and without its template

One prompt at a time on both sides, greedy, in float32. Sides alternate (A B A B) in one process. The plain loop asks
what the published code asks: a chunk of 16 tokens from the aligned model, then the base model after one word more at a
time, then further chunks; each question is a `model.generate` call on the whole text. The third and fourth columns are
what it takes to decode an answer of the same length with each model alone (a `generate` call of the same number of
tokens); their sum is what both models cost. Then all prompts together: the time per prompt when many answers are
written at a time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from coalign.decoding.collaboration.cached_speakers import MOST_PARTS, CachedSpeaker, converse
from coalign.decoding.collaboration.guided import BASE, NUDGING, Guided, Settings, guide
from coalign.decoding.collaboration.speakers import Chunk, Conversation, Speaker, Token, hold
from coalign.decoding.collaboration.two_prompts import PromptOptions, aligned_prompt, base_prompt
from coalign.models.generation.endings import stop_token_ids
from coalign.models.generation.growing_text import TokenTexts

QUESTIONS = (
    "Why do ships float although steel sinks?",
    "Tell me how bread is made, from the field to the table.",
    "What should a beginner know about chess openings?",
    "Describe a walk through an old town in the rain.",
    "How do bees find their way back to the hive?",
    "Explain what a rainbow is to a child.",
)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default", help="base model: anything that coalign loads")
    parser.add_argument("--nudging-model", help="the aligned side; by default the same weights")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--gamma", type=float, default=0.4)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="cpu", help="cpu: processor seconds, for busy machines"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    clock = CLOCKS[args.clock]

    pairs = {BASE: load(args.model), NUDGING: load(args.nudging_model or args.model)}
    settings = Settings(gamma=args.gamma, max_length=args.max_new_tokens)
    speakers = {side: CachedSpeaker(*pair) for side, pair in pairs.items()}
    length = speakers[BASE].length
    options = PromptOptions()
    prompts = [
        {
            BASE: base_prompt(question, options),
            NUDGING: aligned_prompt(pairs[NUDGING][1], question, options),
        }
        for question in QUESTIONS[: args.prompts]
    ]
    print(
        f"{pairs[BASE][0].num_parameters() / 1e6:.0f} M and {pairs[NUDGING][0].num_parameters() / 1e6:.0f} M parameters, "
        f"{torch.get_num_threads()} threads, {args.clock} seconds"
    )
    print(
        f"{'':10}{'tokens':>8}{'nudged':>8}{'coalign':>10}{'plain':>10}{'ratio':>8}{'base+small':>12}{'overhead':>10}"
    )
    ratios, overheads, alone = [], [], []
    warm = replace(settings, max_length=8)
    cached(speakers, warm, length, prompts[:1], 1)
    plainly(pairs, warm, length, prompts[0])
    for _ in range(args.repeat):
        for name, prompt in enumerate(prompts):
            ours, answer = timed(clock, lambda p=prompt: cached(speakers, settings, length, [p], 1)[0])
            theirs, plain = timed(clock, lambda p=prompt: plainly(pairs, settings, length, p))
            if answer != plain:
                raise SystemExit(f"the answers differ:\n{answer.text!r}\n{plain.text!r}")
            tokens = length("".join(answer.rounds))
            both = sum(
                timed(clock, lambda s=side, p=prompt, n=tokens: decode(pairs[s], p[s], n))[0]
                for side in pairs
            )
            ratios.append(theirs / ours)
            overheads.append(ours / both)
            alone.append(ours)
            nudged = sum(length(one.nudge) for one in answer.turns) / max(tokens, 1)
            print(
                f"prompt {name + 1:<3}{tokens:>8}{nudged:>8.0%}{ours:>10.2f}{theirs:>10.2f}{ratios[-1]:>8.2f}"
                f"{both:>12.2f}{overheads[-1]:>10.2f}",
                flush=True,
            )
    print(f"plain / coalign: median {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
    print(
        f"coalign / both models' decoding: median {statistics.median(overheads):.2f} [{min(overheads):.2f}, {max(overheads):.2f}]"
    )
    if len(prompts) > 1:
        together = [
            timed(clock, lambda: cached(speakers, settings, length, prompts, len(prompts)))[0]
            for _ in range(args.repeat)
        ]
        one_by_one = sum(alone) / args.repeat
        print(
            f"{len(prompts)} prompts together: {one_by_one / statistics.median(together):.2f} times as fast as one by one"
        )


def load(name: str) -> tuple[Any, Any]:
    from coalign.models.files.loading import load_model, load_tokenizer
    from coalign.models.options import ModelOptions

    return load_model(ModelOptions(model=name, dtype="float32"), training=False), load_tokenizer(name)


def timed(clock: Callable[[], float], work: Callable[[], Any]) -> tuple[float, Any]:
    started = clock()
    result = work()
    return clock() - started, result


def cached(
    speakers: dict[str, CachedSpeaker],
    settings: Settings,
    length: Any,
    prompts: list[dict[str, str]],
    rows: int,
) -> list[Guided]:
    talks = [Conversation(guide(settings, length), prompt, (n, 0)) for n, prompt in enumerate(prompts)]
    return converse(talks, speakers, rows=rows)


def plainly(pairs: Any, settings: Settings, length: Any, prompt: dict[str, str]) -> Guided:
    speakers = {side: plain_speaker(*pairs[side], prompt[side]) for side in pairs}
    return hold(guide(replace(settings, window=1), length), speakers)


def plain_speaker(model: Any, tokenizer: Any, prompt: str) -> Speaker:
    """A chunk by `model.generate` on prompt and text; nothing is kept between questions."""
    stops = stop_token_ids(model, tokenizer)
    special = frozenset(tokenizer.all_special_ids)

    @torch.inference_mode()
    def speak(text: str, count: int, spare: int = 0) -> Chunk:
        ids = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
        made = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=count + spare,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=stops[0],
            output_logits=True,
            return_dict_in_generate=True,
        )
        new = made.sequences[0, len(ids) :].tolist()
        probs = [(one[0].float().amax() - one[0].float().logsumexp(-1)).exp().item() for one in made.logits]
        texts, tokens, lowest = TokenTexts(tokenizer, ids, special), [], 1.0
        for taken, (token, prob) in enumerate(zip(new, probs, strict=True), 1):
            if token in stops:
                return Chunk(tuple(tokens), stopped=True)
            piece, lowest = texts.push(token), min(lowest, prob)
            if piece is not None:
                tokens.append(Token(piece, lowest))
                lowest = 1.0
                if taken >= count:
                    return Chunk(tuple(tokens))
        # The chunk ends inside a character, which is kept whole.
        return Chunk(tuple(tokens)) if spare else speak(text, count, MOST_PARTS)

    return speak


@torch.inference_mode()
def decode(pair: Any, prompt: str, count: int) -> None:
    """So many tokens of one model, with its cache."""
    model, tokenizer = pair
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )


if __name__ == "__main__":
    main()
