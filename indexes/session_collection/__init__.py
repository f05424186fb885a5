"""All that the index tool knows of the session collection beside its declared indexes."""
