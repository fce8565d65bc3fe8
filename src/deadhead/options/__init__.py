"""Options: each is one field of a settings dataclass, from which everything else derives."""
