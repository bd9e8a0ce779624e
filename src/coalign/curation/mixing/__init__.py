"""What methods share that choose how much of each domain is learnt from."""
