"""Commands from a file of records or texts to another: look at it, generate, score, judge."""
