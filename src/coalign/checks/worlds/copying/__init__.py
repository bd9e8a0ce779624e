"""The world of copying and what was made of it: marks, judges, thumbs, solutions, mixed quality."""
