"""Numbers and texts to numbers: statistics, agreement, text metrics. Imports no torch."""
