"""All that the index tool knows of sessions."""
