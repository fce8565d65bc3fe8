"""Data: rows, formats, splits, batches and prompts, from whatever a user has."""
