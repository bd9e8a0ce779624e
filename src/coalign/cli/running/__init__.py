"""Commands that run a method, check its claim, or say what there is to run."""
