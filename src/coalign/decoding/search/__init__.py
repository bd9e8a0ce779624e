"""Search under a reward: best-of-n, lookahead."""
