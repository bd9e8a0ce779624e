"""Pictures and clips as data: decoded to the same pixels whichever way they come, with every conversion counted."""
