"""Search of pictures by a description: texts made from attributes, two towers, retrieval by identity."""
