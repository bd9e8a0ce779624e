"""A corpus through steps that a recipe names: reading, recipes, the run and its report."""
