"""Making table annotations canonical: fixes that only merge, and reasons to reject."""
