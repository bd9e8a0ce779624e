"""Generation back ends: local, vLLM, OpenAI-compatible endpoints."""
