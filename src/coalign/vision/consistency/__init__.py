"""Consistency models: schedules, losses, sampling and training."""
