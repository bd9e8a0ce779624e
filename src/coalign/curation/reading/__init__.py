"""What passages do to a reader: which of them help it, a reranker that knows, and a reader that learns from it."""
