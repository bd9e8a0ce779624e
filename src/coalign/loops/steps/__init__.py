"""Steps of pipelines: their kinds, the passes in which they work, and the usual ones."""
