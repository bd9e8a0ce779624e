"""Models that call tools: what may be called, how a model is asked, and the loop of calls and observations."""
