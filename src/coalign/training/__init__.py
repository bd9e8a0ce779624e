"""One trainer over every objective: accumulation, checkpoints, distributed launch."""
