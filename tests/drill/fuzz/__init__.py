"""Input that nobody expects, for everything that reads: what is refused is told in a line, what is taken is counted."""
