"""Two models that write one text."""
