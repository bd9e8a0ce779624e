"""Small worlds in which a paper's claim can be checked in minutes, and what every check shares."""
