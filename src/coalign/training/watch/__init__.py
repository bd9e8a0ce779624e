"""What a training tells while it runs: plan, progress, warnings."""
