"""Scripts that make the small models of the package, with their data."""
