"""Several checkpoints of one model, merged into one."""
