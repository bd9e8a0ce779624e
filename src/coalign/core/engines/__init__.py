"""Work on many rows, batch by batch, in this process or in several: what an engine is given, what comes back, what is kept."""
