"""Pruning: from a recipe to a plan and its curve."""
