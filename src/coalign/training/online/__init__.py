"""Learning from responses that are sampled while training goes on: the methods of reinforcement learning as tasks."""
