"""Model folders: defaults, conversion, loading, saving."""
