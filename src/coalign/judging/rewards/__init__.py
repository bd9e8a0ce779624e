"""The reward language: names, weights and mixtures of reward models, verifiers and judges."""
