"""Given records under the default model: reading, scoring, short trainings, and what is measured on them."""
