"""Models: where a model keeps its attention heads, and how they are hooked."""
