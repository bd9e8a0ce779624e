"""The machine: versions, devices and caches; time and memory that work took."""
