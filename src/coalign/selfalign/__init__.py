"""The loop engine and the systems that make their own data."""
