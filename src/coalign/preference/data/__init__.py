"""Records that systems of this room make: goals, votes, solutions, parts."""
