"""Behaviour under two tiers, answers that are said to be used for training and others: prompts, turns, labels, figures, a self-test."""
