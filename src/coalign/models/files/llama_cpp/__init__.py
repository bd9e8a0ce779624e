"""GGUF, the file of llama.cpp and what is built on it: models, tokenizers and adapters through the `gguf` library."""
