"""Points in a plane, for models that generate."""
