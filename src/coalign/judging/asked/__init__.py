"""Judges that are asked in text alone: who is asked, and ratings of several responses in one reply."""
