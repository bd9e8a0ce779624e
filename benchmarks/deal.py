"""Search with lookahead against the same search that encodes every candidate anew.

    python benchmarks/deal.py                    # SmolLM2-135M-Instruct, prompts of 40 to 60 tokens
    python benchmarks/deal.py --context 400      # longer prompts

The other side is the search as it is commonly written over `transformers.generate`: at every step each candidate is a
row of its own, prompt and all, and `generate` (with its own cache) continues the rows of a prompt greedily by the
lookahead. Both sides search the same prompts with the same reward and must find the same tokens; they alternate
(A B A B) in one process, and the figures are medians over the repetitions. `one at a time` gives coalign one prompt a
call, as the other side works; `together` is what a run does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from coalign.data.encoding import encode_prompt
from coalign.decoding.search.generator import SearchGenerator, SearchOptions
from coalign.decoding.search.lookahead import top_tokens
from coalign.judging.rewards.mix import Draft, RewardMix
from coalign.judging.rewards.specs import RewardOptions, build_rewards
from coalign.models.backends.open import open_transformers
from coalign.models.generation.endings import stop_token_ids
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling

WORDS = ("river, dog and bread", "moon, train and chair", "bird, stone and milk", "ship, lamp and horse")
FILLER = "You write for a small newspaper whose readers like short sentences, dry humour and numbers that they can check. "
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--context", type=int, default=0, help="words put before every prompt")
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--lookahead", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: for busy machines, with --threads 1"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    clock = CLOCKS[args.clock]

    base = open_transformers(ModelOptions(model=args.model, device=args.device, dtype="float32"))
    words = " ".join((FILLER * (args.context // 20 + 1)).split()[: args.context])
    prompts: list[Any] = [
        [
            {
                "role": "user",
                "content": f"{words} Write one sentence with the words {WORDS[n % len(WORDS)]}.".strip(),
            }
        ]
        for n in range(args.prompts)
    ]
    rewards = build_rewards(RewardOptions(reward=[f"must_include:{','.join(WORDS).replace(' and ', ',')}"]))
    options = SearchOptions(candidates=args.candidates, lookahead=args.lookahead, reward_weight=10.0)
    sampling = Sampling(max_new_tokens=args.max_new_tokens, temperature=0.0)
    ours = SearchGenerator(base, rewards, options)

    def together() -> list[list[int]]:
        return [one[0].token_ids for one in ours.generate(prompts, sampling)]

    def one_at_a_time() -> list[list[int]]:
        return [ours.generate([one], sampling)[0][0].token_ids for one in prompts]

    def anew() -> list[list[int]]:
        return [encode_every_candidate(base, rewards, one, options, args.max_new_tokens) for one in prompts]

    sides = {"together": together, "one at a time": one_at_a_time, "encoded anew": anew}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.repeat + 1):
        found = {name: timed(side, times[name] if turn else [], clock) for name, side in sides.items()}
        same = len({str(one) for one in found.values()}) == 1
        print(f"turn {turn}: equal tokens on all sides: {'yes' if same else 'no'}", flush=True)
    length = [len(encode_prompt(base.tokenizer, one)) for one in prompts]
    print(
        f"{args.prompts} prompts of {min(length)} to {max(length)} tokens, {args.candidates} candidates, lookahead of "
        f"{args.lookahead}, {args.max_new_tokens} new tokens, {torch.get_num_threads()} threads, {base.model.device}"
    )
    for name in ("together", "one at a time"):
        ratios = [other / one for one, other in zip(times[name], times["encoded anew"], strict=True)]
        print(
            f"{name:14}{statistics.median(times[name]):8.2f} s   encoded anew "
            f"{statistics.median(times['encoded anew']):8.2f} s   ratio {statistics.median(ratios):.2f} "
            f"[{min(ratios):.2f}, {max(ratios):.2f}]"
        )


def timed(
    side: Callable[[], list[list[int]]], times: list[float], clock: Callable[[], float]
) -> list[list[int]]:
    started = clock()
    found = side()
    times.append(clock() - started)
    return found


@torch.inference_mode()
def encode_every_candidate(
    base: TransformersGenerator, rewards: RewardMix, prompt: Any, options: SearchOptions, length: int
) -> list[int]:
    """The search with one beam; nothing is kept from one step to the next."""
    model: Any = base.model
    tokenizer: Any = base.tokenizer
    ends = stop_token_ids(model, tokenizer)
    start, made, total = encode_prompt(tokenizer, prompt), list[int](), 0.0
    while len(made) < length and not (made and made[-1] in ends):
        logits = model(input_ids=torch.tensor([start + made], device=model.device), logits_to_keep=1).logits
        top = top_tokens(logits[:, -1].float(), options.candidates)[0]
        drafts = [[*made, token] for token in top.tokens]
        more = min(options.lookahead, length - len(made) - 1)
        ahead = looked_ahead(model, start, drafts, more, ends)
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in ahead]
        values = rewards([Draft(0, prompt, text) for text in texts])
        rewards.forget()
        scored = [
            (-(total + logp + options.reward_weight * value), draft, logp)
            for draft, logp, value in zip(drafts, top.logps, values, strict=True)
        ]
        _, made, logp = min(scored)
        total += logp
    return made


def looked_ahead(
    model: Any, start: list[int], drafts: Sequence[list[int]], more: int, ends: list[int]
) -> list[list[int]]:
    """Drafts with their greedy continuation."""
    going = [one for one in drafts if one[-1] not in ends]
    if not more or not going:
        return list(drafts)
    ids = torch.tensor([start + one for one in going], device=model.device)
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=more,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )
    found = {
        tuple(one): _until(row[len(start) :], ends) for one, row in zip(going, output.tolist(), strict=True)
    }
    return [found.get(tuple(one), one) for one in drafts]


def _until(ids: list[int], ends: list[int]) -> list[int]:
    for place, one in enumerate(ids):
        if one in ends:
            return ids[: place + 1]
    return ids


if __name__ == "__main__":
    main()
