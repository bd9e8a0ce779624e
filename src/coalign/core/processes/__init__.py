"""Child processes: workers that answer requests within a time limit, and a sandbox for code that nobody vouches for."""
