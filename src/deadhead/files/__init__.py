"""Files: atomic writing and bounded reading."""
