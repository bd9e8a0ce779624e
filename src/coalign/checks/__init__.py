"""Small worlds in which a paper's claim can be checked in minutes, and the verdict's rules."""
