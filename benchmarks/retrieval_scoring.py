"""Scores of all pairs of texts and clips by global and local interaction, and their ranks both ways, on one thread.

    python benchmarks/retrieval_scoring.py
    python benchmarks/retrieval_scoring.py --clips 1000 --plain

Seconds are processor time of the one thread, peak memory is the process's, features included. Features are random: 12 frames and 8 concepts of width 512 a clip, a pooled vector and 8 concepts a text. `--plain` times the
form that makes a weighted clip vector a pair, too, and compares the scores.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

from coalign.measures.retrieval import match_ranks
from coalign.video.retrieval.interaction import (
    ClipFeatures,
    TextFeatures,
    global_similarity,
    local_similarity,
    score,
)
from coalign.video.retrieval.ranking import best_columns


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--plain", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    count, width = given.clips, given.width

    def concepts() -> torch.Tensor:
        drawn = torch.randn(count, given.queries, width, generator=draw)
        return drawn.div_(drawn.norm(dim=-1, keepdim=True))

    texts = TextFeatures(torch.randn(count, width, generator=draw), concepts())
    frames = torch.randn(count, given.frames, width, generator=draw)
    clips = ClipFeatures(frames, torch.ones(count, given.frames), concepts())
    started = time.process_time()
    scores = score(texts, clips)
    scored = time.process_time()
    # a text's clip is its own row: pairs on the diagonal
    found = [match_ranks(one.numpy()) for one in (scores, scores.T)]
    best = best_columns(scores, 5)
    ended = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{count:,} x {count:,}: scores {scored - started:.1f} s, ranks both ways and the best five {ended - scored:.1f} s, "
        f"peak {peak:.2f} GiB, mean rank {found[0].mean():.0f} of {len(best)}"
    )
    if given.plain:
        started = time.process_time()
        with torch.inference_mode():
            parts = [
                global_similarity(texts.pooled, frames[at : at + 10], clips.mask[at : at + 10])
                for at in range(0, count, 10)
            ]
            assert texts.concepts is not None
            assert clips.concepts is not None
            plain = torch.cat(parts, 1) + 0.5 * local_similarity(texts.concepts, clips.concepts)
        print(
            f"plain: {time.process_time() - started:.1f} s, largest difference {(plain - scores).abs().max():.1e}"
        )


if __name__ == "__main__":
    main()
