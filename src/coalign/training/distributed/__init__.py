"""Training beyond one process: recipes, models in parts, and what watches over a group of processes."""
