"""Reward models, transforms, ensembles, verifiers, policy-gradient learning."""
